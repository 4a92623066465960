"""A Debian system for the tests of disk images, built from the packages of this machine's release.

Built once and kept in the user's cache folder: mmdebstrap unpacks the packages, without root where
user namespaces are allowed, and the files are put together without mounting anything that lasts.

    root.ext4    a bare file system; vmlinuz and initrd.img beside it boot it directly
    disk.qcow2   a partitioned disk with the same system, which BIOS (syslinux) and UEFI
                 (shim and GRUB, signed for Secure Boot) boot
    nginx.tar    what of it nginx needs, as a container image's layer

`image("services")` has some servers more, as the benchmarks want them.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from apt_sources import release, write_entry
from cached import cached

MIB = 1 << 20
SECTORS = MIB // 512
ESP_MIB = 128
ROOT_MIB = {"plain": 1500, "services": 2500}
PACKAGES = (
    "systemd-sysv", "udev", "dbus", "kmod", "netbase", "iproute2", "linux-image-cloud-amd64",
    "initramfs-tools", "cloud-init", "openssh-server", "qemu-guest-agent", "nginx-light", "procps",
)  # fmt: skip
MORE = {"plain": (), "services": ("postgresql", "redis-server", "dnsmasq")}
PROGRAMS = ("mmdebstrap", "mkfs.ext4", "mkfs.fat", "mcopy", "syslinux", "qemu-img")
MBR = Path("/usr/lib/syslinux/mbr/mbr.bin")
SIGNED = ("shim-signed", "grub-efi-amd64-signed")
WORDS = "root=LABEL=root rw console=ttyS0"
# What costs an emulated processor half a minute of each first boot, and is no part of any test: a
# look for snapshots of LVM, a boot loader that is not there, keys for a console that nobody reads,
# locales, which this system does not have.
QUICKER = """
set -e
ln -s /dev/null "$1/etc/systemd/system/e2scrub_reap.service"
cat >"$1/etc/cloud/cloud.cfg.d/90-quicker.cfg" <<END
datasource_list: [NoCloud]
grub_dpkg: {enabled: false}
ssh: {emit_keys_to_console: false}
no_ssh_fingerprints: true
locale: false
END
"""
# The bind mount shows the file system alone, without what is mounted in it while it is built.
MAKE_ROOT = """
set -e
mkdir "$1.alone"
mount --bind "$1" "$1.alone"
cd "$1"
tar --numeric-owner -cf '{out}/nginx.tar' bin lib lib64 sbin etc/group etc/nginx etc/passwd \
  usr/bin usr/lib/nginx usr/lib/*-linux-gnu usr/lib64 usr/sbin/nginx usr/share/nginx var/lib/nginx \
  var/log/nginx var/www
chmod a+r '{out}/nginx.tar'
mv "$1"/boot/vmlinuz-* '{out}/vmlinuz'
mv "$1"/boot/initrd.img-* '{out}/initrd.img'
chmod a+r '{out}/vmlinuz' '{out}/initrd.img'
truncate -s {size}M '{out}/root.ext4'
mkfs.ext4 -q -L root -d "$1.alone" '{out}/root.ext4'
umount "$1.alone"
rmdir "$1.alone"
"""


# Only the loaders are wanted, and none of what their packages would do to a system.
GET_SIGNED = """
set -e
mkdir "$1/signed"
chroot "$1" sh -c 'cd /signed && apt-get download {packages}'
for package in "$1"/signed/*.deb; do dpkg-deb -x "$package" "$1/signed"; done
cp "$1/signed/usr/lib/shim/shimx64.efi.signed" '{out}/shim.efi'
cp "$1/signed/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" '{out}/grub.efi'
chmod a+r '{out}/shim.efi' '{out}/grub.efi'
rm -r "$1/signed"
"""


@dataclass(frozen=True)
class DebianImage:
    """Where the parts are."""

    folder: Path

    @property
    def root(self) -> Path:
        """A raw image without partitions."""
        return self.folder / "root.ext4"

    @property
    def disk(self) -> Path:
        """A qcow2 that boots by itself."""
        return self.folder / "disk.qcow2"

    @property
    def nginx(self) -> Path:
        """The layer of a container image with nginx."""
        return self.folder / "nginx.tar"

    @property
    def direct(self) -> dict[str, str]:
        """What boots `root` directly."""
        kernel, initrd = self.folder / "vmlinuz", self.folder / "initrd.img"
        return {"kernel": str(kernel), "initrd": str(initrd), "append": "root=/dev/vda rw"}


def missing() -> list[str]:
    """Return what has to be installed before an image can be built here."""
    lacking = [name for name in PROGRAMS if _program(name) is None]
    lacking += [] if MBR.exists() else [str(MBR)]
    if not release("VERSION_CODENAME") or release("ID") != "debian":
        lacking.append("a Debian system, whose packages make the image")
    return lacking


def image(kind: str = "plain") -> DebianImage:
    """Return the image, built when it is not in the cache.

    Args:
        kind: ``plain``, or ``services`` with PostgreSQL, redis and dnsmasq beside nginx.
    """
    source = Path(__file__).read_bytes() + release("VERSION_CODENAME").encode()
    name = {"plain": "debian"}.get(kind, f"{kind}_debian")
    return DebianImage(cached(name, source, lambda out: _build(out, kind)))


def _build(out: Path, kind: str) -> None:
    out.chmod(0o777)  # an unprivileged build runs as another user
    without = [f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("doc", "man", "locale")]
    packages = ",".join(PACKAGES + MORE[kind])
    _run(
        "mmdebstrap", "--variant=minbase", "--format=null", f"--include={packages}", *without,
        '--customize-hook=chroot "$1" systemctl enable systemd-networkd',
        f"--customize-hook={GET_SIGNED.format(out=out, packages=' '.join(SIGNED))}",
        '--customize-hook=rm -rf "$1"/var/lib/apt/lists/*', f"--customize-hook={QUICKER}",
        f"--customize-hook={MAKE_ROOT.format(out=out, size=ROOT_MIB[kind])}",
        release("VERSION_CODENAME"), "-", *_sources(out),
    )  # fmt: skip
    _make_disk(out, ROOT_MIB[kind])


def _make_disk(out: Path, size: int) -> None:
    esp, disk = out / "esp.img", out / "disk.raw"
    (out / "syslinux.cfg").write_text(
        f"SERIAL 0 115200\nDEFAULT linux\nLABEL linux\n"
        f"  KERNEL /vmlinuz\n  INITRD /initrd.img\n  APPEND {WORDS}\n"
    )
    (out / "grub.cfg").write_text(f"linux /vmlinuz {WORDS}\ninitrd /initrd.img\nboot\n")
    with esp.open("wb") as file:
        file.truncate(ESP_MIB * MIB)
    # The hidden sectors are those before the partition, which syslinux adds to its own.
    _run("mkfs.fat", "-F", "32", "-h", str(SECTORS), str(esp))
    # The signed GRUB looks for what to do in its distribution's folder.
    for folder in ("EFI", "EFI/BOOT", "EFI/debian"):
        _run("mmd", "-i", str(esp), f"::/{folder}")
    for source, target in (
        (out / "shim.efi", "EFI/BOOT/BOOTX64.EFI"), (out / "grub.efi", "EFI/BOOT/grubx64.efi"),
        (out / "grub.cfg", "EFI/debian/grub.cfg"), (out / "syslinux.cfg", "syslinux.cfg"),
        (out / "vmlinuz", "vmlinuz"), (out / "initrd.img", "initrd.img"),
    ):  # fmt: skip
        _run("mcopy", "-i", str(esp), str(source), f"::/{target}")
    _run("syslinux", "--install", str(esp))
    with disk.open("wb") as file:
        file.write(_boot_record(size))
        for part, at in ((esp, 1), (out / "root.ext4", 1 + ESP_MIB)):
            file.seek(at * MIB)
            _copy_sparse(part, file)
        file.truncate((1 + ESP_MIB + size) * MIB)
    _run("qemu-img", "convert", "-O", "qcow2", str(disk), str(out / "disk.qcow2"))
    disk.unlink()
    esp.unlink()


def _boot_record(size: int) -> bytes:
    record = bytearray(512)
    code = MBR.read_bytes()
    record[: len(code)] = code
    parts = ((0x80, 0xEF, 1, ESP_MIB), (0x00, 0x83, 1 + ESP_MIB, size))
    for number, (active, kind, first, length) in enumerate(parts):
        entry = struct.pack("<B3sB3sII", active, b"\xfe\xff\xff", kind, b"\xfe\xff\xff",
                            first * SECTORS, length * SECTORS)  # fmt: skip
        record[446 + 16 * number : 462 + 16 * number] = entry
    record[510:512] = b"\x55\xaa"
    return bytes(record)


def _copy_sparse(source: Path, target) -> None:
    with source.open("rb") as file:
        while block := file.read(MIB):
            if block.strip(b"\0"):
                target.write(block)
            else:
                target.seek(len(block), 1)


def _sources(folder: Path) -> list[str]:
    codename = release("VERSION_CODENAME")
    own = [write_entry(folder, codename + pocket) for pocket in ("", "-updates", "-security")]
    return [str(file) for file in own if file is not None]


def _program(name: str) -> str | None:
    return shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/bin")


def _run(*command: str) -> None:
    program = _program(command[0])
    done = subprocess.run(
        [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-3000:]}")


if __name__ == "__main__":
    print(image(*sys.argv[1:]).folder)
