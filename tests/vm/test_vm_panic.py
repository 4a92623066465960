"""A test never passes when its guest crashed, and the crash is what its report says first."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import textwrap
from pathlib import Path

import pytest
from vm_helpers import GUEST, SHELL_PORT, WIRINGS, alive, ask_on, until

from pytest_vmports.errors import GuestPanicError, GuestRebootError, MachineDiedError
from pytest_vmports.guests.alpine import find_images
from pytest_vmports.pool import templates
from pytest_vmports.pool.kept import all_kept

# A guest that does what it is told on this port, with nobody there to wait for an answer.
PORT = SHELL_PORT
PANIC, HOW = "echo c >/proc/sysrq-trigger", "sysrq triggered crash"
REBOOT, CRASH = "reboot -f", "echo b >/proc/sysrq-trigger"
# Of what a lost race would pass now and then.
ROUNDS = range(2)


@pytest.fixture(scope="module", params=["usernet", "gvproxy_081", "gvproxy_089"])
def wiring(request, qemu_binary):
    """Return the settings of each wiring in turn."""
    if request.param == "usernet":
        return {}
    return {"allow_network": True, "gvproxy": str(request.getfixturevalue(request.param))}


@pytest.fixture(scope="module", params=WIRINGS)
def either(request, qemu_binary, gvproxy_089):
    """Likewise, where one gvproxy is as good as the other."""
    return {**WIRINGS[request.param], "gvproxy": str(gvproxy_089)}


@pytest.fixture
def make(vm_factory):
    """Return a function that makes a VM of these settings, which does what it is told."""

    def made(**settings):
        return vm_factory(ports=[PORT], setup=GUEST, **settings)

    return made


@pytest.fixture(scope="module")
def hangs(qemu_binary):
    """Return the settings of a guest whose kernel stays as it is when it has panicked."""
    kernel, initrd = find_images()
    return {"kernel": str(kernel), "initrd": str(initrd), "append": "panic=0"}


def tell(vm, command):
    with vm.connect(PORT) as connection:
        connection.sendall(f"{command}\n".encode())


def ends(vm, command):
    """Tell a guest to do what ends it, and return when QEMU has ended."""
    qemu = vm.pids["QEMU"]
    tell(vm, command)
    until(lambda: not alive(qemu), 60, lambda: vm.console)


def hung(vm):
    """Let a guest panic whose QEMU stays."""
    tell(vm, PANIC)
    until(lambda: "---[ end Kernel panic" in vm.console, 60, lambda: vm.console)
    assert alive(vm.pids["QEMU"])


def lives(vm):
    return vm.run("echo $(uname)").stdout == "Linux\n"


def raised(ask):
    """Return what a call raises."""
    with pytest.raises(MachineDiedError) as caught:
        ask()
    return caught.value


def failing(block, use):
    """Return what the block of a VM raises at its end, or before."""
    with pytest.raises(MachineDiedError) as caught, block as vm:
        use(vm)
    return caught.value


def assert_panic(error):
    __tracebackhide__ = True
    assert type(error) is GuestPanicError, str(error)
    assert (error.panic, error.program) == (HOW, "QEMU")
    assert str(error).startswith(f"the guest's kernel panicked: {HOW}\n")
    assert "Call Trace" in error.console


def test_a_panic_during_a_test_fails_it_at_the_end(make, wiring):
    assert_panic(failing(make(**wiring), lambda vm: ends(vm, PANIC)))


@pytest.mark.parametrize("number", ROUNDS)
def test_a_panic_just_before_the_end_fails_it_too(make, wiring, number):
    def use(vm):
        tell(vm, PANIC)
        until(lambda: "Kernel panic" in vm.console, 60, lambda: vm.console)

    assert_panic(failing(make(**wiring), use))


@pytest.mark.parametrize("number", ROUNDS)
def test_whatever_is_asked_of_a_guest_while_it_panics_raises_the_panic(make, wiring, number):
    """QEMU hangs up its channels, gvproxy ends, and only then QEMU is seen to have ended."""

    with contextlib.suppress(GuestPanicError), make(**wiring) as vm:
        if number == 0:
            assert_panic(raised(lambda: vm.run(PANIC)))
        else:
            tell(vm, PANIC)
            assert_panic(raised(lambda: ask_on(vm)))


def test_whatever_is_asked_of_a_guest_that_has_panicked_raises_the_panic(make, tmp_path):
    (tmp_path / "file").write_text("x")

    def use(vm):
        moment = vm.snapshot()
        ends(vm, PANIC)
        asked = [
            vm.reset, lambda: vm.restore(moment), vm.snapshot, vm.pause, vm.resume, vm.shutdown,
            lambda: vm.run("true"), lambda: vm.put(tmp_path / "file", "/root/"),
            lambda: vm.get("/root/file", tmp_path), lambda: vm.expose(9090),
            lambda: vm.connect(PORT),
        ]  # fmt: skip
        for ask in asked:
            assert_panic(raised(ask))
        assert HOW in vm.console

    assert_panic(failing(make(), use))


@pytest.mark.slow_as("gvproxy")
def test_a_panic_in_the_setup_is_the_error(boot, wiring):
    assert_panic(failing(boot(PORT, setup=PANIC, **wiring), lambda _: None))


def test_a_kernel_without_the_memory_to_boot_says_what_to_raise(boot):
    kernel, initrd = find_images()  # named like anybody's, so that nothing is known of them
    guest = {"kernel": str(kernel), "initrd": str(initrd), "memory": 64}
    error = failing(boot(PORT, setup=GUEST, **guest), lambda _: None)
    assert type(error) is GuestPanicError, str(error)
    # Which of them depends on how far the initrd was unpacked.
    assert any(words in error.panic for words in ("Unable to mount root", "deadlocked on memory"))
    assert "raise memory" in str(error).splitlines()[1]


def test_a_panic_while_a_template_is_saved_is_the_error(make, monkeypatch):
    """And no reason to boot from cold, as a QEMU that cannot save is."""

    def save(machine, folder):
        with contextlib.suppress(MachineDiedError):
            machine.shell.execute(PANIC, timeout=60, input=b"")
        real(machine, folder)

    real = templates.save
    monkeypatch.setattr(templates, "save", save)
    assert_panic(failing(make(memory=250), lambda _: None))


@pytest.mark.slow
def test_a_kernel_that_stays_as_it_is_has_panicked_all_the_same(make, hangs):
    def use(vm):
        hung(vm)
        for ask in (lambda: vm.run("true", timeout=None), vm.reset, vm.shutdown):
            assert_panic(raised(ask))

    error = failing(make(**hangs), use)
    assert_panic(error)
    assert "still runs" in error.returncode


def test_a_guest_that_hangs_in_a_panic_is_waited_for_no_longer(boot, hangs):
    booting = boot(PORT, setup=PANIC, boot_timeout=10_000, **hangs)
    assert_panic(failing(booting, lambda _: None))


@pytest.mark.slow_as("gvproxy")
def test_a_wanted_crash_fails_nothing_and_a_reset_or_restore_goes_on(make, either):
    with make(allow_crash=True, **either) as vm:
        moment = vm.snapshot()
        for go_on in (lambda: vm.restore(moment), vm.reset):
            ends(vm, PANIC)
            assert HOW in vm.console
            assert_panic(raised(lambda: vm.run("true")))
            go_on()
            assert lives(vm)
        # It belongs to what was before.
        ends(vm, "poweroff -f")
        assert type(raised(lambda: vm.run("true"))) is MachineDiedError


def test_a_wanted_crash_may_be_the_last_thing_a_guest_does(make, either):
    with make(allow_crash=True, **either) as vm:
        ends(vm, PANIC)


@pytest.mark.slow
def test_a_wanted_crash_may_leave_the_kernel_as_it_is(make, hangs):
    with make(allow_crash=True, **hangs) as vm:
        hung(vm)
        vm.reset()
        assert lives(vm)
        hung(vm)


@pytest.mark.parametrize("command", ["poweroff", "poweroff -f"])
def test_a_guest_that_powers_off_is_nobodys_failure(make, wiring, command):
    with make(**wiring) as vm:
        ends(vm, command)
        assert raised(lambda: vm.run("true")).returncode == "0 (the guest powered off)"


@pytest.mark.parametrize("command", [REBOOT, CRASH])
def test_a_guest_that_reboots_fails_its_test(make, wiring, command):
    def use(vm):
        ends(vm, command)
        assert type(raised(lambda: vm.run("true"))) is GuestRebootError

    error = failing(make(**wiring), use)
    assert type(error) is GuestRebootError and "on_reboot = allow" in str(error)
    assert error.returncode == "0 (the guest rebooted)"


def test_a_guest_that_may_crash_may_reboot(make, either):
    with make(allow_crash=True, **either) as vm:
        ends(vm, REBOOT)


@pytest.mark.slow
def test_a_reboot_is_not_lost_by_a_reset(make):
    def use(vm):
        ends(vm, "reboot")
        assert type(raised(vm.reset)) is GuestRebootError

    assert type(failing(make(), use)) is GuestRebootError


def test_words_of_a_panic_in_another_programs_output_are_none(make):
    with make() as vm:
        vm.run("echo 'log: Kernel panic - not syncing: of yesterday' >/dev/console")
        until(lambda: "yesterday" in vm.console, 60, lambda: vm.console)
        assert lives(vm)


def end_process(vm, program, how):
    pid, forward = vm.pids[program], vm[PORT].address

    def ended():
        # gvproxy looks at a signal only when the guest has sent its next frame: let it answer.
        with contextlib.suppress(OSError):
            socket.create_connection(forward, timeout=1).close()
        return not alive(pid)

    os.kill(pid, how)
    until(ended, 60, f"{program} ends")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_qemu_that_somebody_ended_fails_the_test(make, either, how):
    """At SIGTERM it ends with 0, as when its guest powers off."""

    def use(vm):
        end_process(vm, "QEMU", how)
        raised(vm.reset)  # which would make it forgotten

    error = failing(make(**either), use)
    assert error.program == "QEMU"
    assert "signal" in error.returncode


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.slow_as("0.8.1-15")
def test_a_gvproxy_that_ended_while_qemu_did_not_fails_the_test(make, any_gvproxy, how):
    """At SIGTERM it ends with 0, as when QEMU has hung up."""

    block = make(allow_network=True, gvproxy=str(any_gvproxy))
    assert failing(block, lambda vm: end_process(vm, "gvproxy", how)).program == "gvproxy"


SUITE = """
    import pytest
    from vm_helpers import alive, until

    pytestmark = pytest.mark.vmports({port}, setup={setup!r}, **{settings})

    @pytest.fixture
    def tell(vm_with_ports):
        def tell(command):
            qemu = vm_with_ports.pids["QEMU"]
            with vm_with_ports.connect({port}) as connection:
                connection.sendall(command.encode() + b"\\n")
            until(lambda: not alive(qemu), 60, lambda: vm_with_ports.console)
        return tell

    def test_panics(tell):
        tell({panic!r})

    def test_panics_and_fails(tell):
        tell({panic!r})
        assert "the answer" == "another"

    @pytest.mark.vmports(allow_crash=True)
    def test_wants_that(tell):
        tell({panic!r})

    def test_powers_off(tell):
        tell("poweroff -f")

    def test_reboots(tell):
        tell("reboot -f")

    def test_does_nothing(vm_with_ports):
        print("ORIGIN", vm_with_ports.origin)
"""


@pytest.fixture
def inner(pytester, qemu_binary, shared_templates, monkeypatch):
    """Return a function that runs a suite, which finds the helpers of this one."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("COLUMNS", "200")  # or the last lines' errors are cut

    def run(suite, *words, settings=None):
        text = suite.format(port=PORT, setup=GUEST, panic=PANIC, settings=settings or {})
        pytester.makepyfile(textwrap.dedent(text))
        return pytester.runpytest_subprocess("-p", "no:randomly", *words)

    return run


def test_the_panic_is_what_the_report_says_first(inner, gvproxy_081):
    """From a worker, whose errors come by way of the controller.

    What is told of it is the same with any wiring: the tests above compare the errors.
    """
    wiring = {"allow_network": True, "gvproxy": str(gvproxy_081)}
    result = inner(SUITE, "-rfE", "-n1", settings=wiring)
    result.assert_outcomes(passed=5, failed=1, errors=3)
    said = f"GuestPanicError: the guest's kernel panicked: {HOW}*"
    result.stdout.fnmatch_lines_random(
        [
            f"ERROR *::test_panics - *{said}",
            f"ERROR *::test_panics_and_fails - *{said}",
            "FAILED *::test_panics_and_fails - *the answer*",
            "*VM: the guest's kernel panicked*",
            f"| {HOW}",
            f"* QEMU ended with 0 (kernel panic: {HOW})",
            "ERROR *::test_reboots - *GuestRebootError: the guest rebooted by itself*",
        ]
    )


KEPT = """
    import pytest
    from vm_helpers import GUEST, SHELL_PORT, until

    @pytest.mark.vmports({port}, setup={setup!r}, **{settings})
    def test_hangs(vm_with_ports):
        with vm_with_ports.connect({port}) as connection:
            connection.sendall(b"{panic}\\n")
        until(lambda: "---[ end" in vm_with_ports.console, 60, lambda: vm_with_ports.console)
"""


@pytest.mark.slow
def test_a_guest_that_panicked_is_not_kept(inner, hangs):
    result = inner(KEPT, "--vmports-keep=always", "-p", "no:xdist", settings=hangs)
    kept = [one for one in all_kept() if one.name in result.stdout.str()]
    for one in kept:
        one.stop()
    assert kept == []
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*GuestPanicError: the guest's kernel panicked*"])


# A VM that waits for its test is let panic, by the way that our own commands go.
WAITS = """
    import contextlib
    import pytest
    from pytest_vmports.errors import MachineDiedError
    from vm_helpers import alive, until

    pytestmark = pytest.mark.vmports({port}, setup={setup!r}, **{settings})

    def test_first(vm_with_ports, vmports_pool):
        standby = vmports_pool.standby
        standby.join()
        ((_, machine),) = standby._ready
        with contextlib.suppress(MachineDiedError, ConnectionError):
            machine.shell.execute("{panic}", timeout=60, input=b"")
        {until}

    @pytest.mark.vmports(allow_crash=True)
    def test_second(vm_with_ports):
        assert vm_with_ports.origin == "cloned"
        assert vm_with_ports.run("echo lives").stdout == "lives\\n"

    def test_third(vm_with_ports):
        # The setting is none that a guest sees.
        assert vm_with_ports.origin == "standby"
"""
DIES = "until(lambda: not alive(machine.processes()[0].pid), 60, lambda: machine.console.text())"
HANGS = "until(lambda: '---[ end' in machine.console.text(), 60, lambda: machine.console.text())"


def waited(inner, until, settings):
    suite = WAITS.replace("{until}", until)
    result = inner(suite, "-p", "no:xdist", "--vmports-prewarm=1", settings=settings)
    result.assert_outcomes(passed=3)


@pytest.mark.slow_as("gvproxy")
def test_a_vm_that_panicked_while_it_waited_is_handed_to_nobody(inner, wiring):
    waited(inner, DIES, wiring)


@pytest.mark.slow
def test_nor_is_one_that_stays_as_it_is(inner, hangs):
    waited(inner, HANGS, hangs)


def test_a_vm_that_panicked_while_it_waited_in_vain_fails_nobody(inner):
    suite = WAITS.replace("{until}", DIES).partition("    @pytest.mark.vmports(allow")[0]
    suite += """
    @pytest.fixture
    def skips():
        pytest.skip("after all")

    def test_second(skips, vm_with_ports):
        pass
"""
    result = inner(suite, "-p", "no:xdist", "--vmports-prewarm=1")
    result.assert_outcomes(passed=1, skipped=1)
    result.stderr.fnmatch_lines([f"vmports: a VM that was kept ready has ended: *{HOW}"])
