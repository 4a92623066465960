"""One QEMU: started, proved ready, stopped."""

from __future__ import annotations

import contextlib
import enum
import re
import shlex
import shutil
import socket
import time
from typing import TYPE_CHECKING

from pytest_vmports.errors import (
    BootTimeoutError,
    ForwardError,
    LaunchError,
    MachineDiedError,
    MonitorError,
    SetupError,
)
from pytest_vmports.guests import setclock
from pytest_vmports.process import Process, spawn
from pytest_vmports.vm import disk_guest
from pytest_vmports.vm.command import Channels, Hardware, Ram, build_command
from pytest_vmports.vm.control import Control
from pytest_vmports.vm.monitor import Monitor
from pytest_vmports.vm.readiness import Probe, WaitFor

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.models import ExposedPort
    from pytest_vmports.network.wiring import Wiring
    from pytest_vmports.vm.guest_agent import GuestAgent
    from pytest_vmports.vm.ssh import SshShell
    from pytest_vmports.vm.template import Template

_GREETING_SECONDS = 30.0
_TAIL_LINES = 25
# A guest rests when, for so many seconds, it uses less than this share of a processor; one that
# never does is not waited for any longer.
_REST, _RESTING, _LONGEST_REST = 0.2, 0.2, 3.0


class State(enum.Enum):
    """Where a machine is in its life; it only moves forward."""

    NEW = "new"
    STARTED = "started"
    READY = "ready"
    STOPPED = "stopped"


class Machine:
    """A QEMU process with its wiring.

    Args:
        guest: what to boot.
        hardware: on what.
        wiring: its network.
        workdir: private folder for its console, logs and sockets.
        root: what relative paths of the guest's files are relative to.
        template: restore this instead of booting.
        ram: the file that becomes its memory, for a machine that will be saved as a template.
        hidden: those of the wiring's ports that are ours and not the test's.

    Attributes:
        state: see `State`.
        origin: ``booted``, ``cloned``, or ``standby`` for a clone that waited for its test.
        command: QEMU's argv, empty before the start.
        monitor: the QMP connection; usable from the start to the stop.
        times: what happened when, `time.monotonic` seconds by name.
        ssh: runs commands by ssh; None where the guest does not let us in, or before the start.
        agent: runs commands by the QEMU guest agent, likewise.
    """

    monitor: Monitor

    def __init__(
        self,
        guest: Guest,
        hardware: Hardware,
        wiring: Wiring,
        workdir: Path,
        root: Path,
        *,
        template: Template | None = None,
        ram: Ram | None = None,
        hidden: Collection[ExposedPort] = (),
    ) -> None:
        self.guest = guest
        self.hardware = hardware
        self.wiring = wiring
        self.state = State.NEW
        self.origin = "booted" if template is None else "cloned"
        self.command: list[str] = []
        self.times: dict[str, float] = {}
        self.ssh: SshShell | None = None
        self.agent: GuestAgent | None = None
        self._hidden = hidden
        self._workdir = workdir
        self._root = root
        self._console = workdir / "console.log"
        self._qemu: Process | None = None
        self._control: Control | None = None
        self._template = template
        self._ram = ram if template is None else Ram(template.ram, share=False)
        self._kept_console: str | None = None
        self._console_before = ""

    @property
    def ports(self) -> tuple[ExposedPort, ...]:
        """The test's forwards, in the order they were asked for."""
        return tuple(port for port in self.wiring.ports if port not in self._hidden)

    def start(self, lease_fds: Collection[int] = ()) -> None:
        """Start the wiring and QEMU; return when QEMU runs and every forward is bound.

        Args:
            lease_fds: descriptors of port leases; inherited by whoever binds the ports, so that
                the leases live as long as that process.

        Raises:
            ForwardError: a host port could not be bound.
            LaunchError: QEMU or gvproxy ended.
        """
        self.times["start"] = time.monotonic()
        try:
            self.wiring.start(lease_fds)
            self._start_qemu(lease_fds)
            if self._template is not None:
                self._restore(self._template)
        except BaseException:
            self.stop()
            raise
        self.state = State.STARTED

    def wait_ready(self, wait_for: WaitFor, timeout: float) -> None:
        """Return when the guest's setup has ended well and ``wait_for`` was answered by the guest.

        Args:
            wait_for: what has to answer.
            timeout: seconds from the start.

        Raises:
            SetupError: the setup failed.
            BootTimeoutError: not ready in time.
            MachineDiedError: QEMU or gvproxy ended.
        """
        deadline = self.times["start"] + timeout
        probe = Probe(wait_for, self.wiring, self.monitor, self.ports)
        try:
            # A booted guest answers after its setup, a restored one at once: its clock is set
            # while it answers.
            restored = self._template is not None
            if self.guest.prepared and not restored:
                self._await_guest("vmports-ready", deadline, timeout, probe.answers)
            disk_guest.wait_for_cloud_init(self, deadline, timeout)
            self.times["setup"] = time.monotonic()
            while not probe.done:
                if time.monotonic() >= deadline:
                    raise self._timeout(f"waited for {wait_for}", timeout, probe.answers)
                probe.step(deadline, self.check_alive)
            disk_guest.wait_for_shells(self, deadline, timeout)
            if restored and self.state is State.STARTED:
                self._await_guest("vmports-clock", deadline, timeout, probe.answers)
        except MonitorError:
            # The monitor hangs up a moment before the process is seen to have ended.
            assert self._qemu is not None
            self._qemu.wait(1.0)
            self.check_alive()
            raise
        self.times["ready"] = time.monotonic()
        self.state = State.READY

    def hand_over(self, ports: Sequence[ExposedPort], lease_fds: Sequence[int]) -> None:
        """Forward these ports to a guest that is already ready, instead of those it had.

        It has answered once and is not asked again: a third connection, beside the test's own and
        the first, would overrun the queue of a server that listens with a backlog of one, and the
        forwarder repeats a connection's first packet only after six seconds.

        Args:
            ports: the forwards.
            lease_fds: their leases' descriptors, in the same order.

        Raises:
            ForwardError: a host port could not be bound.
            MachineDiedError: QEMU or gvproxy has ended meanwhile.
            MonitorError: QEMU hung up.
        """
        self.times["start"] = time.monotonic()
        self.origin = "standby"
        for port, lease in zip(ports, lease_fds, strict=True):
            if lease in self.wiring.qemu_fds([lease]):
                self.monitor.give(lease, f"lease-{port.protocol}-{port.external}")
            self.wiring.expose(port, self.monitor)
        self.check_alive()
        self.times["ready"] = time.monotonic()

    def hide_all(self) -> None:
        """Take all forwards away.

        Raises:
            MachineError: one could not be removed.
        """
        for port in self.wiring.ports:
            self.wiring.hide(port, self.monitor)

    def check_alive(self) -> None:
        """Raise when a process of this VM has ended.

        Raises:
            MachineDiedError: with what it said and the console's tail.
        """
        for process in self.processes():
            if not process.running:
                raise self._died(process)

    def processes(self) -> list[Process]:
        """Return QEMU and the wiring's processes, those that were started."""
        return [p for p in (self._qemu, *self.wiring.processes()) if p is not None]

    def console(self) -> str:
        """Return all that the guest wrote to its console."""
        if self._kept_console is not None:
            return self._kept_console
        before = self._console_before
        try:
            return before + self._console.read_text(errors="replace")
        except FileNotFoundError:
            return before

    def console_tail(self, lines: int = _TAIL_LINES) -> str:
        """Return the last lines of the console, control characters removed."""
        text = "".join(
            c for c in self.console().replace("\r", "") if c.isprintable() or c in "\n\t"
        )
        return "\n".join(text.splitlines()[-lines:]) or "(the console is empty)"

    def command_line(self) -> str:
        """Return QEMU's command line as a shell would take it."""
        return shlex.join(self.command)

    def stop(self) -> None:
        """Kill QEMU, then the wiring. Nothing of value is in either. Safe to call again."""
        if self._qemu is not None:
            self._qemu.kill()
        if hasattr(self, "monitor"):
            self.monitor.close()
        self.wiring.stop()
        if self._control is not None:
            self._control.close()
        disk_guest.detach(self, self._workdir)
        self.times.setdefault("stopped", time.monotonic())
        self.state = State.STOPPED

    def settle(self, timeout: float) -> None:
        """Return when the guest can have its clock set, and rests; at most seconds later.

        The proof's connection is closed, and the guest has to have noticed before it is saved: in
        a clone it would never end, and a server that serves one after the other would hang. A
        service that is still starting would go on starting in each clone.

        Args:
            timeout: seconds for setting the clock.

        Raises:
            BootTimeoutError: the clock cannot be set.
            MachineDiedError: QEMU or gvproxy ended.
        """
        assert self._control is not None
        assert self._qemu is not None
        # The answer comes by QEMU's main loop, which has then seen the connection's end too.
        self._control.send(setclock.message(time.time()))
        self._await_guest("vmports-clock", time.monotonic() + timeout, timeout, {})
        latest = time.monotonic() + _LONGEST_REST
        used = self._qemu.cpu_seconds
        while time.monotonic() < latest:
            time.sleep(_REST)  # there is no event for having nothing to do
            self.check_alive()
            before, used = used, self._qemu.cpu_seconds
            if before is None or used is None or used - before < _REST * _RESTING:
                return

    def save(self, state: Path) -> None:
        """Stop the guest and write its state, without its memory, to ``state``.

        Raises:
            MonitorError: QEMU cannot save it.
            OSError: the file cannot be written.
        """
        self.monitor.execute("stop")
        with state.open("xb") as file:
            self.monitor.save(file.fileno())

    def finish(self) -> None:
        """Stop, keep in memory what a report may need, and remove the private folder.

        Raises:
            MachineDiedError: QEMU or gvproxy had failed before. A guest that powered off has not.
        """
        failed = [p for p in self.processes() if p.returncode]
        self.stop()
        self._kept_console = self.console()
        for process in self.processes():
            process.keep_output()
        self.discard()
        for process in failed:
            raise self._died(process)

    def discard(self) -> None:
        """Remove the private folder of a machine that does not run."""
        shutil.rmtree(self._workdir)

    def _start_qemu(self, lease_fds: Collection[int]) -> None:
        monitor, monitor_of_qemu = socket.socketpair()
        control, control_of_qemu = socket.socketpair()
        self._control = Control(control)
        self.monitor = Monitor(monitor)
        kernel, initrd = self.guest.kernel_path, None
        if self._template is None:
            kernel, initrd = self.guest.boot_files(self._workdir.parent, self._root)
        with monitor_of_qemu, control_of_qemu, contextlib.ExitStack() as own:
            drives, agent_fds = disk_guest.attach(self, self._workdir, own)
            fds = monitor_of_qemu.fileno(), control_of_qemu.fileno()
            self.command = build_command(
                self.hardware, self.wiring, Channels(*fds, self._console, *agent_fds),
                kernel=kernel, initrd=initrd, drives=drives,
                kernel_words=self.guest.kernel_words(self.wiring.dns),
                ram=self._ram, restore=self._template is not None,
            )  # fmt: skip
            self._qemu = spawn(
                "QEMU", self.command, log=self._workdir / "qemu.log",
                pass_fds=[*fds, *agent_fds, *self.wiring.qemu_fds(lease_fds)],
            )  # fmt: skip
        if not self.monitor.connect(_GREETING_SECONDS):
            self._raise_not_started(self._qemu)

    def _raise_not_started(self, qemu: Process) -> None:
        code = qemu.wait(_GREETING_SECONDS)
        refused = self.wiring.refused(qemu.output)
        if refused is not None:
            port, detail = refused
            raise ForwardError(
                program="QEMU", port=port.external, protocol=port.protocol, host=port.host,
                detail=detail,
            )  # fmt: skip
        raise LaunchError(
            program="QEMU", returncode=_exit_words(qemu) if code is not None else "no monitor",
            stderr=qemu.output.strip() or "(nothing)", command=self.command_line(),
        )  # fmt: skip

    def _restore(self, template: Template) -> None:
        self._console_before = template.console
        with template.open_state() as file:
            self.monitor.load(file.fileno())
        if self._control is not None:
            self._control.send(setclock.message(time.time()))
        self.monitor.execute("cont")

    def _await_guest(
        self, word: str, deadline: float, timeout: float, answers: Mapping[int, str]
    ) -> None:
        """Wait for the agent: the end of the setup, or of setting the clock of a restored guest."""
        assert self._control is not None
        deaths = [p.death for p in self.processes() if p.death is not None]
        code = self._control.await_answer(word, deadline, deaths, self.check_alive)
        if code is None:
            what = "its setup has not ended" if word == "vmports-ready" else "its clock is not set"
            raise self._timeout(what, timeout, answers)
        if code:
            raise SetupError(returncode=code, console=self.console_tail())

    def _died(self, process: Process) -> MachineDiedError:
        return MachineDiedError(
            program=process.name, returncode=_exit_words(process, self.console()),
            stderr=process.output.strip() or "(nothing)", console=self.console_tail(),
        )  # fmt: skip

    def _timeout(self, what: str, timeout: float, answers: Mapping[int, str]) -> BootTimeoutError:
        said = [f"  port {port}: {answer}" for port, answer in answers.items()]
        return BootTimeoutError(
            timeout=timeout, waited_for=what, console=self.console_tail(),
            ports="\n".join(said) or "  no port was to be asked",
        )  # fmt: skip


def _exit_words(process: Process, console: str = "") -> str:
    code = process.returncode
    if code == 0 and process.name == "QEMU":
        # The line itself is followed by a trace that may fill the whole tail.
        panic = re.search(r"Kernel panic - not syncing: ([^\r\n]*)", console)
        return f"0 (kernel panic: {panic[1]})" if panic else "0 (the guest powered off or rebooted)"
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
