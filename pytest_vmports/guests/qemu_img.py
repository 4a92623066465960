"""qemu-img, which reads images that anybody may have made: kept to their files, and short."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.errors import QemuNotFoundError
from pytest_vmports.system import landlock, program_files, seccomp, surroundings
from pytest_vmports.system.confined import Confinement
from pytest_vmports.system.landlock import Walls
from pytest_vmports.system.probing import ask
from pytest_vmports.system.programs import install_hint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_TOOL_SECONDS = 120.0
# A file of holes, whose tables name as many clusters as they like, would have it take all there is.
_MOST_MEMORY = 4 << 30
# Of an image that is damaged on purpose it tells a line for each of millions of clusters.
_MOST_SAID = 4 << 20


def qemu_img(
    arguments: Sequence[str],
    *,
    read: Sequence[Path],
    write: Sequence[Path] = (),
    timeout: float | None = None,
) -> tuple[int, str, str]:
    """Return exit status, output and errors of ``qemu-img``.

    Args:
        arguments: for it.
        read: the files that it needs.
        write: the folders that it makes files in.
        timeout: seconds that it may take; None means what suffices where it writes no more than a
            few blocks.

    Raises:
        QemuNotFoundError: there is none.
        ProgramStoppedError: it had no end, or wanted too much.
    """
    program = surroundings.which("qemu-img")
    if program is None:
        raise QemuNotFoundError(
            tried="  qemu-img from PATH: not there; a disk image's writes need an overlay",
            remedy=f"install it ({install_hint('qemu')})",
        )
    confinement = None
    if landlock.problem() is None and (own := program_files.needed_by(program)) is not None:
        walls = Walls((*own, *read), tuple(write), program_files.DEVICES)
        refused = () if seccomp.problem() else (seccomp.ATTRIBUTES, "connect", "bind", "listen")
        confinement = Confinement(walls, binds=False, connects=False, refused=refused)
    answer = ask(
        [program, *arguments], timeout=timeout or _TOOL_SECONDS, confinement=confinement,
        memory=_MOST_MEMORY, most=_MOST_SAID,
    )  # fmt: skip
    return answer.code, answer.output, answer.errors
