"""What a guest is told that runs a container image: where its files come from, and its service."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from pytest_vmports.errors import SettingError
from pytest_vmports.guests import initramfs
from pytest_vmports.system.digests import content_digest
from pytest_vmports.system.small_file import read_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_vmports.system.architecture import Architecture

# Beside the disk that they are unpacked to: all files of the image, and how its service starts.
FILES: Final = "container.tar"
FACTS: Final = "container.json"
_ROOT: Final = "/vmports/disk"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Container:
    """A container image's service.

    Attributes:
        command: its words; none where the image is only a place to run commands in.
        variables: its environment.
        folder: where it begins.
        user: the number of its user.
        groups: the numbers of its groups, its own first.
    """

    command: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    folder: str = "/"
    user: int = 0
    groups: tuple[int, ...] = (0,)

    def over(self, below: Container) -> Container:
        """Return what an image says, with what was said of its guest in place of that."""
        variables = {**dict(below.variables), **dict(self.variables)}
        return replace(
            below, command=self.command or below.command, variables=tuple(variables.items())
        )

    @property
    def environment(self) -> dict[str, str]:
        """What programs in it find in their environment."""
        return {"PATH": _PATH, **dict(self.variables)}

    def service(self, architecture: Architecture) -> bytes:
        """Return the script that becomes its service; run by the initrd's shell."""
        variables = {"HOSTNAME": "vmports", **self.environment}
        words = [
            "exec", "/bin/busybox", "env", "-i", *(f"{k}={v}" for k, v in variables.items()),
            f"/vmports/{architecture.agent}", "enter", _ROOT, self.folder, str(self.user),
            ",".join(map(str, self.groups)), *self.command,
        ]  # fmt: skip
        return f"{shlex.join(words)}\n".encode(errors="surrogateescape")


def inside(container: Container | None) -> bytes:
    """Return the script that runs its words in the root of a guest whose programs are on a disk."""
    variables = {} if container is None else container.environment
    words = ["exec", "/bin/busybox", "env", *(f"{k}={v}" for k, v in variables.items())]
    words += ["/bin/busybox", "chroot", _ROOT]
    return f'#!/bin/busybox sh\n{shlex.join(words)} "$@"\n'.encode(errors="surrogateescape")


def entries(container: Container | None, architecture: Architecture) -> list[initramfs.Entry]:
    """Return what of these scripts goes to the initrd of a guest whose programs are on a disk."""
    made = [initramfs.file_entry("vmports/inside", inside(container), 0o755)]
    if container is not None and container.command:
        service = container.service(architecture)
        made.append(initramfs.file_entry("vmports/service", service, 0o755))
    return made


def asked(command: str | Sequence[str] | None, env: Mapping[str, str] | None) -> Container:
    """Return what of a container is said beside its image.

    Raises:
        SettingError: it is neither words nor variables.
    """
    words = shlex.split(command) if isinstance(command, str) else list(command or ())
    if not all(isinstance(word, str) and "\0" not in word for word in words):
        raise _refusal(
            "command", command, "the words of a command, as ['nginx', '-g', 'daemon off;']"
        )
    variables = dict(env or {})
    for name, value in variables.items():
        if not isinstance(name, str) or not name or "=" in name or not isinstance(value, str):
            raise _refusal("env", {name: value}, "names and their values, both text")
    return Container(tuple(words), tuple(variables.items()))


def read(disk: Path) -> Container | None:
    """Return what was written beside a disk; None where it is no container's.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    path = disk.with_name(FACTS)
    if not path.exists():
        return None
    found = read_object(path)
    return Container(
        tuple(found["command"]), tuple((str(k), str(v)) for k, v in found["variables"]),
        str(found["folder"]), int(found["user"]), tuple(map(int, found["groups"])),
    )  # fmt: skip


def write(container: Container, folder: Path) -> None:
    """Write it beside the disk that will be in a folder."""
    (folder / FACTS).write_text(json.dumps(asdict(container)))


def identity(disk: Path) -> str:
    """Return what tells its files' content from another's, for the key of a template."""
    return content_digest(disk.with_name(FILES))


def _refusal(name: str, value: object, allowed: str) -> SettingError:
    return SettingError(source="Guest.oci", name=name, value=value, allowed=allowed)
