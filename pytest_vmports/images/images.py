"""From what a guest names to an image on this host: fetched, made and kept, or found."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from pytest_vmports.errors import FetchError, GuestNotFoundError, VmPortsError
from pytest_vmports.guests import host_files, image_links
from pytest_vmports.images import containers, fetch, skopeo, unpack
from pytest_vmports.images.listing import Published, look_up
from pytest_vmports.images.store import ImageStore
from pytest_vmports.system import clock
from pytest_vmports.system.fingerprint import fingerprint
from pytest_vmports.system.progress import for_whom, slowly
from pytest_vmports.system.small_file import read_object
from pytest_vmports.system.stored import KEY_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_vmports.guests.source import Source
    from pytest_vmports.system.architecture import Architecture

# Seconds: how long a name's image is taken for the one that is published, and how long one waits.
_FRESH: Final = 86400.0
# Likewise, while another process may be fetching it.
_JUST_ASKED: Final = 600.0
_WAIT: Final = 4 * 3600.0
_SUFFIXES = re.compile(
    r"(\.(qcow2?|img|raw|vmdk|vdi|vhdx?|qed|hdd|gz|xz|lzma|zst|bz2|tar|tgz|oci))+$", re.IGNORECASE
)


@dataclass(frozen=True)
class Kept:
    """Where images are kept, and where they come from.

    Attributes:
        folder: None means the user's cache folder.
        size: MiB on disk that all of them may take.
        mirrors: by distribution, the address that is taken instead of its own.
    """

    folder: str | None = None
    size: int = 20 << 10
    mirrors: Mapping[str, str] = field(default_factory=dict)


class Images:
    """The images of one process.

    Args:
        kept: where they are.
        tell: writes a line to the terminal.
    """

    def __init__(self, kept: Kept, tell: Callable[[str], None]) -> None:
        self._folder = None if kept.folder is None else Path(kept.folder)
        self._limit, self._mirrors, self._tell = kept.size << 20, kept.mirrors, tell
        self._opened: ImageStore | None = None
        self._failed: dict[tuple[str, str | None, str], VmPortsError] = {}

    @property
    def store(self) -> ImageStore:
        """Where they are kept, made when it is needed first.

        Raises:
            StateDirError: nothing can be kept there.
        """
        if self._opened is None:
            self._opened = ImageStore(self._folder, self._limit, self._tell)
        return self._opened

    def find(
        self, source: Source, architecture: Architecture, root: Path, *, fresh: bool = False
    ) -> Path:
        """Return the file of an image, fetched and made where it is not there.

        What went wrong once is not tried again by this process: the next tests would wait as long.

        Args:
            source: what is wanted.
            architecture: of the VM.
            root: what a relative path is relative to.
            fresh: ask what is published under its name, though it was asked a moment ago.

        Raises:
            FetchError: it cannot be had.
            GuestNotFoundError: there is no such file.
            HostError: what fetches or unpacks it is not installed.
            ContainerError: it is no container image, or a damaged one.
            ImageError: it is damaged, or cannot be converted.
            StateDirError: nothing can be kept.
        """
        asked = source.written, source.sha256, architecture.name
        if asked in self._failed:
            raise self._failed[asked]
        try:
            if source.container:
                return self._container(source, architecture, root, fresh=fresh)
            if source.path is not None:
                return self._from_file(source, root / source.path)
            if source.release is not None:
                return self._by_name(source, architecture, fresh=fresh)
            return self._by_address(source, architecture, fresh=fresh)
        except VmPortsError as error:
            self._failed[asked] = error
            raise

    def close(self) -> None:
        """Let go of the images in use. Safe to call again."""
        if self._opened is not None:
            self._opened.close()

    def _from_file(self, source: Source, path: Path) -> Path:
        problem = host_files.problem(path, source.written)
        if problem is not None:
            what = f"the guest's disk image {path} {problem[0]}"
            raise GuestNotFoundError(what=what, remedy=problem[1])
        path = path.resolve()
        if source.sha256 is not None:
            fetch.compare(path, f"sha256:{source.sha256}", source.written)
        if unpack.is_ready(path):
            return path
        content = {"path": str(path), "fingerprint": fingerprint(path)}
        return self._kept(
            {"name": source.name, "content": content, "from": source.written},
            lambda folder: unpack.unpack(path, folder, self._limit),
            "unpacking",
        )

    def _container(
        self, source: Source, architecture: Architecture, root: Path, *, fresh: bool
    ) -> Path:
        """Return the disk that is made of a container image, or that one holds."""
        if source.reference is not None:
            return self._by_reference(source, source.reference, architecture, fresh=fresh)
        assert source.path is not None
        path = (root / source.path).resolve()
        index = path
        if path.is_dir():
            names = [path / one for one in ("index.json", "manifest.json")]
            index = next((one for one in names if one.exists()), names[0])
        problem = host_files.problem(index, source.written)
        if problem is not None:
            what = f"the guest's container image {index} {problem[0]}"
            raise GuestNotFoundError(what=what, remedy=problem[1])
        content = {
            "path": str(path), "fingerprint": fingerprint(index),
            "container": architecture.distributions,
        }  # fmt: skip
        return self._kept(
            _facts(source, content, source.written, architecture),
            lambda folder: containers.make(path, folder, self._limit, architecture),
            "unpacking",
        )

    def _by_reference(
        self, source: Source, reference: str, architecture: Architecture, *, fresh: bool
    ) -> Path:
        slug = hashlib.sha256(reference.encode()).hexdigest()[:KEY_LENGTH]
        published = self._published(
            source.written, f"reference-{slug}.{architecture.distributions}",
            lambda: Published(
                reference, skopeo.look_up(reference, architecture),
                container=architecture.distributions,
            ), fresh=fresh,
        )  # fmt: skip

        def build(folder: Path) -> Path:
            layout = folder / "layout"
            skopeo.copy(reference, layout, architecture)
            made = containers.make(layout, folder, self._limit, architecture)
            shutil.rmtree(layout)
            return made

        facts = _facts(source, published.content, reference, architecture)
        return self._kept(facts, build, "fetching")

    def _by_name(self, source: Source, architecture: Architecture, *, fresh: bool) -> Path:
        release = source.release
        assert release is not None
        root = self._mirrors.get(release.distribution.name)
        published = self._published(
            source.name, f"{source.name}.{architecture.distributions}",
            lambda: look_up(release, architecture, root), fresh=fresh,
        )  # fmt: skip
        return self._fetched(source, published, architecture)

    def _by_address(self, source: Source, architecture: Architecture, *, fresh: bool) -> Path:
        url = source.url
        assert url is not None
        if source.sha256 is not None:
            return self._fetched(source, Published(url, f"sha256:{source.sha256}"), architecture)
        slug = hashlib.sha256(url.encode()).hexdigest()[:KEY_LENGTH]
        published = self._published(
            source.written, f"address-{slug}",
            lambda: Published(url, marks=fetch.marks(url)), fresh=fresh,
        )  # fmt: skip
        return self._fetched(source, published, architecture)

    def _published(
        self, name: str, slug: str, ask: Callable[[], Published], *, fresh: bool
    ) -> Published:
        """Return what stands behind a name now, which is asked for once a day."""
        path = self.store.base / f"{slug}.json"
        lock = FileLock(path.with_suffix(".lock"))
        with slowly(self._tell, for_whom(f"asking what {name} is now")), lock:
            known, asked = _remembered(path)
            there = known is not None and self.store.use({"content": known.content}) is not None
            age = clock.wall() - asked
            if known is not None and not fresh and 0 <= age < (_FRESH if there else _JUST_ASKED):
                return known
            try:
                now = ask()
            except FetchError as error:
                if known is None or not there:
                    raise
                self._tell(f"vmports: {name}: the image that is here is used: {error}")
                return known
            if known is not None and known.content != now.content:
                self._tell(
                    f"vmports: {name} is another image now: {now.shown}, and was {known.shown}; "
                    "templates of the one before are not used any more"
                )
            with self.store.refusing():
                path.write_text(json.dumps({"asked": clock.wall(), **asdict(now)}))
            return now

    def _fetched(self, source: Source, published: Published, architecture: Architecture) -> Path:
        facts = {
            "name": source.name, "content": published.content, "from": published.url,
            "architecture": "" if source.release is None else architecture.distributions,
        }  # fmt: skip
        part = self.store.part(facts)
        wanted = fetch.Wanted(published.url, published.digest or None, part, self._limit)

        def build(folder: Path) -> Path:
            file = folder / PurePosixPath(unquote(urlsplit(published.url).path)).name
            fetch.fetch(wanted, file)
            if source.sha256 is not None:
                fetch.compare(file, f"sha256:{source.sha256}", source.written)
            elif not published.digest:
                digest = fetch.digest(file)
                self._tell(f"vmports: {source.written} is not pinned; its sha256 is {digest}")
            made = unpack.unpack(file, folder, self._limit)
            if made != file:
                file.unlink()
            return made

        return self._kept(facts, build, "fetching", wanted.how_far)

    def _kept(
        self,
        facts: Mapping[str, Any],
        make: Callable[[Path], Path],
        doing: str,
        how_far: Callable[[], str] = str,
    ) -> Path:
        def build(folder: Path) -> None:
            with slowly(self._tell, for_whom(f"{doing} {facts['name']}"), how_far):
                made = make(folder)
                kind = "qcow2" if image_links.format_of(made) == "qcow2" else "raw"
                made.rename(folder / f"{_SUFFIXES.sub('', facts['name'])}.{kind}")

        return self.store.get(facts, build, _WAIT).path


def _facts(
    source: Source, content: Mapping[str, Any], origin: str, architecture: Architecture
) -> dict[str, Any]:
    return {
        "name": source.name, "content": content, "from": origin,
        "architecture": architecture.distributions,
    }  # fmt: skip


def _remembered(path: Path) -> tuple[Published | None, float]:
    """Return what a name stood for when it was asked last, and when that was."""
    try:
        found = read_object(path)
        known = Published(*(str(found.get(one.name, one.default)) for one in fields(Published)))
        return known, float(found["asked"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, 0.0
