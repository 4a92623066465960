"""What of a guest a VM boots: kernel, initrd and their words; and what tells it from others."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_vmports.constants import GATEWAY_IP, GUEST_IP
from pytest_vmports.guests import boot_check, initramfs, own_part
from pytest_vmports.guests import container as containers
from pytest_vmports.guests import image as disk
from pytest_vmports.guests.initrd import BUSYBOX
from pytest_vmports.system.digests import content_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_vmports.guests.container import Container
    from pytest_vmports.guests.image import Disk
    from pytest_vmports.guests.source import Source
    from pytest_vmports.models import PortMapping
    from pytest_vmports.system.architecture import Architecture


_ROOT = "/dev/vda"


@dataclass(frozen=True)
class Booted:
    """A kernel with its initrd, or a disk image, and what is done in it before the test.

    Attributes:
        name: what to call it.
        kernel_path: the kernel; None where firmware finds it on the disk.
        initrd_path: the initrd, or None.
        append: words added to the kernel's command line.
        files: host path (file or folder) to guest path, put in place before the setup runs.
        setup: shell texts or scripts' paths, run as root one after the other.
        prepared: our own init replaces the initrd's, configures the network and runs the setup.
            Needs busybox in the initrd.
        memory: MiB, or None for the setting.
        cpus: number of virtual processors, or None for the setting.
        root_disk: the disk image, or None.
        least_memory: MiB below which it is known not to come up.
        source: where the image is fetched from, until it is.
        container: the service of a container image, whose files are on the disk.
        ports: guest ports that are forwarded for every test of it, beside the test's own.
    """

    name: str
    kernel_path: Path | None = None
    initrd_path: Path | None = None
    append: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    prepared: bool = True
    memory: int | None = None
    cpus: int | None = None
    root_disk: Disk | None = None
    least_memory: int = 0
    source: Source | None = None
    container: Container | None = None
    ports: tuple[PortMapping, ...] = ()

    def boot_files(
        self, cache: Path, root: Path, architecture: Architecture
    ) -> tuple[Path | None, Path | None]:
        """Return the kernel and the initrd to boot, made once per content below ``cache``.

        Both are None where firmware boots a disk.

        Args:
            cache: a private folder, made where it is needed and missing.
            root: what relative paths in ``files`` and ``setup`` are relative to.
            architecture: that of the VM.

        Raises:
            BootFileError: kernel or initrd is none, or lacks the busybox that a setup needs.
            GuestNotFoundError: a file named in ``files`` is missing.
            StateDirError: the initrd cannot be written.
        """
        entries = self._entries(root, architecture)
        boot_check.check(
            self.kernel_path, self.initrd_path,
            kernels=architecture.kernels,
            busybox=self.prepared and all(one.path.lstrip("/") != BUSYBOX for one in entries),
        )  # fmt: skip
        if not entries:
            return self.kernel_path, self.initrd_path
        return self.kernel_path, own_part.initrd_with(self.initrd_path, entries, cache)

    def digest(self, root: Path, architecture: Architecture) -> dict[str, Any]:
        """Return what tells this guest's content from another's, for the key of a template."""
        added = initramfs.archive(self._entries(root, architecture))
        image = (
            {} if self.root_disk is None else {"image": disk.identity(self.root_disk, architecture)}
        )
        return {
            "kernel": content_digest(self.kernel_path) if self.kernel_path else "",
            "initrd": content_digest(self.initrd_path) if self.initrd_path else "",
            "added": hashlib.sha256(added).hexdigest(),
            "append": self.append,
            **image,
            **self._files_of_container(),
        }

    def _files_of_container(self) -> dict[str, Any]:
        if self.container is None or self.root_disk is None:
            return {}
        return {"container": containers.identity(self.root_disk.path)}

    def kernel_words(
        self,
        architecture: Architecture,
        dns: str | None,
        more: Sequence[str] = (),
        *,
        stays: bool = False,
    ) -> str:
        """Return the kernel's command line.

        Args:
            architecture: that of the VM.
            dns: the name server; None means there is no network card.
            more: words for our own init, if it runs.
            stays: a kernel that has panicked stays as it is, and does not reboot.
        """
        words = [f"console={architecture.console}", f"panic={0 if stays else -1}", "quiet"]
        # Some kernels are so quiet that they hide errors: a hung task, a process that was killed.
        words.append("loglevel=5")
        words += architecture.kernel_words
        if self.prepared and dns is not None:
            words += [
                f"vmports.ip={GUEST_IP}", f"vmports.gateway={GATEWAY_IP}", f"vmports.dns={dns}",
            ]  # fmt: skip
        if self.prepared and self.root_disk is not None:
            words.append(f"vmports.root={_ROOT}")
        if self.container is not None:
            words.append("vmports.files=seed")  # as the disk that has them is numbered
        return " ".join([*words, *(more if self.prepared else ()), self.append]).strip()

    def _entries(self, root: Path, architecture: Architecture) -> list[initramfs.Entry]:
        entries = own_part.programs(architecture) if self.prepared else []
        # What belongs on a disk is put there by our init, which finds it in a folder of ours.
        within = ""
        if self.root_disk is not None:
            within = "/vmports/root"
            entries += containers.entries(self.container, architecture)
        placed = {host: f"{within}{target}" for host, target in self.files.items()}
        entries += initramfs.entries_from_host(placed, root)
        return entries + own_part.setups(self.setup, root)


def base_of(guest: Booted) -> tuple[Path, str] | None:
    """Return the image that a guest's disk is an overlay on, and its format; None for no disk.

    Raises:
        OSError: it cannot be read.
    """
    return None if guest.root_disk is None else guest.root_disk.base
