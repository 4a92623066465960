"""Tars of whoever: what a member's header can have the reader keep in memory has a bound."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

MOST_MEMBERS: Final = 1_000_000
# A name is no longer than a path; what else pax tells of a file is a few attributes.
_MOST_HEADER: Final = 1 << 20
_BUFFER: Final = 1 << 20
_TOLD = {
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
}  # fmt: skip


class _Bounded(tarfile.TarInfo):
    """A header whose long parts are refused before they are read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Bounded:
        found = super().frombuf(buf, encoding, errors)
        if found.type in _TOLD and found.size > _MOST_HEADER:
            raise tarfile.ReadError(f"a file's name or attributes have {found.size} bytes")
        return found


def open_tar(file: IO[bytes], *, once: bool = False) -> tarfile.TarFile:
    """Return a tar that is not compressed, opened for reading.

    Args:
        file: its content.
        once: that is read from its begin to its end and no other way.

    Raises:
        tarfile.TarError: it is none.
    """
    if once:
        return tarfile.open(fileobj=file, mode="r|", tarinfo=_Bounded, bufsize=_BUFFER)
    return tarfile.open(fileobj=file, mode="r:", tarinfo=_Bounded)


def members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar of `open_tar`, one after the other.

    Raises:
        tarfile.TarError: it is damaged, or has more of something than is read.
    """
    for number, member in enumerate(tar):
        if number >= MOST_MEMBERS:
            raise tarfile.ReadError(f"it has more than {MOST_MEMBERS} files")
        yield member
