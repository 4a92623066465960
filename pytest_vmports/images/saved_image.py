"""Container images that were saved: an OCI layout or a docker archive, as a folder or a tar.

Sources: the OCI image specification (image-layout.md, image-index.md, manifest.md, config.md), and
what ``docker save`` writes (docker/docker, image/spec).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from pytest_vmports.errors import ContainerError
from pytest_vmports.guests import host_files
from pytest_vmports.images import unpack
from pytest_vmports.images.bounded_tar import members, open_tar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from pytest_vmports.system.architecture import Architecture

_MOST_JSON: Final = 8 << 20
_MOST_LAYERS: Final = 512
_CHUNK: Final = 1 << 20
# An index that names an index: as deep as anybody's goes.
_DEEPEST: Final = 4
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REMEDY: Final = "save it again (docker save, podman save, skopeo copy), or name another"


@dataclass(frozen=True)
class Config:
    """What of an image's configuration says how its service is started."""

    command: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    folder: str = "/"
    user: str = ""
    volumes: tuple[str, ...] = ()


class SavedImage:
    """A container image that was saved, for one architecture; close it.

    Args:
        path: the folder, or the file.
        scratch: a folder for what is unpacked on the way.
        most: bytes that all of it may have there.
        architecture: of the VM.

    Attributes:
        config: how its service is started.

    Raises:
        ContainerError: it is none, is damaged, or is for other architectures.
    """

    def __init__(self, path: Path, scratch: Path, most: int, architecture: Architecture) -> None:
        self._path, self._scratch, self._left = path, scratch, most
        self._close = contextlib.ExitStack()
        self._tar: tarfile.TarFile | None = None
        self._members: dict[str, tarfile.TarInfo] = {}
        with contextlib.ExitStack() as until_open:
            until_open.callback(self._close.close)
            if not path.is_dir():
                self._open_tar()
            config, self._layers = self._find(architecture.distributions)
            self.config: Config
            self.config, self._digests = self._read(config)
            until_open.pop_all()

    def close(self) -> None:
        """Close its files. Safe to call again."""
        self._close.close()

    def layers(self) -> Iterator[tarfile.TarFile]:
        """Yield its layers from the lowest on; each stays open as long as this is.

        Raises:
            ContainerError: one is missing, damaged, too large or no tar.
        """
        for number, (layer, digest) in enumerate(zip(self._layers, self._digests, strict=True)):
            file = self._scratch / f"layer-{number}"
            self._copy(layer, file)
            plain = unpack.decompressed(file, self._scratch / f"plain-{number}", self._left)
            if plain != file:
                file.unlink()
            self._left -= plain.stat().st_size
            if f"sha256:{_sha256_of(plain)}" != digest:
                raise self.refusal(f"its layer {layer} is damaged: it is not {digest}")
            opened = self._close.enter_context(plain.open("rb"))
            plain.unlink()
            try:
                yield self._close.enter_context(open_tar(opened))
            except tarfile.TarError as error:
                raise self.refusal(f"its layer {layer} is no tar: {error}") from error

    def refusal(self, problem: str, remedy: str = _REMEDY) -> ContainerError:
        """Return an error of this image's."""
        return ContainerError(path=str(self._path), problem=problem, remedy=remedy)

    def _open_tar(self) -> None:
        plain = unpack.decompressed(self._path, self._scratch / "archive", self._left)
        try:
            file = self._close.enter_context(host_files.open_file(plain))
            self._tar = self._close.enter_context(open_tar(file))
            for member in members(self._tar):
                self._members[str(PurePosixPath(member.name))] = member
        except (tarfile.TarError, OSError) as error:
            self._close.close()
            raise self.refusal(f"it is no tar of a container image: {error}") from error
        finally:
            if plain != self._path:
                plain.unlink()

    def _find(self, architecture: str) -> tuple[str, list[str]]:
        """Return the names of its configuration and of its layers."""
        if self._there("index.json"):
            manifest = self._manifest(self._json("index.json"), architecture)
            config = _digest_in(manifest.get("config"))
            layers = [_digest_in(one) for one in _dicts(manifest.get("layers"))]
            if config is None or None in layers:
                raise self.refusal("its manifest names no configuration, or a layer without digest")
            found = _blob(config), [_blob(str(one)) for one in layers]
        elif self._there("manifest.json"):
            (entry,) = self._one(list(_dicts(self._json("manifest.json"))), "images")
            names = [entry.get("Config"), *_list(entry.get("Layers"))]
            if not all(isinstance(one, str) for one in names):
                raise self.refusal("its manifest.json names no configuration, or no layers")
            found = names[0], names[1:]
        else:
            raise self.refusal(
                "it has neither index.json nor manifest.json, so it is no container image",
                "name an OCI layout, or what docker save or podman save wrote",
            )
        if len(found[1]) > _MOST_LAYERS:
            raise self.refusal(f"it has {len(found[1])} layers, as no image has")
        return found

    def _manifest(self, index: Any, architecture: str, depth: int = 0) -> dict[str, Any]:
        """Return the manifest that an index leads to."""
        listed = [one for one in _dicts(_dict(index).get("manifests")) if not _is_beside(one)]
        fitting = [one for one in listed if _architecture(one) in {"", architecture}]
        if listed and not fitting:
            others = ", ".join(sorted({_architecture(one) for one in listed}))
            raise self.refusal(
                f"it is for {others}, and the VM is {architecture}",
                f"save it for that: docker pull --platform linux/{architecture}, or "
                f"skopeo --override-arch {architecture} copy",
            )
        (chosen,) = self._one(fitting, "images", "org.opencontainers.image.ref.name")
        digest = _digest_in(chosen)
        if digest is None or depth > _DEEPEST:
            raise self.refusal("its index names no manifest by its sha256")
        found = _dict(self._json(_blob(digest), digest))
        if "manifests" in found:
            return self._manifest(found, architecture, depth + 1)
        return found

    def _one(self, found: list[Any], what: str, named: str = "") -> list[Any]:
        if len(found) == 1:
            return found
        names = [_dict(one.get("annotations")).get(named) or one.get("RepoTags") for one in found]
        said = f": {', '.join(map(str, names))}"[:200] if any(names) else ""
        raise self.refusal(
            f"it holds {len(found)} {what}{said}", "save the one that is wanted, alone"
        )

    def _read(self, name: str) -> tuple[Config, list[str]]:
        """Return what a configuration says, and the digests of its layers."""
        whole = _dict(self._json(name))
        found = _dict(whole.get("config"))
        digests = _strings(_dict(whole.get("rootfs")).get("diff_ids"))
        if len(digests) != len(self._layers) or not all(map(_DIGEST.fullmatch, digests)):
            raise self.refusal("its configuration does not name each of its layers by sha256")
        return Config(
            (*_strings(found.get("Entrypoint")), *_strings(found.get("Cmd"))),
            _strings(found.get("Env")), str(found.get("WorkingDir") or "/"),
            str(found.get("User") or ""), tuple(_dict(found.get("Volumes"))),
        ), list(digests)  # fmt: skip

    def _there(self, name: str) -> bool:
        if self._tar is not None:
            return name in self._members
        return (self._path / name).is_file()

    def _open(self, name: str) -> BinaryIO:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise self.refusal(f"it names a file outside itself: {name}")
        if self._tar is None:
            with contextlib.suppress(OSError):
                return host_files.open_file(self._path / name)
        elif (member := self._members.get(str(pure))) is not None:
            with contextlib.suppress(tarfile.TarError, KeyError):
                file = self._tar.extractfile(member)
                if file is not None:
                    return file  # type: ignore[return-value]
        raise self.refusal(f"its {name} is missing", "fetch or save it again, whole")

    def _json(self, name: str, digest: str | None = None) -> Any:
        with self._open(name) as file:
            text = file.read(_MOST_JSON + 1)
        if len(text) > _MOST_JSON:
            raise self.refusal(f"its {name} has more than {_MOST_JSON >> 20} MiB")
        if digest is not None and f"sha256:{hashlib.sha256(text).hexdigest()}" != digest:
            raise self.refusal(f"its {name} is damaged: it is not {digest}")
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.refusal(f"its {name} is no JSON: {error}") from error

    def _copy(self, name: str, target: Path) -> None:
        with self._open(name) as file, target.open("xb") as copy:
            while chunk := file.read(_CHUNK):
                copy.write(chunk)
                if copy.tell() > self._left:
                    raise self.refusal(
                        "it is larger than all images may be", "raise images_size, if it is wanted"
                    )


def _sha256_of(path: Path) -> str:
    with host_files.open_file(path) as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _digest_in(descriptor: Any) -> str | None:
    digest = _dict(descriptor).get("digest")
    return digest if isinstance(digest, str) and _DIGEST.fullmatch(digest) else None


def _architecture(descriptor: dict[str, Any]) -> str:
    return str(_dict(descriptor.get("platform")).get("architecture", ""))


def _is_beside(descriptor: dict[str, Any]) -> bool:
    """Whether it is what build tools put beside an image: how it was built, or a signature."""
    kept_by = _dict(descriptor.get("annotations")).get("vnd.docker.reference.type")
    return kept_by is not None or _architecture(descriptor) == "unknown"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dicts(value: Any) -> Iterable[dict[str, Any]]:
    return (one for one in _list(value) if isinstance(one, dict))


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(one for one in _list(value) if isinstance(one, str))
