"""Where an image comes from: a name, an address, a registry, or a file to be unpacked."""

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
# As skopeo names what lies on this host (containers-transports(5)), and what it has to fetch.
_SAVED = re.compile(r"(?:oci|oci-archive|docker-archive):(.+)", re.DOTALL)
_ELSEWHERE = re.compile(r"docker://.|docker-daemon:.|containers-storage:.")
_PATHLIKE = re.compile(r"^[./~]|\.(?:tar|tgz|gz|xz|zst|oci)$")
# Source: the grammar of references, github.com/distribution/reference.
_REFERENCE = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::\d+)?/)?[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


@dataclass(frozen=True)
class Source:
    """What an image is made from; one of ``release``, ``url``, ``path``, ``reference`` is there.

    Attributes:
        written: as the user wrote it.
        release: a distribution's image by its name.
        url: an address by http or https.
        path: a file of this host, absolute or relative to where the tests are.
        sha256: what its content must have, in lower case; None where that was not said.
        reference: a container image as skopeo names it, ``docker://…``.
        container: the file or folder is a container image too.
    """

    written: str
    release: Release | None = None
    url: str | None = None
    path: Path | None = None
    sha256: str | None = None
    reference: str | None = None
    container: bool = False

    @property
    def name(self) -> str:
        """What to call it."""
        if self.release is not None:
            return self.release.name
        if self.reference is not None:
            return self.reference.partition(":")[2].lstrip("/").replace("/", "_")
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
    if text is not written:  # whoever gives a path means one
        return Source(text, path=Path(text), sha256=digest)
    if found := _ADDRESS.match(text):
        return _address(text, found[1].lower(), digest)
    release = catalogue.release(text)
    if release is not None:
        return Source(text, release=release, sha256=digest)
    if _WORD.fullmatch(text) and not Path(text).suffix and not Path(text).exists():
        raise _refusal(text, catalogue.hint(text))
    return Source(text, path=Path(text), sha256=digest)


def names_container(text: str) -> bool:
    """Whether a text names a container image by its transport, as ``docker://nginx:1.27``."""
    return bool(_SAVED.match(text) or _ELSEWHERE.match(text))


def read_container(written: str | os.PathLike[str]) -> Source:
    """Return what a user means by a container image.

    Args:
        written: the path of an OCI layout or of a docker archive, or a reference in a registry, as
            ``nginx:1.27`` or ``docker://registry.example/app@sha256:…``.

    Raises:
        SettingError: it is neither.
    """
    text = os.fspath(written)
    if not isinstance(text, str) or not text.strip():
        raise _no_container(text)
    if found := _SAVED.match(text):
        return Source(text, path=Path(found[1]), container=True)
    if _ELSEWHERE.match(text):
        return Source(text, reference=text, container=True)
    path = Path(text)
    if text is not written or path.exists() or _PATHLIKE.search(text):
        return Source(text, path=path, container=True)
    if _REFERENCE.fullmatch(text) is None:
        raise _no_container(text)
    return Source(text, reference=f"docker://{text}", container=True)


def _no_container(value: object) -> SettingError:
    return SettingError(
        source="Guest.oci", name="image", value=value,
        allowed="the path of an OCI layout or a docker archive, or a reference as nginx:1.27",
    )  # fmt: skip


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
