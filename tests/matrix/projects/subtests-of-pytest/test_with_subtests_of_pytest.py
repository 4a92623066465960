import pytest

SETUP = "echo hello from the guest >/dev/console; nc -lk -p 8080 -e cat &"


@pytest.mark.vmports(8080, setup=SETUP)
def test_words(vm_with_ports, subtests):
    for word in ("one", "two", "three"):
        with subtests.test(word=word):
            vm_with_ports.run(f"echo {word} >>/tmp/words")
            assert word != "two"
    assert vm_with_ports.run("wc -l </tmp/words").stdout.strip() == "3"
