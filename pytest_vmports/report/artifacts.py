"""What is known of a failing test's VM, as files to take away."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vmports.report.by_hand import script
from pytest_vmports.report.evidence import LEFT_OUT
from pytest_vmports.system import patience
from pytest_vmports.system.mishaps import noting
from pytest_vmports.vm.crash_dump import VMCORE
from pytest_vmports.vm.inside.disk import SEED
from pytest_vmports.vm.screen import screenshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

    from pytest_vmports.system.process import Process
    from pytest_vmports.vm.machine import Machine

_LONGEST_NAME = 80
LONGEST_FOLDER = _LONGEST_NAME + 20
"""Characters of what `folder_name` returns, at most."""
_INITRDS = "initrds"


def folder_name(test: str, number: int = 1) -> str:
    """Return a file name for a test's id: readable, of bounded length, and no other test's.

    Args:
        test: pytest's node id.
        number: which of its VMs.
    """
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", test).strip("-.")[:_LONGEST_NAME] or "test"
    if readable != test:  # two ids may have become one
        # An id may hold what has no encoding, as a file's name that is no UTF-8.
        digest = hashlib.sha256(test.encode("utf-8", "surrogatepass")).hexdigest()
        readable = f"{readable}-{digest[:8]}"
    return readable if number == 1 else f"{readable}-vm{number}"


def base_of(config: pytest.Config, wanted: str | None) -> Path | None:
    """Return the folder of all artifacts; None where neither user nor pytest has one.

    Args:
        config: pytest's.
        wanted: as its setting.
    """
    if wanted is not None:
        return Path(wanted)
    # What the fixture tmp_path_factory returns, which a hook cannot ask for.
    temporary = getattr(config, "_tmp_path_factory", None)
    return None if temporary is None else Path(temporary.getbasetemp()) / "vmports"


def write(
    machine: Machine,
    base: Path,
    test: str,
    root: Path,
    number: int = 1,
    *,
    note: Callable[[str], None],
) -> Path:
    """Write the console, logs, ``vm.json`` and ``qemu.sh`` of a VM; return their folder.

    Args:
        machine: a VM in any state.
        base: the folder of all artifacts.
        test: pytest's node id.
        root: what relative paths of the guest's files are relative to.
        number: which of the test's VMs.
        note: told of each file that cannot be written; the others are there all the same.

    Raises:
        OSError: their folder cannot be made.
    """
    folder = base / folder_name(test, number)
    folder.mkdir(parents=True, exist_ok=True)
    of_which = f" of VM {number}" if number > 1 else ""
    failed: list[str] = []

    def fails(line: str) -> None:
        failed.append(line)
        note(line)

    with noting(f"artifact failed: some{of_which}", fails):
        for name, make in _makers(machine, test, root):
            with noting(f"artifact failed: {name}{of_which}", fails):
                make(folder / name)
    with noting(f"artifact failed: vm.json{of_which}", fails):
        about = {"test": test, **_facts(machine), "failed": failed}
        about["files"] = sorted({file.name for file in folder.iterdir()} | {"vm.json"})
        _put(folder / "vm.json", json.dumps(about, indent=1, default=str) + "\n")
    return folder


def _makers(
    machine: Machine, test: str, root: Path
) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Yield each artifact's name, and what writes it to a path, where there is anything for it."""
    yield "console.log", partial(_console, machine)
    for name in machine.files.names:
        yield name, partial(machine.files.copy, name, machine.workdir)
    yield "qemu.sh", partial(_by_hand, machine, test, root)  # it mentions the seed if that is there
    yield "screen.png", partial(_screen, machine)
    yield VMCORE, partial(_no_dump, machine)
    for process in machine.processes():
        yield f"{process.name}.log", partial(_log, process)


def _console(machine: Machine, path: Path) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(machine.console.pieces())


def _log(process: Process, path: Path) -> None:
    _put(path, process.output)


def _screen(machine: Machine, path: Path) -> None:
    # Of a VM that has died the report tells, and that there is no picture is no news.
    if machine.plan.hardware.display and machine.lives:
        if patience.spent():
            raise TimeoutError(LEFT_OUT)
        screenshot(machine, path)


def _no_dump(machine: Machine, _path: Path) -> None:
    """Tell why there is no dump although one is wanted: one that is there is a file as others."""
    if machine.crash_dump.problem:
        raise OSError(machine.crash_dump.problem)


def _by_hand(machine: Machine, test: str, root: Path, path: Path) -> None:
    """Write the script that boots the VM again, and its initrd, once for all tests."""
    initrds, guest = path.parent.parent / _INITRDS, machine.plan.guest
    _, initrd = guest.boot_files(initrds, root, machine.plan.hardware.qemu.architecture)
    seen = None if initrd is None else str(initrd)
    if initrd is not None and initrd != guest.initrd_path:
        seen = f"../{_INITRDS}/{initrd.name}"
    seed = SEED if (path.parent / SEED).exists() else None
    _put(path, script(machine, test, seen, seed))
    path.chmod(0o755)


def _put(path: Path, text: str) -> None:
    """Write a text, whatever the locale; bytes that Python kept as surrogates are bytes again."""
    path.write_text(text, encoding="utf-8", errors="surrogateescape")


def _facts(machine: Machine) -> dict[str, Any]:
    hardware, passed = machine.plan.hardware, machine.milestones.passed()
    first = min(passed.values(), default=0.0)
    return {
        "guest": machine.plan.guest.name,
        "wiring": machine.cards.network.kind,
        "origin": str(machine.origin),
        "state": machine.state.value,
        "qemu": str(hardware.qemu),
        "accelerator": str(hardware.accelerator),
        "memory_mib": hardware.memory,
        "cpus": hardware.cpus,
        "forwards": [port.model_dump() for port in machine.ports],
        "settings": {
            name: {"value": value, "from": source} for name, value, source in machine.plan.said
        },
        "reboots": machine.reboots.count,
        "seconds": {name: round(at - first, 4) for name, at in passed.items()},
        "processes": [
            {"name": process.name, "pid": process.pid, "exit": process.returncode}
            for process in machine.processes()
        ],
        "command_line": shlex.join(machine.command),
    }
