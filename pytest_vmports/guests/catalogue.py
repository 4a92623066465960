"""The cloud images that have a name here: where a distribution keeps one, and its checksum list.

Sources: the folders themselves, whose addresses stand below.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_vmports.system.architecture import Architecture


@dataclass(frozen=True)
class Distribution:
    """Where a distribution keeps its images. In texts ``{…}`` stands for a release's own words.

    Attributes:
        name: begins the names of its images.
        root: the address that its folders are below.
        folder: of a release's images, below the root.
        sums: a pattern for the name of the checksum list in that folder.
        file: a pattern for the name of the image.
        memory: MiB that its images need, with some room for a service.
        codenames: names of releases that belong to a version.
        known: a version that is there, for lists and messages.
    """

    name: str
    root: str
    folder: str
    sums: str
    file: str
    memory: int
    known: tuple[str, ...]
    codenames: Mapping[str, str]

    @property
    def listed(self) -> bool:
        """Whether the list's own name has to be looked up in the folder."""
        return re.fullmatch(r"\w+", self.sums) is None


@dataclass(frozen=True)
class Release:
    """An image by its name: one release of a distribution."""

    distribution: Distribution
    version: str

    @property
    def name(self) -> str:
        """Its name, as it is always written."""
        return f"{self.distribution.name}-{self.version}"

    def folder(self, architecture: Architecture, root: str | None = None) -> str:
        """Return the address of the folder with its images, with a slash at the end.

        Args:
            architecture: of the VM.
            root: a mirror's address instead of the distribution's own.
        """
        words = self._filled(self.distribution.folder, architecture)
        return f"{(root or self.distribution.root).rstrip('/')}/{words}/"

    def sums(self, architecture: Architecture) -> str:
        """Return the pattern of its checksum list's name."""
        return self._filled(self.distribution.sums, architecture, re.escape)

    def file(self, architecture: Architecture) -> str:
        """Return the pattern of its image's name."""
        return self._filled(self.distribution.file, architecture, re.escape)

    def _filled(
        self, text: str, architecture: Architecture, quote: Callable[[str], str] = str
    ) -> str:
        names = {version: name for name, version in self.distribution.codenames.items()}
        words = {
            "version": self.version,
            "codename": names.get(self.version, ""),
            "arch": architecture.distributions,
            "machine": architecture.name,
            # Alpine has each of its images for one of both, where a board has a choice.
            "firmware": "bios" if architecture.has_bios else "uefi",
        }
        for word, value in words.items():
            text = text.replace(f"<{word}>", quote(value))
        return text


DISTRIBUTIONS: Final = (
    Distribution(
        name="debian", root="https://cloud.debian.org/images/cloud", folder="<codename>/latest",
        sums="SHA512SUMS", file=r"debian-<version>-genericcloud-<arch>\.qcow2", memory=512,
        known=("12", "13"),
        codenames={"bullseye": "11", "bookworm": "12", "trixie": "13", "forky": "14"},
    ),
    Distribution(
        name="ubuntu", root="https://cloud-images.ubuntu.com/releases", folder="<version>/release",
        sums="SHA256SUMS", file=r"ubuntu-<version>-server-cloudimg-<arch>\.img", memory=768,
        known=("22.04", "24.04"),
        codenames={"focal": "20.04", "jammy": "22.04", "noble": "24.04"},
    ),
    Distribution(
        name="fedora", root="https://dl.fedoraproject.org/pub/fedora/linux/releases",
        folder="<version>/Cloud/<machine>/images",
        sums=r"Fedora-Cloud-<version>-[\d.]+-<machine>-CHECKSUM",
        file=r"Fedora-Cloud-Base-Generic[.-].*\.qcow2", memory=1024,
        known=("42", "43"), codenames={},
    ),
    Distribution(
        name="alpine", root="https://dl-cdn.alpinelinux.org/alpine",
        folder="v<version>/releases/cloud",
        sums=r"nocloud_alpine-<version>\.\d+-<machine>-<firmware>-cloudinit-r\d+\.qcow2\.sha512",
        file=r"nocloud_alpine-<version>\.\d+-<machine>-<firmware>-cloudinit-r\d+\.qcow2",
        memory=512, known=("3.21", "3.22"), codenames={},
    ),
)  # fmt: skip
_NAME = re.compile(r"([a-z]+)[-:]?(\d+(?:\.\d+)?|[a-z]+)?")
_MARGIN = 0.6


def names() -> list[str]:
    """Return names that are there for certain; other versions of these distributions may be too."""
    return [f"{one.name}-{version}" for one in DISTRIBUTIONS for version in one.known]


def looks_like_one(name: str) -> bool:
    """Whether a word is a name of an image, or meant as one: no path and no address."""
    found = _NAME.fullmatch(name.lower())
    return found is not None and (release(name) is not None or found[2] is not None)


def release(name: str) -> Release | None:
    """Return the release that a name means; None for a name that means none."""
    found = _NAME.fullmatch(name.lower())
    if found is None or found[2] is None:
        return None
    for one in DISTRIBUTIONS:
        version = one.codenames.get(found[2], found[2])
        known = not one.codenames or version in one.codenames.values() or one.name == "ubuntu"
        if one.name == found[1] and known and version[0].isdigit():
            return Release(one, version)
    return None


def hint(name: str) -> str:
    """Return what may be meant by a name that means none."""
    near = difflib.get_close_matches(name.lower(), names(), 1, _MARGIN)
    listed = ", ".join(names())
    return f"did you mean {near[0]}? Names are: {listed}" if near else f"names are: {listed}"
