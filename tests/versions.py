"""Run the tests in which QEMU's version shows with each other QEMU that Debian serves now.

    .venv/bin/python tests/versions.py                     every release, one after the other
    .venv/bin/python tests/versions.py --suite sid -n 0 -- -x tests/vm/test_vm_udp.py
    .venv/bin/python tests/versions.py --suite sid --shell

What follows ``--`` goes to pytest; files named there are run in place of the list below.
"""

from __future__ import annotations

import argparse
import os
import sys

import debian_chroot
from cached import CannotMakeError

SUITES = ("trixie", "sid")
# Clones, VMs kept ready, snapshots, kept VMs, both wirings, services of the host, folders of the
# host, hardware, and what QEMU says about its command line.
TESTS = tuple(
    f"tests/{'hostile' if name == 'hostile' else 'vm'}/test_vm_{name}.py"
    for name in (
        "template", "standby", "control", "keep", "usernet", "gvproxy", "host_ports", "udp",
        "hostile", "quiet", "share", "window", "hardware",
    )
)  # fmt: skip
# What is slow, and what is the older gvproxy's, shows nothing of QEMU's version that others do not.
# Neither gdb nor what makes a disk for Secure Boot is in there.
CHOSEN = ("-m", "not slow", "-k", "not 081 and not 0.8.1 and not gdb and not secure", *TESTS)
# Debian 12 has none that can be used.
PASST = (
    "-k", "passt", "tests/vm/test_vm_passt.py", "tests/vm/test_vm_tcp.py",
    "tests/vm/test_vm_hardware.py",
    "tests/hostile/test_vm_loopback.py", "tests/hostile/test_vm_allow_network.py",
)  # fmt: skip
ON_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}
VERSIONS = "qemu-system-x86_64 --version | head -n 1; python --version"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", action="append", choices=SUITES, help="only this release")
    parser.add_argument("-n", metavar="WORKERS", default="2", help="xdist's (default: 2)")
    parser.add_argument("--shell", action="store_true", help="a shell in there instead of tests")
    parser.add_argument("arguments", nargs="*", help="for pytest")
    options = parser.parse_args()
    if why := debian_chroot.missing():
        print(f"other versions of QEMU: {'failed' if ON_CI else 'not run'}: {why}", file=sys.stderr)
        return 1 if ON_CI else 0
    files = any(word.startswith("tests/") for word in options.arguments)
    command = ["pytest", "-p", "no:cacheprovider", "-n", options.n, *options.arguments]
    commands = [["bash"]] if options.shell else [[*command, *(() if files else CHOSEN)]]
    if not (options.shell or options.arguments):
        commands.append([*command, *PASST])
    # pytest's 5 is "no tests collected", which a choice of one's own may well lead to.
    good = {0, 5} if options.arguments else {0}
    ended = {suite: _run(suite, commands, good) for suite in options.suite or SUITES}
    for suite, how in ended.items():
        print(f"{suite}: {how or 'passed'}")
    return 1 if any(ended.values()) else 0


def _run(suite: str, commands: list[list[str]], good: set[int]) -> str:
    """Return how it failed, or ``""``."""
    print(f"\n=== {suite}", flush=True)
    try:
        system = debian_chroot.chroot(suite)
    except CannotMakeError as error:
        print(error, file=sys.stderr)
        return "its system could not be made"
    system.run("sh", "-c", VERSIONS)
    codes = [system.run(*command).returncode for command in commands]
    bad = [str(code) for code in codes if code not in good]
    return f"failed (exit code {', '.join(bad)})" if bad else ""


if __name__ == "__main__":
    sys.exit(main())
