"""Files from elsewhere: what is missing of one is fetched, and it is checked before it is believed.

`pooch` checks and publishes; the way there is ours, since it goes on where another one ended.
Source: RFC 9110, "Range Requests".
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_vmports.errors import FetchError, HostError
from pytest_vmports.system import clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What has not come in whole is lost when a connection ends.
_CHUNK: Final = 1 << 14
# Seconds until a server has to answer, and until the next byte has to come.
_ANSWER_SECONDS, _SILENT_SECONDS = 20.0, 30.0
# A server that sends less than so many bytes in so many seconds will be at it all day.
_SLOW_BYTES, _SLOW_SECONDS = 64 << 10, 60.0
# In a row, without anything new in between.
_TRIES: Final = 3
_MOST_TEXT: Final = 4 << 20
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_PARTIAL, _TOO_FAR, _THEIR_FAULT = 206, 416, 500
_AGAIN: Final = "try again: what has come is kept, and the rest is fetched"
_COMPARE: Final = "compare its digest with the one that its makers publish"
_MIB: Final = 1 << 20


@dataclass
class Wanted:
    """One file that is wanted, and how far it is.

    Attributes:
        url: its address.
        known: its digest as pooch takes it, ``sha512:…``; None accepts whatever comes.
        part: the file that keeps what has come of it.
        most: bytes that it may have.
        came: bytes that are there.
        size: bytes that it has in all; 0 where nobody said.
    """

    url: str
    known: str | None
    part: Path
    most: int
    came: int = 0
    size: int = 0

    def how_far(self) -> str:
        """Return how far it is, for people."""
        of = f" of {self.size / _MIB:.0f}" if self.size else ""
        return f"{self.came / _MIB:.0f}{of} MiB" if self.came else "waiting for the server"


def need_pooch() -> Any:
    """Return the package that fetches.

    Raises:
        HostError: it is not installed.
    """
    try:
        import pooch  # noqa: PLC0415 - an extra, and few need it
    except ImportError as error:
        raise HostError(
            "images are fetched by pooch, which is not installed: pip install "
            "'pytest-vmports[images]'"
        ) from error
    return pooch


def fetch(wanted: Wanted, target: Path) -> None:
    """Fetch a file, and see that it is the right one.

    Args:
        wanted: what.
        target: a file that is not there, in a folder that is.

    Raises:
        FetchError: it cannot be had, or is another one.
        HostError: pooch is missing.
    """
    pooch = need_pooch()
    with _quiet(pooch):
        for again in (True, False):
            resumed = wanted.part.exists()
            try:
                pooch.retrieve(
                    wanted.url, wanted.known, fname=target.name, path=target.parent,
                    downloader=_Downloader(wanted),
                )  # fmt: skip
            except ValueError as error:
                # A part of yesterday's file and one of today's may not fit.
                if resumed and again:
                    continue
                problem = "it is another file than it should be, or came damaged"
                raise FetchError(
                    source=wanted.url, problem=f"{problem}: {_differs(str(error))}",
                    remedy=_COMPARE,
                ) from error  # fmt: skip
            return


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the digest of a file's content, in hexadecimal digits.

    Raises:
        HostError: pooch is missing.
    """
    return str(need_pooch().file_hash(str(path), alg=algorithm))


def compare(path: Path, known: str, written: str) -> None:
    """See that a file has the content that it should have.

    Args:
        path: the file.
        known: its digest, as ``sha256:…``.
        written: as the user names it.

    Raises:
        FetchError: it has another one.
        HostError: pooch is missing.
    """
    algorithm, _, wanted = known.partition(":")
    if (found := digest(path, algorithm)) != wanted:
        raise FetchError(
            source=written, problem=f"its {algorithm} is {found} and should be {wanted}",
            remedy=_COMPARE,
        )  # fmt: skip


def marks(url: str) -> str:
    """Return by what a server tells the content that it has now from another, or nothing.

    Raises:
        FetchError: it does not answer.
        HostError: pooch is missing.
    """
    need_pooch()
    with _told(url), _asked(url, {}, "HEAD") as answer:
        names = ("ETag", "Last-Modified", "Content-Length")
        return " ".join(answer.headers[name] for name in names if name in answer.headers)


def fetch_text(url: str) -> str:
    """Return a short text, as a checksum list.

    Raises:
        FetchError: it cannot be had.
        HostError: pooch is missing.
    """
    need_pooch()
    with _told(url), _asked(url, {}) as answer:
        found = bytearray()
        for chunk in answer.iter_content(_CHUNK):
            found += chunk
            if len(found) > _MOST_TEXT:
                raise FetchError(
                    source=url, problem=f"it has more than {_MOST_TEXT} bytes, as no list has",
                    remedy="look at what comes from there",
                )  # fmt: skip
        return found.decode("utf-8", "replace")


class _Downloader:
    """As pooch takes one: called with address, file and itself."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        wanted, failed = self._wanted, 0
        while True:
            before = _size(wanted.part)
            try:
                with _told(url):
                    _go_on(wanted)
                break
            except FetchError as error:
                failed = failed + 1 if _size(wanted.part) <= before else 0
                if failed >= _TRIES or not error.fields.get("passing"):
                    raise
        wanted.part.replace(output_file)


def _go_on(wanted: Wanted) -> None:
    """Fetch what is missing."""
    there = _size(wanted.part)
    headers = {"Range": f"bytes={there}-"} if there else {}
    with _asked(wanted.url, headers) as answer:
        if answer.status_code == _TOO_FAR:
            if answer.headers.get("Content-Range", "").endswith(f"/{there}"):
                return  # it is whole, and whoever fetched it was killed
            wanted.part.unlink()
            problem = "the server has less than came before"
            raise FetchError(source=wanted.url, problem=problem, remedy=_AGAIN, passing=True)
        begin = _begin(answer, there)
        length = answer.headers.get("Content-Length", "")
        wanted.size = begin + int(length) if length.isdigit() else 0
        wanted.came = begin
        _refuse_too_large(wanted)
        with wanted.part.open("r+b" if begin else "wb") as file:
            file.seek(begin)
            for chunk in _paced(wanted, answer):
                file.write(chunk)
                wanted.came += len(chunk)
                if wanted.came > wanted.most:
                    _refuse_too_large(wanted)
            file.truncate()
    if wanted.size and wanted.came < wanted.size:
        problem = f"the server ended after {wanted.came} of {wanted.size} bytes"
        raise FetchError(source=wanted.url, problem=problem, remedy=_AGAIN, passing=True)


def _begin(answer: Any, there: int) -> int:
    """Return the place in the file at which an answer begins."""
    if answer.status_code != _PARTIAL:
        return 0
    found = _RANGE.match(answer.headers.get("Content-Range", ""))
    if found is None or int(found[1]) > there:
        raise FetchError(
            source=answer.url, problem="the server sends another part than it was asked for",
            remedy="fetch the file by hand, and name that",
        )  # fmt: skip
    return int(found[1])


def _paced(wanted: Wanted, answer: Any) -> Iterator[bytes]:
    """Yield what comes, and give up when it will take for ever."""
    since, then = clock.now(), wanted.came
    for chunk in answer.iter_content(_CHUNK):
        yield chunk
        if clock.now() - since < _SLOW_SECONDS:
            continue
        if wanted.came - then < _SLOW_BYTES:
            raise FetchError(
                source=wanted.url, problem=f"{wanted.came - then} bytes came in "
                f"{_SLOW_SECONDS:.0f} seconds, and {wanted.came} in all", remedy=_AGAIN,
            )  # fmt: skip
        since, then = clock.now(), wanted.came


def _refuse_too_large(wanted: Wanted) -> None:
    size = max(wanted.size, wanted.came)
    if size > wanted.most:
        raise FetchError(
            source=wanted.url, problem=f"it has {size / _MIB:.0f} MiB or more, and all images "
            f"may take {wanted.most / _MIB:.0f} MiB", remedy="raise images_size",
        )  # fmt: skip
    missing = wanted.size - wanted.came
    free = shutil.disk_usage(wanted.part.parent).free
    if missing > free:
        raise FetchError(
            source=wanted.url, problem=f"{missing / _MIB:.0f} MiB of it are missing, and "
            f"{wanted.part.parent} has room for {free / _MIB:.0f}",
            remedy="free some space, or set images_dir",
        )  # fmt: skip


@contextlib.contextmanager
def _asked(url: str, headers: dict[str, str], method: str = "GET") -> Iterator[Any]:
    import requests  # noqa: PLC0415 - comes with pooch

    # As it is: one that is packed for the way has no length and no parts.
    sent = {"Accept-Encoding": "identity", "User-Agent": "pytest-vmports", **headers}
    with requests.request(
        method, url, headers=sent, stream=True, allow_redirects=True,
        timeout=(_ANSWER_SECONDS, _SILENT_SECONDS),
    ) as answer:  # fmt: skip
        if answer.url.startswith("http:") and url.startswith("https:"):
            raise FetchError(
                source=url, problem=f"it leads to {answer.url}, where anybody may answer",
                remedy="give that address with its sha256",
            )  # fmt: skip
        if answer.status_code != _TOO_FAR and not answer.ok:
            raise FetchError(
                source=url, problem=f"the server says {answer.status_code} {answer.reason}",
                remedy="look whether the address is right, and try again later",
                passing=answer.status_code >= _THEIR_FAULT,
            )  # fmt: skip
        yield answer


@contextlib.contextmanager
def _told(url: str) -> Iterator[None]:
    """Make what requests says an error of ours."""
    import requests  # noqa: PLC0415 - comes with pooch

    try:
        yield
    except requests.RequestException as error:
        # One from within another, the innermost of which says why.
        inner: BaseException = error
        while inner.__context__ is not None:
            inner = inner.__context__
        problem = f"{type(error).__name__}: {' '.join(str(inner).split())}"
        raise FetchError(source=url, problem=problem, remedy=_AGAIN, passing=True) from error
    except OSError as error:
        raise FetchError(
            source=url, problem=f"it cannot be kept: {error}",
            remedy="free some space, or set images_dir",
        ) from error  # fmt: skip


@contextlib.contextmanager
def _quiet(pooch: Any) -> Iterator[None]:
    """Let pooch write nothing to the terminal."""
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _differs(said: str) -> str:
    """Return both digests of what pooch says."""
    return "; ".join(re.findall(r"(?:expected|got)\W+\S+", said)) or said.splitlines()[0]
