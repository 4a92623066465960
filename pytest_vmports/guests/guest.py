"""What a VM boots: the bundled guest, a kernel of one's own, or a disk image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vmports.guests import alpine, given, image_links
from pytest_vmports.guests import container as containers
from pytest_vmports.guests import image as disk
from pytest_vmports.guests import source as sources
from pytest_vmports.guests.booted import Booted
from pytest_vmports.guests.cloud_init import read_seed
from pytest_vmports.guests.image import Disk

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from pytest_vmports.guests.cloud_init import Seed


@dataclass(frozen=True)
class Guest(Booted):
    """A kernel with its initrd, or a disk image, and what is done in it before the test."""

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
            firmware: ``bios``, ``uefi``, or ``uefi-secure`` with Secure Boot, on a q35.
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

    @classmethod
    def oci(
        cls,
        image: str | os.PathLike[str],
        *,
        ports: Sequence[Any] | str | int = (),
        command: str | Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
        setup: str | os.PathLike[str] | None = None,
        memory: int | None = None,
        cpus: int | None = None,
        **disk_keywords: Any,
    ) -> Guest:
        """Return a guest that runs a container image's service, with the bundled kernel and init.

        Its files are unpacked to a disk when a VM boots first, and its template has them. An image
        that holds a disk (a KubeVirt containerdisk) is booted as that disk.

        Args:
            image: an OCI layout, or what ``docker save`` or ``podman save`` wrote; or a reference,
                as ``nginx:1.27``, which ``skopeo`` fetches when the first VM needs it.
            ports: guest ports that every test of it has, as the marker takes them.
            command: the words that are run in place of the image's own.
            env: variables for it, beside the image's own.
            files: host path to path in the container, put in place before the setup runs.
            setup: shell text or a script's path, run as root by the container's own ``sh`` before
                the service starts.
            memory: MiB, or None for the setting.
            cpus: number of virtual processors, or None for the setting.
            disk_keywords: for a containerdisk, as `image` takes them.

        Raises:
            GuestNotFoundError: the package with the bundled kernel is not installed.
            SeedError: data for cloud-init is not what it reads.
            SettingError: a value is none that can be.
        """
        given.refuse_unknown(disk_keywords, "Guest.oci", disk.KEYWORDS)
        small = cls.alpine(files=files, setup=setup, memory=memory, cpus=cpus)
        wanted = sources.read_container(image)
        held = replace(cls.image(Path(wanted.name), **disk_keywords), source=wanted)
        return replace(
            small, name=wanted.name, source=wanted, root_disk=held.root_disk,
            container=containers.asked(command, env), ports=given.mappings(ports, "Guest.oci"),
        )  # fmt: skip

    def at(self, path: Path) -> Guest:
        """Return this guest, whose image has been fetched to ``path``.

        Raises:
            SettingError: what was said of it is not for what was found there.
        """
        assert self.root_disk is not None
        found = replace(self, source=None, root_disk=replace(self.root_disk, path=path))
        if self.container is None:
            return found
        held = containers.read(path)
        if held is not None:
            given.refuse_for_container(self.name, self.root_disk.seed, self.root_disk.firmware)
            return replace(found, container=self.container.over(held), root_disk=Disk(path, "raw"))
        given.refuse_for_disk(self.name, self.files, self.setup)
        return replace(
            found, container=None, prepared=False, kernel_path=None, initrd_path=None, append="",
            least_memory=0,
        )  # fmt: skip

    def with_additions(self, *, files: Mapping[str, str], setup: str | None) -> Guest:
        """Return this guest with a test's own ``files`` and ``setup`` on top of its own.

        A setup given here runs after the guest's own.

        Raises:
            SettingError: a disk image takes neither.
        """
        if not files and setup is None:
            return self
        if self.root_disk is not None and not self.prepared:
            given.refuse_for_disk(self.name, files, given.texts(setup))
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


def _way_in(
    data: tuple[Any, Any, Any], *, ssh: bool | None, agent: bool
) -> tuple[Seed | None, bool]:
    """Return what cloud-init is given, and whether a key of ours is authorised."""
    told = any(one is not None for one in data)
    ssh = told and not agent if ssh is None else ssh
    return read_seed(*data) if ssh or told else None, ssh
