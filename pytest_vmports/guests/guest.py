"""What a VM boots: the bundled guest, a kernel of one's own, or a disk image."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vmports.constants import GATEWAY_IP, GUEST_IP
from pytest_vmports.errors import SettingError, StateDirError
from pytest_vmports.guests import alpine, boot_check, given, image_links, initramfs
from pytest_vmports.guests import image as disk
from pytest_vmports.guests import source as sources
from pytest_vmports.guests.cloud_init import read_seed
from pytest_vmports.guests.image import Disk
from pytest_vmports.guests.initrd import BUSYBOX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vmports.guests.cloud_init import Seed
    from pytest_vmports.guests.source import Source
    from pytest_vmports.system.architecture import Architecture


_ROOT = "/dev/vda"


@dataclass(frozen=True)
class Guest:
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

    @classmethod
    def alpine(
        cls,
        *,
        files: Mapping[str, str] | None = None,
        setup: str | os.PathLike[str] | None = None,
        memory: int | None = None,
        cpus: int | None = None,
    ) -> Guest:
        """Return the bundled guest (extra ``pytest-vmports[alpine]``).

        Raises:
            GuestNotFoundError: the package with its kernel is not installed.
        """
        kernel, initrd = alpine.find_images()
        return cls(
            name="alpine", kernel_path=kernel, initrd_path=initrd, append=alpine.WORDS,
            files=files or {}, setup=given.texts(setup), memory=memory, cpus=cpus,
            least_memory=alpine.least_memory(),
        )  # fmt: skip

    @classmethod
    def alpine_disk(
        cls,
        *,
        files: Mapping[str, str] | None = None,
        setup: str | os.PathLike[str] | None = None,
        memory: int | None = None,
        cpus: int | None = None,
    ) -> Guest:
        """Return the bundled guest on its own disk: a whole Alpine, with ``apk`` (extra alpine).

        Raises:
            GuestNotFoundError: the package with its kernel and its disk is not installed.
        """
        small = cls.alpine(files=files, setup=setup, memory=memory, cpus=cpus)
        return replace(small, name="alpine-disk", root_disk=Disk(alpine.find_disk(), "qcow2"))

    @classmethod
    def kernel(
        cls,
        kernel: str | os.PathLike[str],
        initrd: str | os.PathLike[str] | None = None,
        append: str = "",
        files: Mapping[str, str] | None = None,
        setup: str | os.PathLike[str] | None = None,
        *,
        memory: int | None = None,
        cpus: int | None = None,
    ) -> Guest:
        """Return a guest of the user's own kernel and initrd.

        With ``setup`` our init replaces the initrd's, which must then hold ``/bin/busybox``;
        without, the initrd boots as it is, and gets its address by DHCP.

        Raises:
            GuestNotFoundError: a file is missing, empty or not a file.
        """
        kernel_path = given.image_file("kernel", kernel)
        initrd_path = None if initrd is None else given.image_file("initrd", initrd)
        return cls(
            name=kernel_path.name, kernel_path=kernel_path, initrd_path=initrd_path, append=append,
            files=files or {}, setup=given.texts(setup), prepared=setup is not None,
            memory=memory, cpus=cpus,
        )  # fmt: skip

    @classmethod
    def disk(
        cls,
        path: str | os.PathLike[str],
        *,
        memory: int | None = None,
        cpus: int | None = None,
        format: str | None = None,  # noqa: A002 - QEMU's word for it
        user_data: str | os.PathLike[str] | bytes | Mapping[str, Any] | None = None,
        meta_data: str | os.PathLike[str] | bytes | Mapping[str, Any] | None = None,
        network_config: str | os.PathLike[str] | bytes | Mapping[str, Any] | None = None,
        firmware: str = "bios",
        ssh: bool | None = None,
        agent: bool = False,
        kernel: str | os.PathLike[str] | None = None,
        initrd: str | os.PathLike[str] | None = None,
        append: str = "",
        backing: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    ) -> Guest:
        """Return a guest that boots a disk image, which is only ever read.

        What a VM writes goes to an overlay of its own that ends with it. The disk is ``/dev/vda``.

        Args:
            path: the image.
            memory: MiB, or None for the setting.
            cpus: number of virtual processors, or None for the setting.
            format: ``qcow2`` or ``raw``; None recognises it.
            user_data: for cloud-init: a text, a file's path, or a mapping (a cloud-config). The VM
                is ready when cloud-init has finished; its failure is an error.
            meta_data: for cloud-init, likewise; by default a new instance called vmports.
            network_config: for cloud-init, likewise; by default the guest asks by DHCP.
            firmware: ``bios``, or ``uefi`` where its firmware is installed.
            ssh: have cloud-init authorise a key of this session for root, and forward port 22. None
                does so where cloud-init is given something and ``agent`` is not asked for.
            agent: the image runs the QEMU guest agent; ours comes along with cloud-init's data.
            kernel: boot this kernel directly, with the disk as its root.
            initrd: the initrd of ``kernel``.
            append: words for the command line of ``kernel``, like ``root=/dev/vda``.
            backing: a file, or several, of other folders that may stand behind it: it reads them.

        Raises:
            GuestNotFoundError: a file is missing, empty or not a file.
            SeedError: data for cloud-init is not what it reads.
            SettingError: ``format`` or ``firmware`` is none of those, or words lack their kernel.
            HostError: the packages of the extra ``cloud`` are missing.
        """
        given.one_of("format", format, (None, *image_links.FORMATS))
        given.one_of("firmware", firmware, disk.FIRMWARE)
        if kernel is None:
            given.refuse_words_for_a_kernel(initrd, append)
        image = given.image_file("disk image", path)
        data = user_data, meta_data, network_config
        seed, ssh = _way_in(data, ssh=ssh, agent=agent)
        behind = given.behind(backing)
        return cls(
            name=image.name, append=append, prepared=False, memory=memory, cpus=cpus,
            kernel_path=None if kernel is None else given.image_file("kernel", kernel),
            initrd_path=None if initrd is None else given.image_file("initrd", initrd),
            root_disk=Disk(image, format, firmware, seed, ssh, agent, backing=behind),
        )  # fmt: skip

    @classmethod
    def image(
        cls,
        source: str | os.PathLike[str],
        *,
        sha256: str | None = None,
        memory: int | None = None,
        cpus: int | None = None,
        user_data: str | os.PathLike[str] | bytes | Mapping[str, Any] | None = None,
        meta_data: str | os.PathLike[str] | bytes | Mapping[str, Any] | None = None,
        network_config: str | os.PathLike[str] | bytes | Mapping[str, Any] | None = None,
        firmware: str = "bios",
        ssh: bool | None = None,
        agent: bool = False,
    ) -> Guest:
        """Return a guest that boots an image of a distribution's, or of an address.

        It is fetched when the first VM needs it, checked, and kept for all tests that come.

        Args:
            source: a name like ``debian-13``; an address by https, or by http with its digest; or a
                file, which may be compressed (gz, xz, zst, bz2), and of another format (vmdk, vdi,
                vhdx).
            sha256: what the file must have, in hexadecimal digits.
            memory: MiB, or None for what such an image needs, or the setting.
            cpus: see `disk`; likewise all that follow.
            user_data: by default a named image is given what brings our agent and a key for ssh.
            meta_data: see `disk`.
            network_config: see `disk`.
            firmware: see `disk`.
            ssh: see `disk`.
            agent: see `disk`.

        Raises:
            SeedError: data for cloud-init is not what it reads.
            SettingError: no image is called so, an address needs its digest, or ``firmware`` is
                none.
            HostError: the packages of the extra ``cloud`` are missing.
        """
        given.one_of("firmware", firmware, disk.FIRMWARE, "Guest.image")
        wanted = sources.read(source, sha256)
        data = user_data, meta_data, network_config
        if wanted.release is not None:
            memory = memory or wanted.release.distribution.memory
            data = user_data, {} if meta_data is None else meta_data, network_config
        seed, ssh = _way_in(data, ssh=ssh, agent=agent)
        return cls(
            name=wanted.name, prepared=False, memory=memory, cpus=cpus, source=wanted,
            root_disk=Disk(Path(wanted.name), None, firmware, seed, ssh, agent),
        )  # fmt: skip

    def at(self, path: Path) -> Guest:
        """Return this guest, whose image has been fetched to ``path``."""
        assert self.root_disk is not None
        return replace(self, source=None, root_disk=replace(self.root_disk, path=path))

    def with_additions(self, *, files: Mapping[str, str], setup: str | None) -> Guest:
        """Return this guest with a test's own ``files`` and ``setup`` on top of its own.

        A setup given here runs after the guest's own.

        Raises:
            SettingError: a disk image takes neither.
        """
        if not files and setup is None:
            return self
        if self.root_disk is not None and not self.prepared:
            name, value = ("files", dict(files)) if files else ("setup", setup)
            raise SettingError(
                source=f"guest {self.name}", name=name, value=value,
                allowed="a disk image takes neither files nor setup: give it user_data",
            )  # fmt: skip
        return replace(
            self,
            files={**self.files, **files},
            setup=self.setup + given.texts(setup),
            prepared=self.prepared or setup is not None,
        )

    def tolerating(self, *, complaints: bool) -> Guest:
        """Return this guest, used all the same when a module of its cloud-init complains."""
        if self.root_disk is None or self.root_disk.seed is None or not complaints:
            return self
        return replace(self, root_disk=replace(self.root_disk, tolerant=True))

    def bringing(self, *, agent: bool) -> Guest:
        """Return this guest, with our agent in what its cloud-init is given or without."""
        if agent or self.root_disk is None or self.root_disk.seed is None:
            return self
        return replace(self, root_disk=replace(self.root_disk, bare=True))

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
        content = initramfs.archive(entries, alone=self.initrd_path is None)
        base = os.fsencode(self.initrd_path or "None")
        target = cache / f"{hashlib.sha256(base + content).hexdigest()[:20]}.initrd"
        if not target.exists():
            part = target.with_suffix(f".{os.getpid()}")
            try:
                cache.mkdir(exist_ok=True)
                initramfs.append(self.initrd_path, content, part)
            except OSError as error:
                part.unlink(missing_ok=True)
                raise StateDirError(
                    path=str(cache), reason=f"{error.strerror} (the guest's initrd)",
                    remedy="free some space there, or set TMPDIR",
                ) from error  # fmt: skip
            part.replace(target)
        return self.kernel_path, target

    def digest(self, root: Path, architecture: Architecture) -> dict[str, Any]:
        """Return what tells this guest's content from another's, for the key of a template."""
        added = initramfs.archive(self._entries(root, architecture))
        image = (
            {} if self.root_disk is None else {"image": disk.identity(self.root_disk, architecture)}
        )
        return {
            "kernel": given.file_digest(self.kernel_path) if self.kernel_path else "",
            "initrd": given.file_digest(self.initrd_path) if self.initrd_path else "",
            "added": hashlib.sha256(added).hexdigest(),
            "append": self.append,
            **image,
        }

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
        return " ".join([*words, *(more if self.prepared else ()), self.append]).strip()

    def _entries(self, root: Path, architecture: Architecture) -> list[initramfs.Entry]:
        entries = []
        if self.prepared:
            ours = resources.files("pytest_vmports.guests")
            entries += [
                initramfs.file_entry("init", (ours / "init.sh").read_bytes(), 0o755),
                initramfs.file_entry("vmports/boot", (ours / "boot.sh").read_bytes(), 0o755),
                initramfs.file_entry("vmports/agent", (ours / "agent.sh").read_bytes(), 0o755),
                initramfs.file_entry("vmports/console", (ours / "console.sh").read_bytes(), 0o755),
                initramfs.file_entry("etc/inittab", given.inittab(architecture)),
            ]
            if architecture.agent is not None:
                program = (ours / architecture.agent).read_bytes()
                entries.append(
                    initramfs.file_entry(f"vmports/{architecture.agent}", program, 0o755)
                )
        # What belongs on a disk is put there by our init, which finds it in a folder of ours.
        within = "" if self.root_disk is None else "/vmports/root"
        placed = {host: f"{within}{target}" for host, target in self.files.items()}
        entries += initramfs.entries_from_host(placed, root)
        for number, setup in enumerate(self.setup):
            script = given.script(setup, root)
            entries.append(initramfs.file_entry(f"vmports/setup.d/{number:02}", script, 0o755))
        return entries


def _way_in(
    data: tuple[Any, Any, Any], *, ssh: bool | None, agent: bool
) -> tuple[Seed | None, bool]:
    """Return what cloud-init is given, and whether a key of ours is authorised."""
    told = any(one is not None for one in data)
    ssh = told and not agent if ssh is None else ssh
    return read_seed(*data) if ssh or told else None, ssh
