"""What a guest is made of, as its maker gave it: looked at, and read when it is needed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_vmports.errors import GuestNotFoundError, SettingError
from pytest_vmports.guests import host_files
from pytest_vmports.port_forward import parse_ports
from pytest_vmports.system.paths import absolute, existing_file, text_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from pytest_vmports.models import PortMapping
    from pytest_vmports.system.architecture import Architecture


def inittab(architecture: Architecture) -> bytes:
    """Return what busybox's init reads in a guest that we prepare."""
    # Read by busybox init: our boot script once, then the agent on the control channel, and a shell
    # on the console. The dash makes that the shell's own terminal, so that Ctrl-C works.
    lines = [
        "::sysinit:/vmports/boot",
        f"{architecture.control}::respawn:/vmports/agent",
        f"{architecture.console}::respawn:-/vmports/console",
    ]
    return "\n".join([*lines, ""]).encode()


def texts(setup: str | os.PathLike[str] | None) -> tuple[str, ...]:
    """Return the setup as a guest holds it.

    Raises:
        SettingError: it is neither text nor a path.
    """
    if setup is None:
        return ()
    text = os.fspath(setup) if hasattr(setup, "__fspath__") else setup
    if not isinstance(text, str):
        raise SettingError(
            source="Guest", name="setup", value=setup,
            allowed="write shell text, or the path of a script; several commands as several lines",
        )  # fmt: skip
    return (text,)


def script(setup: str, root: Path) -> bytes:
    """Return the setup's bytes, of whatever encoding: the script's content where it names one."""
    script = existing_file(setup, root)
    return text_bytes(f"{setup}\n") if script is None else host_files.read(script, "the setup")


def refuse_words_for_a_kernel(initrd: str | os.PathLike[str] | None, append: str) -> None:
    """Raise `SettingError` where words or an initrd lack their kernel."""
    if initrd is not None or append:
        raise SettingError(
            source="Guest.disk", name="append" if initrd is None else "initrd",
            value=str(initrd or append),
            allowed="it goes with kernel=, and without one the image's boot loader decides",
        )  # fmt: skip


def one_of(
    name: str, value: str | None, allowed: tuple[str | None, ...], source: str = "Guest.disk"
) -> None:
    """Raise `SettingError` where a value is none of those allowed."""
    if value not in allowed:
        words = ", ".join(word for word in allowed if word)
        raise SettingError(source=source, name=name, value=value, allowed=f"one of {words}")


def refuse_unknown(keywords: Collection[str], source: str, allowed: Sequence[str]) -> None:
    """Raise `SettingError` where a keyword is none of those allowed."""
    for name in keywords:
        if name not in allowed:
            raise SettingError(
                source=source, name=name, value="…",
                allowed=f"no such keyword; those for the disk that it may hold are "
                f"{', '.join(allowed)}",
            )  # fmt: skip


def refuse_for_disk(name: str, files: Mapping[str, str], setup: Sequence[str]) -> None:
    """Raise `SettingError` where a disk image is to be given what only a guest of ours takes."""
    for what, value in (("files", dict(files)), ("setup", "\n".join(setup))):
        if value:
            raise SettingError(
                source=f"guest {name}", name=what, value=value,
                allowed="a disk image takes neither files nor setup: give it user_data",
            )  # fmt: skip


def refuse_for_container(name: str, seed: object, firmware: str) -> None:
    """Raise `SettingError` where a container is to be given what only a disk takes."""
    if seed is not None or firmware != "bios":
        what, value = ("user_data", "…") if seed is not None else ("firmware", firmware)
        raise SettingError(
            source=f"guest {name}", name=what, value=value,
            allowed="this container image holds no disk: give it files, setup, command or env",
        )  # fmt: skip


def mappings(ports: Sequence[Any] | str | int, source: str) -> tuple[PortMapping, ...]:
    """Return the guest ports that are forwarded, in any spelling.

    Raises:
        SettingError: one is none.
    """
    try:
        return parse_ports(ports)
    except (ValueError, TypeError) as error:
        raise SettingError(source=source, name="ports", value=ports, allowed=str(error)) from error


def behind(
    backing: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> tuple[Path, ...]:
    """Return the files that may stand behind an image.

    Raises:
        GuestNotFoundError: one cannot be read.
    """
    files = (backing,) if isinstance(backing, (str, os.PathLike)) else backing
    return tuple(image_file("backing file", file) for file in files)


def image_file(what: str, path: str | os.PathLike[str]) -> Path:
    """Return where a file of a guest is.

    Raises:
        GuestNotFoundError: it cannot be read, or is empty.
    """
    try:
        found = absolute(path)
    except ValueError as error:
        raise GuestNotFoundError(
            what=f"the guest's {what} {os.fspath(path)!r} cannot be found", remedy=str(error)
        ) from error
    problem = host_files.problem(found, path)
    if problem is None and found.stat().st_size == 0:
        problem = "is empty", "fetch or build it again"
    if problem is not None:
        raise GuestNotFoundError(what=f"the guest's {what} {found} {problem[0]}", remedy=problem[1])
    return found.resolve()
