"""UEFI firmware: where QEMU's own descriptions say it is.

Source: QEMU's ``docs/interop/firmware.json``. Distributions install one description per build, and
the order of their names is the order of preference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vmports.errors import FirmwareNotFoundError
from pytest_vmports.system.programs import install_hint
from pytest_vmports.system.small_file import read_object

if TYPE_CHECKING:
    from pytest_vmports.system.architecture import Architecture

PLACES = (
    Path("/etc/qemu/firmware"),
    Path("/usr/share/qemu/firmware"),
    Path("/usr/local/share/qemu/firmware"),
    Path("/opt/homebrew/share/qemu/firmware"),
)
# They would refuse boot loaders that nobody signed, or need a machine type with SMM.
_WANTED = {"secure-boot", "enrolled-keys"}
_UNWANTED = {"secure-boot", "enrolled-keys", "requires-smm"}


@dataclass(frozen=True)
class Firmware:
    """The program, and the content that a new machine's variables have."""

    code: Path
    variables: Path


def find_firmware(architecture: Architecture, *, secure: bool = False) -> Firmware:
    """Return UEFI firmware for an architecture.

    Args:
        architecture: of the guest, with its board.
        secure: with Secure Boot on, and the keys that distributions' loaders are signed for;
            otherwise without Secure Boot.

    Raises:
        FirmwareNotFoundError: none is installed; says where it was looked for.
    """
    for place in PLACES:
        for path in sorted(place.glob("*.json")):
            firmware = _usable(_described(path), architecture, secure=secure)
            if firmware is not None:
                return firmware
    tried = "\n".join(f"  {place}/*.json" for place in PLACES)
    how = install_hint(architecture.uefi)
    raise FirmwareNotFoundError(
        architecture=architecture.name, tried=tried,
        remedy=f"install it ({how}), or boot with firmware='bios' or a kernel",
    )  # fmt: skip


def _described(path: Path) -> dict[str, Any]:
    """Return what a file says of firmware; nothing of one that is damaged, or no file."""
    try:
        return read_object(path.resolve())
    except (OSError, ValueError):
        return {}


def _usable(
    description: dict[str, Any], architecture: Architecture, *, secure: bool
) -> Firmware | None:
    features = set(description.get("features", ()))
    right = features >= _WANTED if secure else not _UNWANTED & features
    mapping = description.get("mapping", {})
    fits = any(
        target["architecture"] == architecture.name
        and any(name.startswith(architecture.boards) for name in target["machines"])
        for target in description.get("targets", ())
    )
    if (
        not fits
        or "uefi" not in description.get("interface-types", ())
        or mapping.get("device") != "flash"
        or "nvram-template" not in mapping
        or not right
    ):
        return None
    parts = mapping["executable"], mapping["nvram-template"]
    if any(part.get("format") != "raw" or not Path(part["filename"]).is_file() for part in parts):
        return None
    return Firmware(*(Path(part["filename"]) for part in parts))
