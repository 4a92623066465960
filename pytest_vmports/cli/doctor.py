"""``pytest-vmports doctor``: what works on this machine, what does not, and what to do about it."""

from __future__ import annotations

import grp
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.cli import tables
from pytest_vmports.cli.run import started
from pytest_vmports.errors import VmPortsError
from pytest_vmports.guests.alpine import find_images
from pytest_vmports.leases import candidates, open_allocator
from pytest_vmports.network.choose import open_host
from pytest_vmports.pool.kept import all_kept
from pytest_vmports.pool.template_store import TemplateStore
from pytest_vmports.settings import parse
from pytest_vmports.system import clock, proc, programs
from pytest_vmports.system.architecture import X86_64, host_architecture
from pytest_vmports.system.run_dir import dead_folders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FINE, LIMITED, BROKEN = 0, 1, 2
_WORDS = {FINE: "ok", LIMITED: "limited", BROKEN: "missing"}
_STYLES = {"ok": "green", "limited": "yellow", "missing": "bold red"}
_MIB = 1 << 20


@dataclass
class Finding:
    """What one check found.

    Attributes:
        name: what was looked at.
        state: 0 fine, 1 something works less well or not at all, 2 no VM can be started.
        text: what was found.
        remedy: what to do, or empty.
    """

    name: str
    state: int
    text: str
    remedy: str = ""


def examine(*, boot: bool) -> list[Finding]:
    """Return what all checks find; ``boot`` also starts a VM."""
    checks = (
        _qemu, _accelerator, _guest, _gvproxy, _ports, _state_dir, _cache, _leftovers,
    )  # fmt: skip
    found = [_careful(check) for check in checks]
    if boot and max(one.state for one in found) < BROKEN:
        found.append(_careful(_boot))
    return found


def show(findings: list[Finding], *, as_json: bool) -> int:
    """Print the findings; return the exit status: the worst state."""
    worst = max(one.state for one in findings)
    if as_json:
        whole = {"state": worst, "findings": [asdict(one) for one in findings]}
        sys.stdout.write(json.dumps(whole, indent=1) + "\n")
        return worst
    rows = []
    for one in findings:
        rows.append((_WORDS[one.state], one.name, one.text))
        if one.remedy:
            rows.append(("", "", f"-> {one.remedy}"))
    tables.write(rows, styles=_STYLES)
    return worst


def _careful(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except VmPortsError as error:
        # Of the errors only a missing gvproxy leaves VMs that can be started.
        state = LIMITED if check is _gvproxy else BROKEN
        return Finding(check.__name__.strip("_").replace("_", " "), state, str(error))


def _qemu() -> Finding:
    return Finding("qemu", FINE, str(programs.find_qemu()))


def _accelerator() -> Finding:
    chosen = programs.choose_accel("auto", programs.find_qemu().path)
    if chosen.name != "tcg":
        return Finding("accelerator", FINE, str(chosen))
    return Finding("accelerator", FINE, str(chosen), "; ".join(_towards_kvm()))


def _towards_kvm() -> Iterator[str]:
    """Yield what would make KVM work here."""
    if not sys.platform.startswith("linux") or host_architecture() != X86_64.name:
        return
    device = Path("/dev/kvm")
    processor = proc.said("cpuinfo")
    if not processor:
        yield "whether KVM could work is not known: /proc/cpuinfo cannot be read; mount /proc"
    elif not {"vmx", "svm"} & set(processor.split()):
        yield (
            "VMs run under emulation, several times slower; for KVM switch on virtualization in "
            "the firmware, or nested virtualization where this is itself a VM"
        )
    elif not device.exists():
        yield "for KVM: modprobe kvm_intel or kvm_amd; in a container: --device /dev/kvm"
    elif not os.access(device, os.R_OK | os.W_OK):
        group = grp.getgrgid(device.stat().st_gid).gr_name
        yield f"for KVM: usermod -aG {group} USER, then log in again"


def _guest() -> Finding:
    return Finding("guest", FINE, str(find_images()[0]))


def _gvproxy() -> Finding:
    gvproxy = programs.find_gvproxy()
    found = open_host(
        allow_network=True, backend="gvproxy", qemu=programs.find_qemu(), gvproxy=gvproxy
    )
    if found is None:
        return Finding("gvproxy", FINE, f"{gvproxy}; its API is closed to guests")
    return Finding(
        "gvproxy", LIMITED, f"guests reach {found['reached']}: {found['why']}", found["remedy"]
    )


def _ports() -> Finding:
    wanted = os.environ.get("VMPORTS_PORT_RANGE")
    low, high = candidates.ephemeral_range()
    if wanted:
        ports = candidates.candidate_ports(parse.port_range(wanted))
    else:
        ports = candidates.candidate_ports()
    text = f"{len(ports)} to choose from, {ports[0]} to {ports[-1]}; the kernel's: {low} to {high}"
    few = len(ports) < 1000  # noqa: PLR2004 - a hundred workers with ten ports each
    return Finding("ports", LIMITED if few else FINE, text, "widen port_range" if few else "")


def _state_dir() -> Finding:
    with open_allocator() as allocator:
        held = len(allocator.leases())
        return Finding("state dir", FINE, f"{allocator.directory}, {held} ports leased now")


def _cache() -> Finding:
    folder = os.environ.get("VMPORTS_CACHE_DIR")
    store = TemplateStore(Path(folder) if folder else None, limit=0)
    entries = store.entries()
    size = sum(size for _, size, _ in entries) / _MIB
    free = os.statvfs(store.base)
    left = free.f_bavail * free.f_frsize / _MIB
    text = f"{store.base}, {len(entries)} templates, {size:.0f} MiB; {left:,.0f} MiB free"
    tight = left < 1024  # noqa: PLR2004 - a template or two
    return Finding(
        "cache", LIMITED if tight else FINE, text,
        "free some space, or set cache_dir" if tight else "",
    )  # fmt: skip


def _leftovers() -> Finding:
    dead, kept = dead_folders(), all_kept()
    texts, remedies = [], []
    if dead:
        texts.append(f"{len(dead)} folders of runs that were killed")
        remedies.append("the next run removes them")
    if kept:
        texts.append(f"{len(kept)} VMs that were kept")
        remedies.append("pytest-vmports kept lists and stops them")
    return Finding("leftovers", FINE, ", ".join(texts) or "none", "; ".join(remedies))


def _boot() -> Finding:
    """Start a VM from cold, and time it."""
    with tempfile.TemporaryDirectory() as folder:
        began = clock.now()
        words = {"expose": "8080", "setup": "nc -lk -p 8080 -e cat &", "cache_dir": folder}
        with started({**words, "template": "no"}) as vm:
            cold, origin = clock.now() - began, vm.origin
    return Finding("boot", FINE, f"a VM answered after {cold:.1f} s ({origin})")
