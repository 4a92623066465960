"""A distribution's checksum list: which file is the image now, and what its digest is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urljoin

from pytest_vmports.errors import FetchError
from pytest_vmports.images import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vmports.guests.catalogue import Release
    from pytest_vmports.system.architecture import Architecture

# As coreutils write a line, as BSD does, and a digest alone, whose file is named like its list.
_PLAIN = re.compile(r"([0-9a-fA-F]{64,128})[ \t]+[ *]?(?:\./)?([^\s/]+)")
_BSD = re.compile(r"SHA\d+ ?\(([^()/]+)\) ?= ?([0-9a-fA-F]{64,128})")
_ALONE = re.compile(r"[0-9a-fA-F]{64,128}")
_ALGORITHMS: Final = {64: "sha256", 96: "sha384", 128: "sha512"}
_SHOWN: Final = len("sha512:") + 16
_LINK = re.compile(r"""href=["']?([^"'>\s]+)""", re.IGNORECASE)
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True)
class Published:
    """What stands behind a name or an address now.

    Attributes:
        url: the file's address.
        digest: what its content has, as ``sha512:…``; empty where nobody said.
        marks: by which its server tells one content from another; empty where it does not.
        container: of a container image: the architecture of what is made of it.
    """

    url: str
    digest: str = ""
    marks: str = ""
    container: str = ""

    @property
    def content(self) -> dict[str, str]:
        """What tells this content from any other."""
        found = {"digest": self.digest} if self.digest else {"url": self.url, "marks": self.marks}
        return {**found, "container": self.container} if self.container else found

    @property
    def shown(self) -> str:
        """The same in short, for people."""
        return self.digest[:_SHOWN] or self.marks or self.url


def look_up(release: Release, architecture: Architecture, root: str | None = None) -> Published:
    """Return what is published under a name now.

    Args:
        release: the name's.
        architecture: of the VM.
        root: a mirror's address instead of the distribution's own.

    Raises:
        FetchError: its list cannot be had, or names no such image.
        HostError: what fetches is not installed.
    """
    folder, wanted = release.folder(architecture, root), release.sums(architecture)
    name = wanted
    if release.distribution.listed:
        links = (unquote(link) for link in _LINK.findall(fetch.fetch_text(folder)))
        name = _newest(folder, wanted, list(links), "folder")
    url = urljoin(folder, name)
    digests = dict(_digests(name, fetch.fetch_text(url)))
    file = _newest(url, release.file(architecture), list(digests), "list")
    digest = digests[file].lower()
    return Published(urljoin(folder, file), f"{_ALGORITHMS[len(digest)]}:{digest}")


def _newest(url: str, pattern: str, names: list[str], what: str) -> str:
    found = [name for name in names if re.fullmatch(pattern, name)]
    if not found:
        raise FetchError(
            source=url, problem=f"no name in this {what} is like {pattern}",
            remedy="look whether there is such a release for this architecture; any image can be "
            "named by its address and sha256",
        )  # fmt: skip
    return max(found, key=lambda name: [int(number) for number in _NUMBERS.findall(name)])


def _digests(name: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield file and digest of each line that has them; of the rest, as signatures, nothing."""
    for line in map(str.strip, text.splitlines()):
        if found := _BSD.fullmatch(line):
            file, digest = found[1], found[2]
        elif found := _PLAIN.fullmatch(line):
            file, digest = found[2], found[1]
        elif _ALONE.fullmatch(line):
            file, digest = name.rpartition(".")[0], line
        else:
            continue
        if len(digest) in _ALGORITHMS:
            yield file, digest
