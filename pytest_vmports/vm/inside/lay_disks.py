"""What a VM that starts from a template has beside its disks, and the disks themselves."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from pytest_vmports.guests import image as image_file
from pytest_vmports.guests import overlay
from pytest_vmports.vm.inside.ssh import copy_key
from pytest_vmports.vm.saved import VARIABLES, overlays

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

KEY = "ssh_key"
NOTE = "agent"
"""Name of a file beside a VM's disks, and a template's: our agent is in its guest."""


def lay_disks(
    folder: Path, workdir: Path, behind: Sequence[Path], bases: Mapping[str, tuple[Path, str]]
) -> tuple[Path, ...]:
    """Give a VM that will start from a template disks of its own, on top of the template's.

    A template without disks has none to lay.

    Args:
        folder: the template's.
        workdir: the VM's private folder.
        behind: the image's files, which stand behind the template's disk.
        bases: the image, and its format, that each of its disks lies on; see `Plan.bases`.

    Returns:
        the template's files that its disks lie on.

    Raises:
        ImageError: no overlay can be made.
        OSError: a file cannot be copied.
    """
    below = tuple(overlays(folder))
    for file in below:
        if not overlay.lay(file, workdir / file.name, bases.get(file.name)):
            image_file.make_overlay(file, "qcow2", workdir / file.name, behind)
    if (folder / VARIABLES).exists():
        shutil.copyfile(folder / VARIABLES, workdir / VARIABLES)
    if (folder / KEY).exists():
        copy_key(folder / KEY, workdir / KEY)
    if (folder / NOTE).exists():
        shutil.copyfile(folder / NOTE, workdir / NOTE)
    return below
