"""Files that grow while we look, as logs do: read in pieces or by their ends, and kept in bounds.

Who writes them is not trusted: what we read at a time is bounded, whatever their size, and the
middle of one that becomes too large is given back to the file system. Its size stays, so the
writer, who does not know of that, writes on where it was.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import errno
import io
import os
import threading
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from pytest_vmports.system import surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

# Of what was written since the last look, so much is looked at.
MOST: Final = 1 << 20
# Source: linux/falloc.h.
_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02
_BLOCK, _SECTOR = 4096, 512
# The begin of a file is this part of what may be kept of it.
_HEAD_SHARE = 8
# As fast as a serial port takes bytes, that is some megabytes.
_LOOK_SECONDS = 0.5


class Piece(NamedTuple):
    """What a file has got.

    Attributes:
        text: the new part.
        left_out: how many bytes before it are not told, since there were too many.
        anew: the file was begun anew, and this is its begin.
    """

    text: str = ""
    left_out: int = 0
    anew: bool = False


class Follower:
    """Reads on in a file that grows.

    Args:
        path: the file; it need not be there yet.
        most: bytes that are read at a time.
    """

    def __init__(self, path: Path, most: int = MOST) -> None:
        self._path = path
        self._most = most
        self._read = 0
        # A character may be torn between two pieces.
        self._decoder = _decoder()

    def read(self) -> Piece:
        """Return what is new; of much that is new, the end.

        Raises:
            OSError: it cannot be read.
        """
        with contextlib.suppress(FileNotFoundError):
            size = self._path.stat().st_size
            anew = size < self._read
            if anew:
                self._read = 0
            left_out = max(0, size - self._read - self._most)
            if anew or left_out:
                self._decoder.reset()
            if size > self._read:
                with self._path.open("rb") as file:
                    file.seek(self._read + left_out)
                    data = file.read(self._most)
                self._read += left_out + len(data)
                return Piece(self._decoder.decode(data), left_out, anew)
            return Piece(anew=anew)
        return Piece()


class Ends(NamedTuple):
    """What there is of a file: its begin up to ``head``, and from ``tail`` on to ``size``.

    Both are 0 where nothing is left out between them.
    """

    head: int
    tail: int
    size: int

    @property
    def left_out(self) -> int:
        """How many bytes are left out between them."""
        return self.tail - self.head


def ends_of(file: BinaryIO, limit: int) -> Ends:
    """Return what there is of a file, at most ``limit`` bytes of it.

    Args:
        file: an open regular file, or one in memory.
        limit: in bytes.
    """
    size = file.seek(0, os.SEEK_END)
    hole, data = _hole(file, size)
    head = min(hole, limit // _HEAD_SHARE)
    tail = max(data, size - (limit - head))
    return Ends(head, tail, size) if tail > head else Ends(0, 0, size)


def texts(file: BinaryIO, ends: Ends, note: str) -> Iterator[str]:
    """Yield a file's text in pieces, with a note in the place of what is left out.

    Line ends are those of Python's texts.
    """
    parts = [(0, ends.head), (ends.tail, ends.size)] if ends.left_out else [(0, ends.size)]
    for begin, end in parts:
        if begin:
            yield note
        decoder = io.IncrementalNewlineDecoder(_decoder(), translate=True)
        file.seek(begin)
        for at in range(begin, end, MOST):
            yield decoder.decode(file.read(min(MOST, end - at)))
        yield decoder.decode(b"", final=True)


def read_text(path: Path, limit: int) -> str:
    """Return the text of a file that may have grown large: at most ``limit`` bytes of it.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        ends = ends_of(file, limit)
        return "".join(texts(file, ends, f"\n({ends.left_out} bytes are left out)\n"))


def free_middle(path: Path, limit: int) -> None:
    """Give a file's middle back to the file system where the file takes more than ``limit`` of it.

    Its begin and as much as half of the limit of its end stay.

    Raises:
        OSError: it cannot be done on this host or its file system.
    """
    with contextlib.suppress(FileNotFoundError):
        told = path.stat()
        if told.st_blocks * _SECTOR <= limit:
            return
        begin = limit // _HEAD_SHARE // _BLOCK * _BLOCK
        end = (told.st_size - limit // 2) // _BLOCK * _BLOCK
        if end > begin:
            _punch(path, begin, end - begin)


class Looks:
    """A thread that looks again and again, as a file that grows raises no event; to be closed.

    Args:
        name: of the thread.
        seconds: between two looks.
        look: is told whether it is the last one.
    """

    def __init__(self, name: str, seconds: float, look: Callable[[bool], None]) -> None:
        self._seconds, self._look = seconds, look
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it, after a last look. Safe to call again."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        over = False
        while not over:
            over = self._over.wait(self._seconds)
            for once_more in (True, False):
                try:
                    self._look(over)
                    break
                except Exception:
                    if surroundings.changed():
                        break  # by the test that runs meanwhile: a later look sees what there is
                    if not once_more:  # it may just have put back what it had changed
                        raise


class Bounds:
    """Keeps files in bounds, by a thread; close it, or it lives as long as the process.

    Args:
        limits: the files, each with its limit in bytes.
        logs: of every other file in a folder whose name ends in ``.log``, the folder and the limit.

    Attributes:
        problems: what could not be kept in bounds, a line each.
    """

    def __init__(self, limits: Mapping[Path, int], logs: tuple[Path, int] | None = None) -> None:
        self.problems: list[str] = []
        self._limits, self._logs = dict(limits), logs
        self._given_up: set[Path] = set()
        self._looks = Looks("vmports-bounds", _LOOK_SECONDS, self._look_at_all)

    def close(self) -> None:
        """End it, after a last look. Safe to call again."""
        self._looks.close()

    def _look_at_all(self, _last: bool) -> None:
        if self._logs is not None:
            folder, limit = self._logs
            for path in folder.glob("*.log"):  # of a folder that is gone, none
                self._limits.setdefault(path, limit)
        for path, limit in self._limits.items():
            if path not in self._given_up:
                self._look(path, limit)

    def _look(self, path: Path, limit: int) -> None:
        try:
            free_middle(path, limit)
        except OSError as error:
            self._given_up.add(path)
            self.problems.append(f"{path.name} is not kept below {limit} bytes: {error}")


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")


def _hole(file: BinaryIO, size: int) -> tuple[int, int]:
    """Return where a file's first hole begins and ends; its size twice where it has none."""
    try:
        number = file.fileno()
        hole = os.lseek(number, 0, os.SEEK_HOLE)
        if hole >= size:
            return size, 0
        return hole, os.lseek(number, hole, os.SEEK_DATA)
    except (OSError, AttributeError):  # in memory, or on a host or file system without holes
        return size, 0


def _punch(path: Path, begin: int, size: int) -> None:
    call = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if call is None:
        raise OSError(errno.EOPNOTSUPP, "this system has no call that frees a part of a file")
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if call(file, _PUNCH_HOLE | _KEEP_SIZE, begin, size):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(file)
