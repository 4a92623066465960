"""The device does what it promises, and the kernel has nothing to complain of."""

import re
import signal

import pytest

pytestmark = pytest.mark.vmports

# Every module that is not the kernel's own gets these two.
EXPECTED = ("taints kernel", "module verification failed")


def complaints(vm):
    """Return what the kernel said since the module was loaded that is a warning, or worse."""
    lines = re.findall(r"^<(\d+)>(.*)$", vm.run("dmesg -r").stdout, re.MULTILINE)
    return [
        text
        for level, text in lines
        if int(level) % 8 <= 4 and not any(words in text for words in EXPECTED)
    ]


def ask(vm, text):
    """Write to the device, and read from the same open file."""
    return vm.run("exec 3<>/dev/capitals; cat >&3 && cat <&3", input=text, check=False)


def test_it_answers_in_capitals(vm_with_ports):
    assert ask(vm_with_ports, "hello, kernel").stdout == "HELLO, KERNEL"
    assert complaints(vm_with_ports) == []


def test_each_open_file_has_a_text_of_its_own(vm_with_ports):
    script = """
        exec 3<>/dev/capitals 4<>/dev/capitals
        printf one >&3; printf two >&4
        cat <&4; cat <&3
    """
    assert vm_with_ports.run(script).stdout == "TWOONE"


def test_a_text_that_is_too_long_is_refused_whole(vm_with_ports):
    result = ask(vm_with_ports, "x" * 65)
    assert (result.returncode, result.stdout) == (1, "")
    assert "No space left on device" in result.stderr
    assert complaints(vm_with_ports) == []


def test_it_is_loaded_again_with_another_limit(vm_with_ports):
    vm = vm_with_ports
    vm.run("rmmod capitals && insmod /modules/capitals.ko limit=100")
    assert vm.run("cat /sys/module/capitals/parameters/limit").stdout == "100\n"
    assert ask(vm, "x" * 100).stdout == "X" * 100
    assert complaints(vm) == []


def test_it_leaves_nothing_behind(vm_with_ports):
    vm = vm_with_ports
    vm.run("rmmod capitals")
    assert vm.run("ls /dev/capitals", check=False).returncode != 0
    assert vm.run("cat /proc/modules").stdout == ""
    assert complaints(vm) == []


# Without allow_crash it fails, as a test of yours would: with the kernel's words in its report.
@pytest.mark.vmports(allow_crash=True)
def test_a_module_that_stumbles_is_seen(vm_with_ports):
    vm = vm_with_ports
    vm.run("insmod /modules/faulty.ko")
    reader = vm.run("read line </proc/faulty", check=False)
    assert reader.returncode == -signal.SIGKILL  # by the kernel
    assert "NULL pointer dereference" in vm.console
    assert any("show+0x" in line for line in complaints(vm))  # our function, in the call trace
