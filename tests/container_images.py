"""Container images as tests need them: layers, OCI layouts and docker archives."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

from newc import read_newc

from pytest_vmports.guests.alpine import find_images
from pytest_vmports.system.architecture import architecture_named, host_architecture

if TYPE_CHECKING:
    from pathlib import Path

ARCHITECTURE = architecture_named(host_architecture())
PLATFORM = {"os": "linux", "architecture": ARCHITECTURE.distributions}
_APPLETS = ("sh", "nc", "id", "cat", "ls", "env", "grep")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def layer(*members: Any, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a layer of members, each a name (a folder), or a name, its content and facts of it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for member in members:
            whole = member if isinstance(member, tuple) else (member, None)
            name, content, facts = (*whole, {})[:3]
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.mode, info.size = 0o755, len(content or b"")
            for fact, value in facts.items():
                setattr(info, fact, value)
            tar.addfile(info, io.BytesIO(content or b""))
    return out.getvalue()


def link(name: str, target: str, *, hard: bool = False) -> tuple[Any, ...]:
    """Return a link as `layer` takes one."""
    kind = tarfile.LNKTYPE if hard else tarfile.SYMTYPE
    return name, b"", {"type": kind, "linkname": target}


def digest(data: bytes) -> str:
    """Return it as images name their parts."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parts(layers: list[bytes], config: dict[str, Any]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return an image's blobs by digest, and what an index says of it."""
    whole = {
        **PLATFORM, "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest(one) for one in layers]},
    }  # fmt: skip
    packed = [gzip.compress(one, 1) for one in layers]
    text = json.dumps(whole).encode()
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": _MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(text),
            "size": len(text),
        },
        "layers": [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(one),
                "size": len(one),
            }
            for one in packed
        ],
    }).encode()  # fmt: skip
    blobs = {digest(one): one for one in (text, manifest, *packed)}
    said = {"mediaType": _MANIFEST, "digest": digest(manifest), "size": len(manifest)}
    return blobs, said


def layout(folder: Path, layers: list[bytes], **config: Any) -> Path:
    """Return an OCI layout that is made in a folder."""
    blobs, said = parts(layers, config)
    (folder / "blobs" / "sha256").mkdir(parents=True)
    for name, content in blobs.items():
        (folder / "blobs" / name.replace(":", "/")).write_bytes(content)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    index = {"schemaVersion": 2, "manifests": [{**said, "platform": PLATFORM}]}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def archive(path: Path, layers: list[bytes], **config: Any) -> Path:
    """Return a docker archive, as ``docker save`` wrote them before it wrote layouts too."""
    whole = {
        **PLATFORM, "config": config, "rootfs": {"diff_ids": [digest(one) for one in layers]}
    }  # fmt: skip
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    listed = [{"Config": "config.json", "RepoTags": ["app:1"], "Layers": names}]
    texts = {"manifest.json": json.dumps(listed), "config.json": json.dumps(whole)}
    named = [(name, text.encode()) for name, text in texts.items()]
    path.write_bytes(layer(*named, *zip(names, layers, strict=True)))
    return path


def busybox() -> bytes:
    """Return a layer with the bundled guest's busybox and the library that it needs."""
    _, initrd = find_images()
    found = read_newc(gzip.decompress(initrd.read_bytes()))
    loader = next(name for name in found if "ld-musl" in name)
    return layer(
        "bin", "lib", "tmp", "etc", "var/www", ("bin/busybox", found["usr/bin/busybox"][1]),
        (f"lib/{loader.rsplit('/', 1)[1]}", found[loader][1]),
        *(link(f"bin/{name}", "busybox") for name in _APPLETS),
        ("etc/passwd", b"root:x:0:0::/root:/bin/sh\nwww:x:82:82:::/bin/sh\n"),
        ("etc/group", b"root:x:0:\nwww:x:82:\nlogs:x:4:www\n"),
    )  # fmt: skip
