"""Where an image comes from: a name, an address, or a file that may have to be unpacked."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from pytest_vmports.errors import SettingError
from pytest_vmports.guests import catalogue

if TYPE_CHECKING:
    from pytest_vmports.guests.catalogue import Release

_DIGEST = re.compile(r"[0-9a-f]{64}")
_FRAGMENT = re.compile(r"sha256=([0-9a-fA-F]{64})")
_ADDRESS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/")
_WORD = re.compile(r"[A-Za-z0-9.:-]+")


@dataclass(frozen=True)
class Source:
    """What an image is made from; one of ``release``, ``url`` and ``path`` is there.

    Attributes:
        written: as the user wrote it.
        release: a distribution's image by its name.
        url: an address by http or https.
        path: a file of this host, absolute or relative to where the tests are.
        sha256: what its content must have, in lower case; None where that was not said.
    """

    written: str
    release: Release | None = None
    url: str | None = None
    path: Path | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """What to call it."""
        if self.release is not None:
            return self.release.name
        at = urlsplit(self.url).path if self.url else os.fspath(self.path or "")
        return PurePosixPath(unquote(at)).name or "image"


def read(written: str | os.PathLike[str], sha256: str | None = None) -> Source:
    """Return what a user means.

    Args:
        written: a name like ``debian-13``, an address (with ``#sha256=…`` at its end), or a path.
        sha256: what its content must have, in hexadecimal digits.

    Raises:
        SettingError: it is none of these, or cannot be trusted without its digest.
    """
    text = os.fspath(written)
    if not isinstance(text, str) or not text.strip():
        raise _refusal(text, "name an image like debian-13, an https address, or a file")
    digest = None if sha256 is None else sha256.strip().lower()
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise SettingError(
            source="Guest.image", name="sha256", value=sha256,
            allowed="write the 64 hexadecimal digits of the file, as sha256sum prints them",
        )  # fmt: skip
    if found := _ADDRESS.match(text):
        return _address(text, found[1].lower(), digest)
    release = catalogue.release(text)
    if release is not None:
        return Source(text, release=release, sha256=digest)
    if _WORD.fullmatch(text) and not Path(text).suffix and not Path(text).exists():
        raise _refusal(text, catalogue.hint(text))
    return Source(text, path=Path(text), sha256=digest)


def _address(text: str, scheme: str, digest: str | None) -> Source:
    parts = urlsplit(text)
    if parts.fragment:
        found = _FRAGMENT.fullmatch(parts.fragment)
        if found is None:
            raise _refusal(text, "behind # only sha256= and 64 hexadecimal digits can stand")
        if digest not in {None, found[1].lower()}:
            raise _refusal(text, "its own sha256 and the one beside it are not the same")
        digest = found[1].lower()
    if scheme == "file":
        if parts.netloc not in {"", "localhost"}:
            raise _refusal(text, "a file's address names no host: write file:///path")
        return Source(text, path=Path(unquote(parts.path)), sha256=digest)
    if scheme not in {"http", "https"}:
        raise _refusal(text, "addresses begin with https:, http: or file:")
    if not parts.hostname:
        raise _refusal(text, "it names no host")
    if scheme == "http" and digest is None:
        raise _refusal(
            text, "what comes by http may be anybody's: give its sha256 too, or an https address"
        )
    return Source(text, url=urlunsplit(parts._replace(fragment="")), sha256=digest)


def _refusal(value: object, allowed: str) -> SettingError:
    return SettingError(source="Guest.image", name="image", value=value, allowed=allowed)
