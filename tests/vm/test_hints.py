"""What to do about a kernel's panic, where its words tell."""

# ruff: noqa: ISC004 - a console's text stands beside what is said of it
from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_vmports.errors import GuestPanicError
from pytest_vmports.vm import hints
from pytest_vmports.vm.console import Console
from pytest_vmports.vm.failures import Vitals, found

PANIC = "[    1.9] Kernel panic - not syncing: "
MEMORY, BUSYBOX, ROOT = "raise memory", "/bin/busybox", "root=/dev/vda"
# Texts of Linux 6.1 and 6.18, and of the kernel's init/ and mm/ where it was not met here.
SAID = {
    "deadlocked": (f"{PANIC}System is deadlocked on memory\n", MEMORY),
    "nothing to kill": (f"{PANIC}Out of memory and no killable processes...\n", MEMORY),
    "no root after a cut initrd": (
        "[    0.9] Initramfs unpacking failed: write error\r\n"
        f"{PANIC}VFS: Unable to mount root fs on unknown-block(0,0)\r\n",
        MEMORY,
    ),
    "no memory for the initrd": (
        "[    0.9] Initramfs unpacking failed: ZSTD-compressed data: not enough memory\n"
        f"{PANIC}No working init found.  Try passing init= option to kernel.\n",
        MEMORY,
    ),
    "initrd beyond the end": (
        "[    0.0] initrd extends beyond end of memory (0x7ff > 0x7f0)\ndisabling initrd\n"
        f"{PANIC}VFS: Unable to mount root fs on unknown-block(0,0)\n",
        MEMORY,
    ),
    "asked to panic": (
        f"{PANIC}Out of memory: system-wide panic_on_oom is enabled\n", MEMORY,
    ),
    "in the reason": (f"{PANIC}cpu_alloc: not enough free memory\n", MEMORY),
    "no interpreter": (
        "[    1.8] Failed to execute /init (error -2)\n"
        f"{PANIC}No working init found.  Try passing init= option to kernel.\n",
        BUSYBOX,
    ),
    "no interpreter, older": (
        f"{PANIC}Requested init /init failed (error -2).\n", BUSYBOX,
    ),
    "another processor's": (
        "[    1.8] Failed to execute /init (error -8)\n"
        f"{PANIC}Attempted to kill init! exitcode=0x00000100\n",
        BUSYBOX,
    ),
    "no init": (f"{PANIC}No working init found.  Try passing init= option to kernel.\n", BUSYBOX),
    "no root": (f"{PANIC}VFS: Unable to mount root fs on unknown-block(0,0)\n", ROOT),
    "no root device": (
        'VFS: Cannot open root device "vdb" or unknown-block(0,0): error -6\n'
        f'{PANIC}VFS: Unable to mount root fs on "vdb" or unknown-block(0,0)\n',
        ROOT,
    ),
}  # fmt: skip
NO_HINT = {
    "sysrq": f"{PANIC}sysrq triggered crash\n",
    "init died": f"{PANIC}Attempted to kill init! exitcode=0x0000000b\n",
    "a service without memory": f"app: Cannot allocate memory\n{PANIC}sysrq triggered crash\n",
    "a kill that helped": "[    9.1] Out of memory: Killed process 77 (app)\n"
    f"{PANIC}Fatal exception in interrupt\n",
    "an initrd that is odd": "[    0.9] Initramfs unpacking failed: junk at the end\n"
    f"{PANIC}sysrq triggered crash\n",
}


@pytest.mark.parametrize(("console", "word"), SAID.values(), ids=SAID)
def test_a_panic_whose_words_tell_says_what_to_do(console, word):
    assert word in hints.of(console)
    assert hints.of(console).count("\n") == 1


@pytest.mark.parametrize("console", NO_HINT.values(), ids=NO_HINT)
def test_another_panic_gets_no_hint(console):
    assert hints.of(console) == ""


def test_the_hint_is_the_second_line_of_the_error(tmp_path):
    console = Console(tmp_path / "console.log")
    console.path.write_text(SAID["deadlocked"][0])
    qemu = SimpleNamespace(name="QEMU", returncode=0, running=False, output="")
    error = found(Vitals(qemu, (), console, SimpleNamespace(why_ended=lambda: "")))
    assert isinstance(error, GuestPanicError)
    first, second, third = str(error).splitlines()[:3]
    assert first == "the guest's kernel panicked: System is deadlocked on memory"
    assert MEMORY in second
    assert third == "the end of its console:"


def test_a_template_that_ran_short_once_says_nothing_of_a_clone(tmp_path):
    console = Console(tmp_path / "console.log")
    console.begin_with(SAID["nothing to kill"][0])
    console.path.write_text(NO_HINT["sysrq"])
    qemu = SimpleNamespace(name="QEMU", returncode=0, running=False, output="")
    error = found(Vitals(qemu, (), console, SimpleNamespace(why_ended=lambda: "")))
    assert error is not None and error.hint == ""
