"""From settings to the plan of a VM."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pytest_vmports.errors import (
    HostError,
    MissingWallError,
    NetworkListError,
    OpenHostError,
    SettingError,
)
from pytest_vmports.network.choose import choose_network, open_host, wants_gvproxy
from pytest_vmports.pool import devices
from pytest_vmports.system import landlock
from pytest_vmports.system.programs import (
    NEWER_GVPROXY,
    choose_accel,
    find_gvproxy,
    find_qemu,
)
from pytest_vmports.vm import walls as qemu_walls
from pytest_vmports.vm.argv import Hardware
from pytest_vmports.vm.inside.kind import kind_of
from pytest_vmports.vm.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.settings.options import Settings
    from pytest_vmports.system.passt import Passt


def plan_of(settings: Settings, guest: Guest, root: Path, *, reachable: bool = False) -> Plan:
    """Return what the settings and the guest make of a VM, without host ports yet.

    Args:
        settings: a test's.
        guest: what it boots.
        root: what relative paths of the guest's files are relative to.
        reachable: console and monitor are to be on sockets too.

    Raises:
        HostError: QEMU or gvproxy is missing, or cannot do what is asked for.
        NetworkListError: no guest can be held to a list here.
        SettingError: the guest does not come up with so little memory, or this QEMU makes no such
            hardware.
    """
    guest = guest.tolerating(complaints=settings.cloud_init == "tolerant")
    guest = guest.bringing(agent=settings.agent)
    memory = _enough_memory(settings, guest)
    qemu = find_qemu(settings.qemu)
    accelerator = choose_accel(settings.accel, qemu.path)
    qemu = devices.on_machine(settings, guest, qemu, accelerator)
    devices.check_cpu(settings, qemu, accelerator)
    network, backend = settings.allow_network, settings.backend
    by_gvproxy = wants_gvproxy(allow_network=network, backend=backend)
    if not isinstance(network, bool):
        from pytest_vmports.system import gate  # noqa: PLC0415 - few need it

        if problem := gate.problem():
            raise NetworkListError(why=problem)
    own = kind_of(guest, qemu.architecture).own_ports(settings.expose)
    return Plan(
        hardware=Hardware(
            qemu, accelerator, memory,
            guest.cpus or settings.cpus, settings.display, settings.crash_dump,
            settings.on_reboot == "allow", settings.cpu, settings.qemu_args,
        ),
        network=choose_network(
            [*settings.expose, *own], allow_network=network, backend=backend, qemu=qemu,
            host_ports=settings.host_ports, network=settings.network,
            strict=settings.strict_network,
        ).with_cards(settings.nics),
        guest=guest,
        wanted=settings.expose,
        wait_for=settings.wait_for,
        boot_timeout=settings.boot_timeout,
        root=root,
        gvproxy=find_gvproxy(settings.gvproxy) if by_gvproxy else None,
        passt=_passt() if backend == "passt" else None,
        swtpm=devices.swtpm(settings, qemu),
        capture=settings.pcap,
        reachable=reachable,
        may_crash=settings.allow_crash,
        clockless=settings.template == "always",
        console_limit=settings.console_limit,
        disks=devices.disks(settings),
        paused=settings.paused,
        said=tuple(_said(settings)),
    )  # fmt: skip


def _passt() -> Passt:
    """Return the passt of this host, where it can be walled in.

    Raises:
        HostError: there is none, or it cannot.
    """
    from pytest_vmports.system import gate  # noqa: PLC0415 - few need it
    from pytest_vmports.system.passt import find_passt  # noqa: PLC0415 - likewise

    if problem := gate.problem():
        raise HostError(
            f"backend = passt needs a gate between passt and the host, and there is none: {problem}"
            "; use Linux, and in a container --cap-add SYS_PTRACE; or leave backend = auto"
        )
    return find_passt()


def open_host_line(settings: Settings, plan: Plan) -> str | None:
    """Return what is to be said of a network that leaves the host open; None where none does.

    Raises:
        OpenHostError: one does, or a wall is missing, and the settings refuse that.
    """
    network, backend = settings.allow_network, settings.backend
    found = open_host(allow_network=network, backend=backend, qemu=plan.hardware.qemu)
    if found is not None:
        if settings.strict_network:
            raise OpenHostError(**found)
        said = f"guests with network reach {found['reached']}: {found['why']}"
    elif (found := _missing_walls(plan)) is not None:
        if settings.strict_network:
            raise MissingWallError(**found)
        said = f"not all walls stand around gvproxy: {found['missing']}"
    else:
        return None
    return f"vmports: {said}; {found['remedy']}; strict_network = yes refuses such VMs"


def lossy_line(plan: Plan) -> str | None:
    """Return what is to be said of a gvproxy that loses answers; None of any other."""
    if plan.gvproxy is None or not plan.gvproxy.loses_answers:
        return None
    return (
        f"vmports: gvproxy {plan.gvproxy.version} ({plan.gvproxy.path}) loses the guest's answer "
        "when a client ends its own half of a connection first (shutdown(SHUT_WR), nc -N); 0.8.8 "
        f"and later do not: {NEWER_GVPROXY}"
    )


def unwalled_line(plan: Plan) -> str | None:
    """Return what is to be said of a QEMU that is not walled in, on a host that could do so."""
    problem = qemu_walls.problem(plan.hardware.qemu, plan.hardware.accelerator)
    if problem is None or landlock.problem() is not None:  # `doctor` tells of the host
        return None
    return (
        f"vmports: no wall stands around {plan.hardware.qemu.path}: {problem}; a guest that took "
        "it over has your files; for a wall name a QEMU that is a program (--vmports-qemu)"
    )


def _missing_walls(plan: Plan) -> dict[str, str] | None:
    if plan.gvproxy is None:
        return None
    from pytest_vmports.network import walls  # noqa: PLC0415 - likewise

    return walls.missing()


def _enough_memory(settings: Settings, guest: Guest) -> int:
    memory = guest.memory or settings.memory
    if memory >= guest.least_memory:
        return memory
    raise SettingError(
        source=f"guest {guest.name}" if guest.memory else settings.sources["memory"],
        name="memory", value=memory,
        allowed=f"the guest {guest.name} comes up with {guest.least_memory} MiB or more, and its "
        "files and what runs in it come on top",
    )  # fmt: skip


def _said(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    for one in fields(settings):
        source = settings.sources.get(one.name)
        if source is not None:
            yield one.name, getattr(settings, one.name), source
