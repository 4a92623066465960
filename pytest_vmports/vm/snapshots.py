"""Rest, sleep, snapshots and the end of a VM that runs."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pytest_vmports.errors import (
    GuestRebootError,
    MachineError,
    MonitorError,
    NoShellError,
    ShutdownTimeoutError,
)
from pytest_vmports.system import clock
from pytest_vmports.system.surroundings import restored
from pytest_vmports.vm import failures
from pytest_vmports.vm.inside.window import forget_place
from pytest_vmports.vm.saved import Snapshot, disk_files

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from pytest_vmports.vm.machine import Machine
    from pytest_vmports.vm.share import Share

# A guest rests when, for so many seconds, it uses less than this share of a processor.
_REST, _RESTING = 0.2, 0.2
_QUIT_SECONDS = 30.0
# Behind the command's end, so that its answer is here before the guest ends what it was asked by.
_REBOOT = "nohup sh -c 'sleep 0.2 || sleep 1; reboot' </dev/null >/dev/null 2>&1 &"
_ASK_SECONDS, _LOOK_SECONDS = 30.0, 0.05


def settle(machine: Machine, timeout: float) -> None:
    """Return when the guest can have its clock set, and rests; at most some seconds later.

    The proof's connection is closed, and the guest has to have noticed before it is saved: in a
    clone it would never end, and a server that serves one after the other would hang. A service
    that is still starting would go on starting in each clone.

    Args:
        machine: is ready.
        timeout: seconds for setting the clock, and as many for one that goes on rebooting.

    Raises:
        BootTimeoutError: the clock cannot be set.
        MachineDiedError: QEMU or gvproxy ended.
    """
    until = clock.now() + timeout
    _rest(machine, timeout)
    while machine.reboots.new and clock.now() < until:  # as an installer does at its end
        machine.await_back(timeout)
        _rest(machine, timeout)


def _rest(machine: Machine, timeout: float) -> None:
    # The answer comes by QEMU's main loop, which has then seen the connection's end too.
    machine.set_clock(timeout)
    # One that never rests is not waited for any longer.
    latest = clock.now() + machine.kind.rest_seconds
    used = machine.processes()[0].cpu_seconds
    while clock.now() < latest:
        clock.sleep(_REST)  # there is no event for having nothing to do
        machine.check_alive()
        before, used = used, machine.processes()[0].cpu_seconds
        if before is None or used is None or used - before < _REST * _RESTING:
            return


def save_disks(machine: Machine, folder: Path) -> None:
    """Put beside a machine's saved state what its guest has written, and the key that it lets in.

    Raises:
        OSError: it cannot be copied.
    """
    for file in disk_files(machine.workdir):
        shutil.copyfile(file, folder / file.name)
    machine.kind.save_key(machine.place, folder)


@restored()
def save(machine: Machine, state: Path, *, whole: bool = False) -> None:
    """Stop the guest and write its state, with the memory that is not shared, to a new file.

    Args:
        machine: runs.
        state: the file.
        whole: with all of its memory.

    Raises:
        MonitorError: QEMU cannot save it.
        OSError: the file cannot be written.
    """
    machine.monitor.execute("stop")
    # To write only: QEMU from 10 on takes a descriptor for no other use than that it is open for.
    with state.open("xb") as file:
        machine.monitor.save(file.fileno(), whole=whole)
    if not whole:
        with state.open("r+b") as file:
            forget_place(file.fileno())


@restored()
def snapshot(machine: Machine, path: Path) -> Snapshot:
    """Save a moment of a VM, which runs on.

    Raises:
        MonitorError: QEMU cannot save it.
        OSError: the file cannot be written.
    """
    machine.check_alive()
    if (why := machine.plan.hardware.why_not_saved) is not None:
        raise MonitorError(f"a snapshot could not be gone back to: {why}")
    machine.await_back()
    running = machine.monitor.run_state().running
    disks = path.with_name(f"{path.name}-disks")
    memory = machine.plan.shared_memory
    moment = clock.wall()
    try:
        save(machine, path, whole=memory is not None)
        # QEMU has written all of them out, and lets go of them until it runs on.
        for file in disk_files(machine.workdir):
            disks.mkdir(exist_ok=True)
            shutil.copyfile(file, disks / file.name)
    finally:
        if running:
            machine.monitor.execute("cont")
    copies = tuple(disks.iterdir()) if disks.exists() else ()
    return Snapshot(
        path, machine.console.recent(), machine.ram, copies, memory, moment, machine.clock_behind
    )


def restart(
    machine: Machine,
    lease_fds: Collection[int],
    saved: Snapshot | None,
    shares: tuple[Share, ...] = (),
) -> None:
    """End QEMU and start another in its place, with the same forwards and disks.

    Args:
        machine: runs, or has ended.
        lease_fds: as for `Machine.start`.
        saved: what to restore; None boots.
        shares: folders of the host that the new one can serve.

    Raises:
        ForwardError: a host port was taken by another program meanwhile.
        LaunchError: QEMU or gvproxy ended.
        MachineDiedError: QEMU or gvproxy had failed before, or the guest's kernel had panicked,
            which would be forgotten.
        MonitorError: what was saved cannot be restored.
    """
    if (died := machine.failure_at_the_end()) is not None:
        raise died
    if machine.running:
        failures.warn_of_reboot(machine.vitals)
        failures.warn_of_words(machine.vitals)
    if disk_files(machine.workdir):
        # A kill would lose what QEMU has not written of the disk image's own tables.
        with contextlib.suppress(MonitorError):
            machine.monitor.execute("quit")
        machine.processes()[0].wait(_QUIT_SECONDS)
    machine.stop(keep_disks=True)
    if saved is None:
        machine.console.begin_anew(machine.console.recent())
    else:
        machine.console.begin_anew(saved.console)
        saved.bring_back_disks(machine.workdir)
    memory = None if saved is None else saved.shared_memory
    plan = replace(machine.plan, shares=shares, shared_memory=memory, paused=False)
    machine.start_again(plan, lease_fds, saved)


def reboot(machine: Machine, timeout: float, by: Callable[[], object] | None) -> None:
    """Have a guest reboot, and return when it is ready again.

    Args:
        machine: runs.
        timeout: seconds for both.
        by: what makes it reboot; None asks it by a command.

    Raises:
        NoShellError: no command can be run in it.
        BootTimeoutError: it has not rebooted, or is not ready again, in time.
        MachineDiedError: the VM has ended, or the guest's kernel has crashed.
        MachineError: a reboot would end this VM.
    """
    deadline = clock.now() + timeout
    machine.check_alive()
    if not machine.plan.hardware.reboots:
        raise MachineError(
            "a reboot of its guest ends this VM: set on_reboot = allow, or use vm.reset(), which "
            "boots it anew"
        )
    if by is None:
        by = partial(machine.shell.execute, _REBOOT, timeout=min(timeout, _ASK_SECONDS), input=b"")
    before = machine.reboots.count
    with failures.cause_first(machine.vitals):
        with contextlib.suppress(GuestRebootError):  # it was quicker than its answer
            by()
        while machine.reboots.count == before:
            if clock.now() >= deadline:
                what = "it was asked to reboot, and has not begun anew"
                raise failures.timed_out(machine.console, what, timeout, {})
            machine.check_alive()
            clock.sleep(_LOOK_SECONDS)  # what is heard of it is heard in another thread
    machine.await_back(max(0.0, deadline - clock.now()))


def shut_down(machine: Machine, timeout: float) -> None:
    """Ask the guest to power off, and return when it has.

    Args:
        machine: runs.
        timeout: seconds.

    Raises:
        ShutdownTimeoutError: it still runs.
        MachineDiedError: it had ended before, or ends in another way.
    """
    deadline = clock.now() + timeout
    machine.check_alive()
    qemu = machine.processes()[0]
    try:
        shell = machine.shell
    except NoShellError:
        # The power button: whether anything in the guest listens for it is the guest's affair.
        machine.monitor.execute("system_powerdown")
    else:
        # The VM may be gone before the answer is here.
        with contextlib.suppress(MachineError, OSError):
            shell.execute("poweroff", timeout=timeout, input=b"")
    ended = qemu.wait(max(0.0, deadline - clock.now()))
    if (died := machine.failure_at_the_end()) is not None:
        raise died
    if ended is None:
        raise ShutdownTimeoutError(timeout=timeout, console=machine.console.tail())
