"""The modules by which a bundled guest sees folders of the host, out of the same package's disk."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

from cached import cached

from pytest_vmports.guests.alpine import find_images

# In the order in which they need each other.
MODULES = (
    "fs/netfs/netfs", "net/9p/9pnet", "net/9p/9pnet_virtio", "fs/9p/9p", "fs/fuse/fuse",
    "fs/fuse/virtiofs",
)  # fmt: skip
LOAD = "modprobe virtio_pci\n" + "".join(
    f"insmod /root/modules/{Path(name).name}.ko || exit 1\n" for name in MODULES
)
"""A setup that loads them where `modules` were put to /root/modules."""


def debugfs() -> str | None:
    """Return the program that reads a file system without mounting it."""
    return shutil.which("debugfs", path="/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/bin")


def modules() -> Path:
    """Return the folder of the modules, unpacked when it is not in the cache."""
    kernel, _ = find_images()
    source = f"{Path(__file__).read_text()}{kernel}{kernel.stat().st_mtime_ns}"
    return cached("share-modules", source.encode(), _unpack)


def _unpack(out: Path) -> None:
    kernel, _ = find_images()
    disk = out / "disk"
    subprocess.run(
        ["qemu-img", "convert", "-O", "raw", kernel.with_suffix(".qcow2"), disk], check=True
    )
    listed = _read(disk, "ls -p /lib/modules").decode()
    (version,) = (row.split("/")[5] for row in listed.splitlines() if "virt" in row)
    for name in MODULES:
        packed = _read(disk, f"cat /lib/modules/{version}/kernel/{name}.ko.gz")
        (out / f"{Path(name).name}.ko").write_bytes(gzip.decompress(packed))
    disk.unlink()


def _read(disk: Path, command: str) -> bytes:
    program = debugfs()
    assert program is not None
    return subprocess.run(
        [program, "-R", command, str(disk)], stdout=subprocess.PIPE, check=True
    ).stdout
