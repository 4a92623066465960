"""Our part of an initrd: init, agent, setup and files, and the initrd that has it."""

from __future__ import annotations

import hashlib
import os
from importlib import resources
from typing import TYPE_CHECKING

from pytest_vmports.errors import StateDirError
from pytest_vmports.guests import given, initramfs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_vmports.guests.initramfs import Entry
    from pytest_vmports.system.architecture import Architecture


def programs(architecture: Architecture) -> list[Entry]:
    """Return what of ours runs in a guest that we prepare."""
    ours = resources.files("pytest_vmports.guests")
    entries = [
        initramfs.file_entry(target, (ours / name).read_bytes(), 0o755)
        for target, name in (
            ("init", "init.sh"), ("vmports/boot", "boot.sh"), ("vmports/agent", "agent.sh"),
            ("vmports/console", "console.sh"),
        )
    ]  # fmt: skip
    entries.append(initramfs.file_entry("etc/inittab", given.inittab(architecture)))
    if architecture.agent is not None:
        program = (ours / architecture.agent).read_bytes()
        entries.append(initramfs.file_entry(f"vmports/{architecture.agent}", program, 0o755))
    return entries


def setups(texts: Sequence[str], root: Path) -> list[Entry]:
    """Return the scripts of a setup."""
    return [
        initramfs.file_entry(f"vmports/setup.d/{number:02}", given.script(text, root), 0o755)
        for number, text in enumerate(texts)
    ]


def initrd_with(base: Path | None, entries: Sequence[Entry], cache: Path) -> Path:
    """Return an initrd with our part behind another's, made once per content below ``cache``.

    Args:
        base: the other; None where there is none.
        entries: our part.
        cache: a private folder, made where it is missing.

    Raises:
        StateDirError: it cannot be written.
    """
    content = initramfs.archive(entries, alone=base is None)
    name = hashlib.sha256(os.fsencode(base or "None") + content).hexdigest()[:20]
    target = cache / f"{name}.initrd"
    if target.exists():
        return target
    part = target.with_suffix(f".{os.getpid()}")
    try:
        cache.mkdir(exist_ok=True)
        initramfs.append(base, content, part)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StateDirError(
            path=str(cache), reason=f"{error.strerror} (the guest's initrd)",
            remedy="free some space there, or set TMPDIR",
        ) from error  # fmt: skip
    part.replace(target)
    return target
