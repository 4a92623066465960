"""What is known of a failing test's VM, as files to take away."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pytest_vmports.errors import MachineError, VmPortsError
from pytest_vmports.vm.by_hand import script
from pytest_vmports.vm.disk_guest import SEED
from pytest_vmports.vm.screen import screenshot

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vmports.vm.machine import Machine

_LONGEST_NAME = 80
_INITRDS = "initrds"


def folder_name(test: str, number: int = 1) -> str:
    """Return a file name for a test's id: readable, of bounded length, and no other test's.

    Args:
        test: pytest's node id.
        number: which of its VMs.
    """
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", test).strip("-.")
    if readable != test:  # two ids may have become one
        readable = f"{readable[:_LONGEST_NAME]}-{hashlib.sha256(test.encode()).hexdigest()[:8]}"
    return readable if number == 1 else f"{readable}-vm{number}"


def write(machine: Machine, base: Path, test: str, root: Path, number: int = 1) -> Path:
    """Write the console, logs, ``vm.json`` and ``qemu.sh`` of a VM; return their folder.

    Args:
        machine: a VM in any state.
        base: the folder of all artifacts.
        test: pytest's node id.
        root: what relative paths of the guest's files are relative to.
        number: which of the test's VMs.

    Raises:
        OSError: they cannot be written.
    """
    folder = base / folder_name(test, number)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "console.log").write_text(machine.console.text())
    for process in machine.processes():
        (folder / f"{process.name}.log").write_text(process.output)
    machine.files.copy(machine.workdir, folder)
    if machine.running and machine.hardware.display:
        # What ends meanwhile is told by the report.
        with contextlib.suppress(MachineError):
            screenshot(machine, folder / "screen.png")
    by_hand = _by_hand(machine, folder, test, root)
    about = {"test": test, **_facts(machine), "qemu.sh": by_hand or "executable"}
    about["files"] = sorted({file.name for file in folder.iterdir()} | {"vm.json"})
    (folder / "vm.json").write_text(json.dumps(about, indent=1, default=str) + "\n")
    return folder


def _by_hand(machine: Machine, folder: Path, test: str, root: Path) -> str:
    """Write ``qemu.sh``; return why it could not be made, empty when it was."""
    try:
        initrd = _keep_initrd(machine, folder, root)
        seed = SEED if (folder / SEED).exists() else None
        text = script(machine, test, initrd, seed)
    except VmPortsError as error:
        return f"not written: {error}"
    path = folder / "qemu.sh"
    path.write_text(text)
    path.chmod(0o755)
    return ""


def _keep_initrd(machine: Machine, folder: Path, root: Path) -> str | None:
    """Copy an initrd that we made, once for all tests; return its path as seen from the folder."""
    _, initrd = machine.guest.boot_files(machine.home, root)
    if initrd is None or initrd == machine.guest.initrd_path:
        return None if initrd is None else str(initrd)
    kept = folder.parent / _INITRDS / initrd.name
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}")
        shutil.copyfile(initrd, part)
        part.replace(kept)
    return f"../{_INITRDS}/{initrd.name}"


def _facts(machine: Machine) -> dict[str, Any]:
    hardware, settings = machine.hardware, machine.settings
    first = min(machine.times.values(), default=0.0)
    return {
        "guest": machine.guest.name,
        "wiring": machine.wiring.kind,
        "origin": machine.origin,
        "state": machine.state.value,
        "qemu": str(hardware.qemu),
        "accelerator": str(hardware.accelerator),
        "memory_mib": hardware.memory,
        "cpus": hardware.cpus,
        "forwards": [port.model_dump() for port in machine.ports],
        "settings": {
            one.name: {"value": getattr(settings, one.name), "from": settings.sources[one.name]}
            for one in (fields(settings) if settings is not None else ())
            if settings is not None and one.name != "sources"
        },
        "seconds": {name: round(at - first, 4) for name, at in machine.times.items()},
        "processes": [
            {"name": process.name, "pid": process.pid, "exit": process.returncode}
            for process in machine.processes()
        ],
        "command_line": machine.command_line(),
    }
