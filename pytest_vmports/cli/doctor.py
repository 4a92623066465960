"""``pytest-vmports doctor``: what works on this machine, what does not, and what to do about it."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vmports.cli import tables
from pytest_vmports.cli.place import place, towards_kvm
from pytest_vmports.cli.run import started
from pytest_vmports.errors import (
    GvproxyNotFoundError,
    PasstNotFoundError,
    QemuNotFoundError,
    SwtpmNotFoundError,
    VmPortsError,
)
from pytest_vmports.guests.alpine import find_images
from pytest_vmports.leases import candidates, open_allocator
from pytest_vmports.network import walls
from pytest_vmports.pool.kept import all_kept
from pytest_vmports.pool.template_store import TemplateStore
from pytest_vmports.settings import options
from pytest_vmports.settings.table import BY_NAME
from pytest_vmports.system import clock, landlock, programs, surroundings
from pytest_vmports.system.mishaps import told
from pytest_vmports.system.passt import find_passt
from pytest_vmports.system.run_dir import dead_folders
from pytest_vmports.system.swtpm import find_swtpm
from pytest_vmports.vm import walls as qemu_walls

if TYPE_CHECKING:
    from collections.abc import Callable

FINE, LIMITED, BROKEN = 0, 1, 2
_WORDS = {FINE: "ok", LIMITED: "limited", BROKEN: "missing"}
_STYLES = {"ok": "green", "limited": "yellow", "missing": "bold red"}
_MIB = 1 << 20
# What to do where a check meets a host that it does not know, by the check.
_ODD = {"_cache": "set HOME to a folder of this user, or cache_dir", "_leftovers": "set TMPDIR"}


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
        _settings, _qemu, _accelerator, _guest, _gvproxy, _walls, _passt, _swtpm, _ports,
        _state_dir, _cache, _leftovers,
    )  # fmt: skip
    found = [one for check in checks for one in _careful(check)]
    if boot and max(one.state for one in found) < BROKEN:
        found += _careful(_boot)
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


def _careful(check: Callable[[], Finding | list[Finding]]) -> list[Finding]:
    name = check.__name__.strip("_").replace("_", " ")
    try:
        found = check()
    except VmPortsError as error:
        if isinstance(error, QemuNotFoundError) and check is not _qemu:
            return [Finding(name, LIMITED, "not known without QEMU")]
        # Without gvproxy, the bundled guest or a folder for templates some VMs can be started.
        state = LIMITED if check in {_gvproxy, _walls, _guest, _cache} else BROKEN
        return [Finding(name, state, str(error))]
    except (OSError, RuntimeError, LookupError, ValueError) as error:
        # An odd host, as one without a home, breaks one check and not the whole answer.
        return [Finding(name, LIMITED, told(error), _ODD.get(check.__name__, ""))]
    return found if isinstance(found, list) else [found]


def _settings() -> Finding:
    mistakes = options.name_mistakes(options.NoConfig())
    if mistakes:
        return Finding("settings", BROKEN, "\n".join(map(str, mistakes)))
    said = [
        f"VMPORTS_{name.upper()}" for name in BY_NAME if f"VMPORTS_{name.upper()}" in os.environ
    ]
    return Finding("settings", FINE, f"of the environment: {', '.join(said) or 'none'}")


def _qemu() -> Finding:
    found = str(_found_qemu())
    if surroundings.which("qemu-img") is None:
        remedy = f"install it ({programs.install_hint('qemu')})"
        return Finding("qemu", FINE, f"{found}; no qemu-img, which disk images need", remedy)
    return Finding("qemu", FINE, found)


def _accelerator() -> Finding:
    (wanted,) = _values("accel")
    chosen, where = programs.choose_accel(wanted, _found_qemu().path), place()
    text = f"{chosen}; {where}" if str(where) else str(chosen)
    return Finding("accelerator", FINE, text, "" if chosen.name != "tcg" else towards_kvm(where))


def _passt() -> Finding:
    (backend,) = _values("backend")
    return _for_one_setting("passt", find_passt, "backend = passt", asked=backend == "passt")


def _swtpm() -> Finding:
    (asked,) = _values("tpm")
    return _for_one_setting("swtpm", find_swtpm, "tpm = yes", asked=asked)


def _for_one_setting(
    name: str, find: Callable[[], object], setting: str, *, asked: bool
) -> Finding:
    """Return which one there is of a program without which one setting alone cannot be had."""
    try:
        return Finding(name, FINE, str(find()))
    except (PasstNotFoundError, SwtpmNotFoundError) as error:
        if asked:
            return Finding(name, BROKEN, error.found, error.remedy)
        return Finding(name, FINE, f"{error.found}, which matters with {setting} alone")


def _guest() -> Finding:
    return Finding("guest", FINE, str(find_images()[0]))


def _gvproxy() -> Finding:
    named, used = _gvproxy_is_used()
    try:
        found = programs.find_gvproxy(named)
        if not found.loses_answers:
            return Finding("gvproxy", FINE, str(found))
        loses = "loses the answer to a client that ends its own half of a connection first"
        state = LIMITED if used else FINE
        return Finding("gvproxy", state, f"{found} {loses}", programs.NEWER_GVPROXY)
    except GvproxyNotFoundError as error:
        if used:
            raise
        unused = "; only tests with allow_network use it"
        return Finding("gvproxy", FINE, f"not there{unused}", error.remedy)


def _gvproxy_is_used() -> tuple[str | None, bool]:
    """Return which gvproxy is named, and whether a setting asks for any.

    What none asks for limits nobody; a marker's own allow_network is not seen here.
    """
    named, network, backend, strict = _values(
        "gvproxy", "allow_network", "backend", "strict_network"
    )
    asked = (network or strict) and backend != "passt"
    return named, asked or named is not None or backend == "gvproxy"


def _walls() -> list[Finding]:
    """Return what stands around gvproxy, a finding each, and around QEMU."""
    used = _gvproxy_is_used()[1]
    unused = "" if used else "missing, which matters with gvproxy alone: "
    return [
        Finding(f"wall: {wall.name}", FINE, wall.holds)
        if wall.problem is None
        else Finding(
            f"wall: {wall.name}",
            LIMITED if used else FINE,
            f"{unused}{wall.without}: {wall.problem}",
            wall.remedy,
        )
        for wall in walls.of_this_host()
    ] + _careful(_wall_of_qemu)


def _wall_of_qemu() -> Finding:
    qemu, name = _found_qemu(), "wall: QEMU"
    problem = qemu_walls.problem(qemu, programs.choose_accel(*_values("accel"), qemu.path))
    if problem is None:
        return Finding(name, FINE, "QEMU reads its VM's files alone, and writes its own")
    remedy = "" if landlock.problem() else "name a QEMU that is a program (--vmports-qemu)"
    return Finding(name, LIMITED, f"a guest that took QEMU over has your files: {problem}", remedy)


def _ports() -> Finding:
    (wanted,) = _values("port_range")
    low, high = candidates.ephemeral_range()
    ports = candidates.candidate_ports(wanted) if wanted else candidates.candidate_ports()
    text = f"{len(ports)} to choose from, {ports[0]} to {ports[-1]}; the kernel's: {low} to {high}"
    few = len(ports) < 1000  # noqa: PLR2004 - a hundred workers with ten ports each
    return Finding("ports", LIMITED if few else FINE, text, "widen port_range" if few else "")


def _state_dir() -> Finding:
    with open_allocator() as allocator:
        held = len(allocator.leases())
        return Finding("state dir", FINE, f"{allocator.directory}, {held} ports leased now")


def _cache() -> Finding:
    (folder,) = _values("cache_dir")
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


def _values(*names: str) -> list[Any]:
    return options.values(options.NoConfig(), *names)


def _found_qemu() -> programs.Qemu:
    return programs.find_qemu(*_values("qemu"))


def _boot() -> Finding:
    """Start a VM from cold, and time it."""
    with tempfile.TemporaryDirectory() as folder:
        began = clock.now()
        words = {"expose": "8080", "setup": "nc -lk -p 8080 -e cat &", "cache_dir": folder}
        with started({**words, "template": "no"}) as vm:
            cold, origin = clock.now() - began, vm.origin
    return Finding("boot", FINE, f"a VM answered after {cold:.1f} s ({origin})")
