"""What a test holds of its VM."""

from __future__ import annotations

import contextlib
import shlex
import socket
from typing import TYPE_CHECKING

from pytest_vmports.errors import MachineError
from pytest_vmports.network.exposed import find_port
from pytest_vmports.pool.debugging import WithDebugger
from pytest_vmports.pool.network_log import WithNetworkLog
from pytest_vmports.pool.shares import Shares
from pytest_vmports.port_forward import parse_port
from pytest_vmports.system.surroundings import restored
from pytest_vmports.vm import arguments, failures, screen, snapshots
from pytest_vmports.vm.inside import shell
from pytest_vmports.vm.saved import Snapshot

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from typing_extensions import Buffer

    from pytest_vmports.models import ExposedPort, PortMapping
    from pytest_vmports.network.exposed import ExposedPorts
    from pytest_vmports.network.wiring import Wiring
    from pytest_vmports.pool.keeper import Keeper
    from pytest_vmports.vm.inside.shell import Completed
    from pytest_vmports.vm.machine import Machine


class VM(Shares, WithNetworkLog, WithDebugger):
    """A running VM; ``vm[8080]`` is where guest port 8080 can be reached."""

    def __init__(
        self,
        machine: Machine,
        exposed: ExposedPorts,
        lease: Callable[[Sequence[PortMapping]], ExposedPorts],
        copy_limit: int = 1024,
        tell: Callable[[str], None] = lambda _line: None,
        *,
        paused: bool = False,
    ) -> None:
        super().__init__(machine, copy_limit, tell)
        self._exposed = exposed
        self._lease = lease
        self._added: dict[ExposedPort, ExposedPorts] = {}
        self._snapshots = 0
        self._paused = paused

    @property
    def ports(self) -> Sequence[ExposedPort]:
        """The forwards, in the order they were asked for."""
        return self._machine.ports

    @property
    def wiring(self) -> str:
        """``usernet``, ``gvproxy``, ``passt`` or ``none``."""
        return self._machine.cards.network.kind

    @property
    def lan_address(self) -> str | None:
        """Its address for the other VMs of its ``network``; None without such a network."""
        return self._machine.cards.lan_address

    @property
    def host_address(self) -> str | None:
        """Where the guest reaches the services of ``host_ports``; None without them."""
        return self._machine.cards.network.host_address

    @property
    def origin(self) -> str:
        """``booted``, ``cloned`` from a template, ``standby``: cloned before the test began.

        ``restored`` after `restore`.
        """
        return str(self._machine.origin)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by program name."""
        return {process.name: process.pid for process in self._machine.processes()}

    @property
    def console(self) -> str:
        """All that the guest wrote to its console so far."""
        return self._machine.console.text()

    def screenshot(self, path: str | os.PathLike[str]) -> None:
        """Write what the VM's display shows into a PNG file; it needs ``display=True``.

        Raises:
            MachineError: there is no display, the VM is gone, or QEMU cannot write the file.
        """
        picture = arguments.host_path(path, "the path")
        with self._living():
            screen.screenshot(self._machine, picture)

    @property
    def command_line(self) -> str:
        """QEMU's command line."""
        return shlex.join(self._machine.command)

    def run(
        self,
        command: str | Sequence[str | os.PathLike[str]],
        *,
        timeout: float | None = 60.0,
        check: bool = True,
        input: str | Buffer | None = None,  # noqa: A002 - as subprocess.run
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        max_output: int = shell.MAX_OUTPUT,
    ) -> Completed:
        """Run a shell command in the guest, as root, and return what it wrote.

        It has ended when the shell has: what it left running in the background runs on. A command
        by our agent or ssh in a disk image's guest runs in root's home, any other in ``/``.

        Args:
            command: a text for ``/bin/sh``, or a list of words, none of which it interprets.
            timeout: seconds; then the command is killed. None waits for ever.
            check: raise when it ends with another status than 0.
            input: its standard input; nothing by default.
            env: variables to set beside the guest's own.
            cwd: folder to run it in.
            max_output: bytes that it may write, errors with them; beyond it is killed.

        Raises:
            CommandFailedError: its status is not 0 (also a `subprocess.CalledProcessError`).
            CommandTimeoutError: it did not end (also a `subprocess.TimeoutExpired`).
            CommandOutputError: it wrote more than it may.
            MachineError: the VM ended, is paused, or nothing in it runs commands (`NoShellError`).
            TypeError, ValueError: an argument means nothing, or no program could be given it.
        """
        with self._living():
            return shell.run(
                self._shell, command, timeout=timeout, check=check, input=input, env=env, cwd=cwd,
                max_output=max_output,
            )  # fmt: skip

    def ssh_config(self, path: str | os.PathLike[str]) -> Path:
        """Write what ``ssh -F``, testinfra and Ansible need to reach this VM as host ``vm``.

        Args:
            path: the file to write.

        Raises:
            MachineError: the guest was not given ssh (``Guest.disk(..., ssh=True)``).
        """
        config = arguments.host_path(path, "the path")
        self._machine.owner.check()
        ssh = self._machine.kind.ssh
        if ssh is None:
            name = self._machine.plan.guest.name
            raise MachineError(f"{name} is not reached by ssh: use Guest.disk(..., ssh=True)")
        return ssh.write_config(config)

    def expose(self, port: int | str | PortMapping) -> ExposedPort:
        """Forward one more guest port, until `unexpose` or the VM's end; return where it is.

        A UDP port of a guest without network is possible only where the test declared another.

        Args:
            port: as the marker takes it: ``8080``, ``"53/udp"``, ``"3000:80"``.

        Raises:
            ValueError: it is no port.
            PortError: no host port can be had.
            ForwardError: the host port could not be bound.
            MachineError: it cannot be forwarded while the guest runs, or the VM is gone.
        """
        self._machine.check_alive()
        more = self._lease([parse_port(port)])
        (forward,) = more.ports
        try:
            with self._living():
                self._forwards.add_forward(forward, more.pass_fds[0], self._machine.monitor)
        except BaseException:
            more.release()
            raise
        more.release_guards()
        self._added[forward] = more
        return forward

    def unexpose(self, port: int | str) -> None:
        """Take away a forward that `expose` made; its connections end when they are closed.

        Raises:
            NotExposedError: `expose` did not make it (also a KeyError).
        """
        forward = find_port(
            tuple(self._added), port, "only what vm.expose() has added can be taken away"
        )
        lease = self._added[forward].pass_fds[0]
        with self._living():
            self._forwards.remove_forward(forward, lease, self._machine.monitor)
        self._added.pop(forward).release()

    def pause(self) -> None:
        """Stop the guest's processors; its clock stands still as well. Safe to call again.

        Raises:
            MachineError: the VM is gone.
        """
        with self._living():
            self._machine.monitor.execute("stop")
        self._paused = True

    def resume(self) -> None:
        """Let the guest run on after `pause`. Safe to call again.

        Raises:
            MachineError: the VM is gone.
        """
        with self._living():
            self._machine.monitor.execute("cont")
        self._paused = False

    def reset(self) -> None:
        """Boot again, as after a loss of power; return when the guest is ready.

        The forwards stay and their connections end. What the guest had in memory is lost, for a
        guest without a disk that is everything but its setup.

        Raises:
            MachineDiedError: QEMU or gvproxy had failed before, or the guest's kernel had panicked.
            MachineError: as at the first start.
        """
        self._again(None)

    def reboot(
        self, by: Callable[[], object] | None = None, *, timeout: float | None = None
    ) -> None:
        """Have the guest reboot, and return when it is ready again; needs ``on_reboot = allow``.

        Args:
            by: makes the guest reboot; left out, the command ``reboot`` in it does.
            timeout: seconds for both; left out, those of its boot.

        Raises:
            BootTimeoutError: it has not rebooted, or is not ready again, in time.
            MachineDiedError: the VM has ended, or the guest's kernel has crashed.
            MachineError: a reboot would end this VM, or nothing in it can be asked.
        """
        limit = arguments.seconds_or_none(timeout)
        with self._living():
            boots = self._machine.plan.boot_timeout
            snapshots.reboot(self._machine, boots if limit is None else limit, by)

    @property
    def reboots(self) -> int:
        """How often the guest has rebooted by itself since it was started or reset."""
        return self._machine.reboots.count

    @property
    def clock_behind(self) -> float:
        """By how many seconds the guest's clock is behind the host's, as far as we know.

        More than 0 only where nothing can set the clock of a restored guest, which is then cloned
        with ``template = always``, or restored; the guest may have set it meanwhile.
        """
        machine = self._machine
        return 0.0 if machine.reboots.count else machine.clock_behind  # it has read its board's

    def snapshot(self) -> Snapshot:
        """Save this moment, memory and all, to come back to with `restore` while the VM lives.

        Raises:
            MachineDiedError: the VM is gone.
            MonitorError: QEMU cannot save it.
            ShareError: it has a folder of the host's.
        """
        self._refuse_with_shares("vm.snapshot")
        with self._living():
            self._snapshots += 1
            path = self._machine.workdir / f"snapshot-{self._snapshots}"
            return snapshots.snapshot(self._machine, path)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a moment of this VM; its forwards stay, their connections end.

        The guest is given the host's time where our agent is in it, or by QEMU's agent or ssh.

        Raises:
            MachineDiedError: QEMU or gvproxy had failed before, or the guest's kernel had panicked.
            MachineError: it cannot be restored, or the guest does not answer.
        """
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"{snapshot!r} is no moment of a VM: give what vm.snapshot() returned")
        self._again(snapshot)

    def shutdown(self, timeout: float = 60.0) -> None:
        """Ask the guest to power off, and return when it has.

        Args:
            timeout: seconds.

        Raises:
            ShutdownTimeoutError: it still runs; nothing is done about that before the VM's end.
            MachineDiedError: it had ended before, or ended in another way.
        """
        timeout = arguments.seconds(timeout)
        self.resume()  # a guest that is paused would never hear of it
        with self._living():
            snapshots.shut_down(self._machine, timeout)

    def end(self, keeper: Keeper | None = None) -> None:
        """Kill the VM and give back what `expose` leased; the fixtures do this.

        Args:
            keeper: may let it live on instead.

        Raises:
            MachineDiedError: QEMU or gvproxy had failed before, or the guest's kernel had panicked.
        """
        if not self._machine.owner.here:  # a forked child goes through its parent's teardown too
            return
        with contextlib.ExitStack() as ending:  # each, whatever becomes of the others
            ending.callback(self._added.clear)
            for more in self._added.values():
                ending.callback(more.release)
            kept = keeper is not None and keeper.keep(self._machine)
            ending.callback(self._sharing.forget, lives_on=kept)
            if not kept:
                self._machine.finish()
        failures.warn_of_reboot(self._machine.vitals)
        failures.warn_of_words(self._machine.vitals)

    @property
    def _forwards(self) -> Wiring:
        return self._machine.cards.first

    @property
    def _lease_fds(self) -> list[int]:
        return [*self._exposed.pass_fds, *(more.pass_fds[0] for more in self._added.values())]

    @restored()
    def _again(self, saved: Snapshot | None) -> None:
        self._machine.owner.check()
        self._sharing.forget()
        snapshots.restart(self._machine, self._lease_fds, saved)
        self._paused = False
        self._machine.wait_ready()

    def connect(
        self, port: int | str, *, protocol: str | None = None, timeout: float = 10.0
    ) -> socket.socket:
        """Return a socket that leads to a guest port; use it in a ``with`` statement.

        Args:
            port: the guest's port, ``8080`` or ``"53/udp"``.
            protocol: ``tcp`` or ``udp``; needed only where both are exposed.
            timeout: of the connect and of later reads, in seconds.

        Raises:
            NotExposedError: the port is not exposed; names those that are (also a KeyError).
            MachineDiedError: the VM is gone.
            OSError: the connection failed.
        """
        timeout = arguments.seconds(timeout)
        self._machine.check_alive()
        exposed = self[port if protocol is None else f"{port}/{protocol}"]
        if exposed.protocol == "tcp":
            return socket.create_connection(exposed.address, timeout=timeout)
        family = socket.AF_INET6 if ":" in exposed.host else socket.AF_INET
        udp = socket.socket(family, socket.SOCK_DGRAM)
        udp.settimeout(timeout)
        udp.connect(exposed.address)
        return udp

    def __getitem__(self, port: int | str) -> ExposedPort:
        return find_port(self.ports, port, self._exposed.declare)

    def __iter__(self) -> Iterator[ExposedPort]:
        return iter(self.ports)

    def __len__(self) -> int:
        return len(self.ports)

    def __repr__(self) -> str:
        ports = ", ".join(map(str, self.ports)) or "no ports"
        name, state = self._machine.plan.guest.name, self._machine.state.value
        return f"<VM {name} {self.wiring} {ports} {state}>"
