def shout(vm, word):
    said = vm.run(f"echo {word}").stdout.strip()
    if said == "quiet":
        return said
    return said.upper()
