"""What a console's text tells, however a guest writes it."""

from __future__ import annotations

import itertools

import pytest
from folded import folded

from pytest_vmports.vm.console import Console, panic_in

SAID = "Kernel panic - not syncing: "
MIB = 1 << 20


LINES = [
    "{}",
    "[    3.024675] {}",
    "[12345.678901] {}",
    "[    3.024675][    T1] {}",
    "[    3.024675][  C0] {}",
    "\x1b[0m[    3.024675] {}",  # systemd's colours end where the kernel begins
    "\x1b[31m{}\x1b[0m",
    "debian login: [    3.024675] {}",  # a prompt is not a whole line
    "~ # \x1b[6n[    3.024675] {}",
    "[    3.024675] ---[ end {} ]---",  # what a kernel adds when it stays as it is
    "---[ end {} ]---",
]
ENDS = ["", "\n", "\r\n", "\r\r\n", "\nCPU: 0 UID: 0 PID: 1\n"]
BEFORE = ["", "booting\n", "booting\r\n", "\0\xff\x1b[\n"]


@folded("before, line, end", itertools.product(BEFORE, LINES, ENDS))
def test_a_panic_is_found_wherever_a_kernel_writes_it(before, line, end):
    text = before + line.format(f"{SAID}VFS: Unable to mount root fs on (0,0)") + end
    assert panic_in(text) == "VFS: Unable to mount root fs on (0,0)"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f"expected: {SAID}out of memory\n",
        f"/var/log/old:17: {SAID}out of memory",
        f'echo "{SAID}"',
        f"[warning] {SAID}out of memory\n",
        f"[1.2.3] {SAID}out of memory\n",
        "Kernel panic\n",
        "Kernel panic - not sync",
        "kernel panic - not syncing: \n",
    ],
)
def test_what_no_kernel_writes_is_no_panic(text):
    assert panic_in(text) is None


def test_the_first_panic_is_the_one():
    text = f"[ 1.0] {SAID}first\n[ 1.1] {SAID}second\n"
    assert panic_in(text) == "first"


@pytest.mark.parametrize("said", ["", " ", "\x1b[0m"])
def test_a_panic_that_says_nothing_is_one(tmp_path, said):
    console = Console(tmp_path / "console.log")
    console.path.write_text(f"[    1.000000] {SAID.strip()}{said}\n")
    assert console.panic() == ""


def test_a_panic_behind_a_quoted_one_is_found():
    text = f"the log of yesterday: {SAID}nothing[    1.000000] {SAID}in earnest\n"
    assert panic_in(text) == "in earnest"


HOSTILE = {
    "megabytes in one line": "x" * 3 * MIB,
    "lines": "x\n" * MIB,
    "open brackets": "[" * MIB,
    "stamps without end": "[ 1.000000] " * (MIB // 12),
    "digits": "[" + "1" * MIB,
    "blanks": "[" + " " * MIB,
    "escapes": "\x1b]" * (MIB // 2),
    "begun over and over": SAID * (MIB // len(SAID)),
}


@pytest.mark.parametrize("noise", HOSTILE.values(), ids=HOSTILE)
def test_a_panic_after_much_noise_is_found(tmp_path, noise):
    """Nor does the noise alone make one."""
    console = Console(tmp_path / "console.log")
    console.path.write_text(f"x {noise}\n")
    assert console.panic() is None
    with console.path.open("a") as file:
        file.write(f"\n[    9.000000] {SAID}at last\n")
    assert console.panic() == "at last"


def test_a_long_reason_is_cut():
    assert panic_in(f"{SAID}{'x' * MIB}\n") == "x" * 500


def test_a_look_at_the_end_does_not_take_its_begin_for_a_lines(tmp_path):
    console = Console(tmp_path / "console.log")
    quoted = f"{SAID}of yesterday\n"
    console.path.write_text("x" * 100 + quoted + "x" * (MIB - len(quoted)))
    assert console.panic() is None


def test_a_panic_behind_a_line_without_end_is_found(tmp_path):
    console = Console(tmp_path / "console.log")
    console.path.write_text("x" * 2 * MIB + f"[    1.000000] {SAID}at last\n")
    assert console.panic() == "at last"


@pytest.fixture
def console(tmp_path):
    console = Console(tmp_path / "console.log")
    console.path.write_bytes(f"[    9.000000] {SAID}once\r\n".encode())
    return console


def test_what_was_read_of_a_line_that_is_being_written_is_read_again(console):
    console.path.write_text(f"[    9.000000] {SAID}on")
    assert console.panic() == "on"
    console.path.write_text(f"[    9.000000] {SAID}once\n")
    assert console.panic() == "once"


def test_a_panic_stays_known_when_the_file_is_gone_and_when_much_was_written_since(console):
    assert console.panic() == "once"
    with console.path.open("a") as file:
        file.write("x\n" * 2 * MIB)
    assert console.panic() == "once"
    console.keep()
    console.path.unlink()
    assert console.panic() == "once"


def test_the_console_that_is_kept_tells_what_nobody_had_looked_at(console):
    console.keep()
    console.path.unlink()
    assert console.panic() == "once"


def test_a_console_without_a_file_has_no_panic(tmp_path):
    assert Console(tmp_path / "console.log").panic() is None


def test_the_panic_of_a_template_or_of_a_guest_before_is_not_this_guests(tmp_path, console):
    clone = Console(tmp_path / "clone.log")
    clone.begin_with(f"[    1.000000] {SAID}of the template\n")
    clone.path.write_text("alive\n")
    assert clone.panic() is None

    assert console.panic() == "once"
    console.begin_anew(console.text())
    assert console.panic() is None
    assert SAID in console.text()
    console.path.write_text("alive\n")  # by the next QEMU
    assert console.panic() is None
    assert console.own() == "alive\n"
    assert console.text().endswith("once\nalive\n")


@pytest.mark.parametrize("size", range(len("Kernel"), len(SAID) - 1))
def test_a_panic_that_is_being_written_is_on_its_way(tmp_path, size):
    console = Console(tmp_path / "console.log")
    assert not console.may_be_crashing()
    console.path.write_text(f"booting\n[    3.024675] {SAID[:size]}")
    assert console.may_be_crashing() and console.panic() is None
    console.path.write_text(f"booting\n[    3.024675] {SAID}why\n")
    assert not console.may_be_crashing() and console.panic() == "why"
