"""Archives that no honest tar would write, and a guest that sends them."""

from __future__ import annotations

import itertools
import tarfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vmports.vm.inside.shell import Sink

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)


class Guest:
    """A guest that answers all with this; `asked` is how often, `sent` how much it said."""

    def __init__(self, *pieces: bytes, errors: Iterable[bytes] = (), code: int | None = 0) -> None:
        self.pieces: Iterable[bytes] = pieces
        self.errors, self.code = errors, code
        self.sent = self.asked = 0

    def execute(
        self,
        _command: str,
        *,
        timeout: float | None,
        input: bytes | Iterable[bytes],  # noqa: A002
        sink: Sink,
        per_progress: bool = False,
    ) -> tuple[int | None, bytes, bytes]:
        """Send it all; see `Shell`."""
        self.asked += 1
        for piece in self.errors:
            sink.err(piece)
        for piece in self.pieces:
            self.sent += len(piece)
            sink.out(piece)
        return self.code, b"", b""


def head(name: str = "app", kind: bytes = tarfile.REGTYPE, size: int = 0, **facts: Any) -> bytes:
    """Return a header, which may lie of the size of what follows."""
    member = tarfile.TarInfo(name)
    member.type, member.size, member.mode = kind, size, 0o644
    for fact, value in facts.items():
        setattr(member, fact, value)
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def file(name: str = "app", content: bytes = b"content", **facts: Any) -> bytes:
    """Return a file with its header."""
    return head(name, size=len(content), **facts) + padded(content)


def folder(name: str = "app", **facts: Any) -> bytes:
    """Return a folder."""
    return head(name, tarfile.DIRTYPE, **{"mode": 0o755, **facts})


def extended(records: bytes | dict[str, str], kind: bytes = tarfile.XHDTYPE) -> bytes:
    """Return a PAX header."""
    if isinstance(records, dict):
        records = b"".join(itertools.starmap(record, records.items()))
    return head("PaxHeader", kind, len(records)) + padded(records)


def record(key: str, value: str) -> bytes:
    """Return a line of a PAX header."""
    line = f" {key}={value}\n".encode("utf-8", "surrogateescape")
    length = len(line)
    while length != len(line) + len(str(length)):
        length = len(line) + len(str(length))
    return str(length).encode() + line


def padded(content: bytes) -> bytes:
    """Return content in whole blocks."""
    return content + bytes(-len(content) % BLOCK)


def patched(block: bytes, at: int, data: bytes) -> bytes:
    """Return a header with other bytes at a place, and the sum that goes with them."""
    changed = bytearray(block)
    changed[at : at + len(data)] = data
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed[:BLOCK])
    return bytes(changed)
