"""Files in a folder that others share: of this host, or wherever fsspec reaches.

Source: fsspec's documentation, ``fsspec.core.url_to_fs`` and ``AbstractFileSystem``.
"""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from pytest_vmports.errors import HostError
from pytest_vmports.system.whole_file import whole_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

_CHUNK: Final = 1 << 20
_MISSING: Final = 404


class FarError(Exception):
    """The folder cannot be used, or not in time; its text says why."""


class FarFileError(FarError):
    """One file of it cannot be used."""


class FarFiles(Protocol):
    """A folder."""

    def get(self, name: str, target: Path, most: int) -> bool:
        """Fetch a file; False where there is none of this name.

        Raises:
            FarError: it cannot be fetched, or has more than ``most`` bytes.
        """

    def put(self, source: Path, name: str) -> None:
        """Put a file there: whoever asks meets all of it, or none.

        Raises:
            FarError: it cannot be put there.
        """


def far_files(url: str) -> FarFiles:
    """Return a folder by its address: a path, ``file:``, or one of fsspec's.

    Raises:
        HostError: what reaches it is not installed.
    """
    if (found := re.match(r"([a-zA-Z][\w+.-]*):(?://)?", url)) is None or found[1] == "file":
        return _Folder(Path(url if found is None else url[found.end() :]))
    try:
        import fsspec  # noqa: PLC0415 - few need it
    except ImportError as error:
        raise HostError(
            "it is reached by fsspec, and that is missing: pip install 'pytest-vmports[store]'"
        ) from error
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        raise HostError(f"nothing here reaches it: {error}") from error
    return _Far(system, path)


class _Folder:
    """A folder of this host."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, name: str, target: Path, most: int) -> bool:
        try:
            with (self._path / name).open("rb") as file, target.open("wb") as copy:
                _copy(file, copy, most)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise FarError(str(error)) from error
        return True

    def put(self, source: Path, name: str) -> None:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            with whole_file(self._path / name) as copy, source.open("rb") as file:
                shutil.copyfileobj(file, copy, _CHUNK)
        except OSError as error:
            raise FarError(str(error)) from error


class _Far:
    """A folder that fsspec reaches."""

    def __init__(self, system: Any, path: str) -> None:
        self._system, self._path = system, path.rstrip("/")
        self._web = "http" in system.protocol

    def get(self, name: str, target: Path, most: int) -> bool:
        try:
            with self._system.open(f"{self._path}/{name}", "rb") as file, target.open("wb") as copy:
                _copy(file, copy, most)
        except FileNotFoundError as error:
            why = error.__cause__
            # fsspec says so of whatever a web server answers, and where there is none.
            if self._web and isinstance(why, Exception) and getattr(why, "status", 0) != _MISSING:
                raise _told(why) from error
            return False
        except FarError:
            raise
        except Exception as error:
            raise _told(error) from error
        return True

    def put(self, source: Path, name: str) -> None:
        try:
            how = {"method": "put"} if self._web else {}
            self._system.put_file(str(source), f"{self._path}/{name}", **how)
        except Exception as error:
            raise _told(error) from error


def in_time(seconds: float, do: Callable[[], None], what: str) -> None:
    """Return when something is done, which may never end: then it is left alone.

    Raises:
        FarError: it did not end in time, or raised that.
    """
    raised: list[BaseException] = []

    def tried() -> None:
        try:
            do()
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            raised.append(error)

    thread = threading.Thread(target=tried, name=f"vmports-{what}", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise FarError(f"it did not end within {seconds:g} s")
    if raised:
        raise raised[0]


def _copy(file: BinaryIO, target: BinaryIO, most: int) -> None:
    size = 0
    while piece := file.read(_CHUNK):
        size += len(piece)
        if size > most:
            raise FarFileError(f"it has more than {most >> 20} MiB")
        target.write(piece)


def _told(error: Exception) -> FarError:
    # Each of fsspec's file systems has errors of its own.
    return FarError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
