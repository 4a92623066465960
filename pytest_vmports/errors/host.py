"""What is wrong before there is a VM: a setting, an image, a port, the host."""

from __future__ import annotations

from pytest_vmports.errors.base import VmPortsError


class SettingError(VmPortsError, ValueError):
    """A setting's value is not allowed. Fields: ``name``, ``value``, ``source``, ``allowed``."""

    template = "{source}: {name} = {value!r} is not allowed; {allowed}"


class NotExposedError(VmPortsError, KeyError):
    """A guest port is not exposed. Fields: ``port``, ``exposed`` (text), ``remedy``."""

    template = "guest port {port} is not exposed; exposed are: {exposed}; {remedy}"

    def __str__(self) -> str:
        return Exception.__str__(self)


class NotEnteredError(VmPortsError, AttributeError):
    """What makes a VM is used as one. Fields: ``used`` (what was asked of it), ``what`` it is."""

    template = (
        "{used} is asked of {what}, and the VM is made by a with block: "
        "`with vm_factory(…) as vm:`, and in it `vm`"
    )


class ImageError(VmPortsError):
    """A disk image cannot be booted. Fields: ``path``, ``problem``, ``remedy``."""

    template = "disk image {path} cannot be booted: {problem}; {remedy}"


class FetchError(VmPortsError):
    """An image cannot be had from where it is. Fields: ``source``, ``problem``, ``remedy``.

    And ``passing``, where it may go well the next time.
    """

    template = "{source} cannot be fetched: {problem}; {remedy}"

    @property
    def lacking(self) -> bool:
        """Whether its server did not answer. An image that is another than it should be is none."""
        return bool(self.fields.get("passing"))


class ContainerError(VmPortsError):
    """A container image cannot be used. Fields: ``path``, ``problem``, ``remedy``."""

    template = "container image {path} cannot be used: {problem}; {remedy}"


class BootFileError(VmPortsError):
    """A kernel or initrd cannot be booted. Fields: ``what``, ``path``, ``problem``, ``remedy``."""

    template = "{what} {path} cannot be booted: {problem}; {remedy}"


class SeedError(VmPortsError):
    """Data for cloud-init is unusable. Fields: ``name``, ``problem``, ``remedy``."""

    template = "{name} cannot be given to cloud-init: {problem}; {remedy}"


class PortError(VmPortsError):
    """A host port could not be had."""


class PortInUseError(PortError):
    """A fixed host port is held. Fields: ``port``, ``protocol``, ``host``, ``holder``."""

    template = (
        "host port {port}/{protocol} on {host} is in use by {holder}; "
        "end that process, ask for another port, or leave the host port out to be given a free one"
    )


class PortsExhaustedError(PortError):
    """No free port is left. Fields: ``wanted``, ``protocol``, ``range``, ``held``, ``holders``."""

    template = (
        "no {wanted} free {protocol} port(s) in {range}: {held} are leased by {holders}; "
        "widen port_range or run fewer tests at once"
    )


class StateDirError(PortError):
    """A folder that we keep files in is unusable. Fields: ``path``, ``reason``, ``remedy``."""

    template = "cannot keep files in {path}: {reason}; {remedy}"


class HostError(VmPortsError):
    """This machine lacks something that is needed."""

    @property
    def lacking(self) -> bool:
        """True."""
        return True


class QemuNotFoundError(HostError):
    """No QEMU runs here. Fields: ``tried`` (text), ``remedy``."""

    template = "no working QEMU found; tried:\n{tried}\n{remedy}"


class GvproxyNotFoundError(HostError):
    """No gvproxy runs here. Fields: ``tried`` (text), ``remedy``."""

    template = (
        "no working gvproxy found, which a guest with network needs; tried:\n{tried}\n{remedy}"
    )


class PasstNotFoundError(HostError):
    """No passt that can be used is here. Fields: ``found`` (text), ``remedy``."""

    template = "backend = passt, and no passt can be used here: {found}; {remedy}"


class SwtpmNotFoundError(HostError):
    """No swtpm that can be used is here. Fields: ``found``, ``remedy``."""

    template = "tpm = yes, and no swtpm can be used here: {found}; {remedy}"


class ProgramStoppedError(HostError):
    """A program is there, and this host keeps it from running.

    Fields: ``program``, ``reason``, ``remedy``, ``signal`` (a number; 0 where none ended it).
    """

    template = "{program} is there, and this host keeps it from running: {reason}; {remedy}"


class OpenHostError(HostError):
    """With ``strict_network``: the guest would get of the host what nobody gave it.

    Fields: ``reached``, ``why``, ``remedy``.
    """

    template = (
        "strict_network = yes, and a guest with network would reach {reached}: {why}; {remedy}, or "
        "set strict_network = no"
    )


class MissingWallError(OpenHostError):
    """With ``strict_network``: gvproxy would stand behind fewer walls than there are.

    Fields: ``missing``, ``remedy``.
    """

    template = (
        "strict_network = yes, and this host has not all walls around gvproxy: {missing}; "
        "{remedy}, or set strict_network = no"
    )


class NetworkListError(HostError):
    """``allow_network`` is a list, and no guest can be held to it here. Fields: ``why``."""

    template = (
        "allow_network is a list, and no guest can be held to one on this host: {why}; use a Linux "
        "host that allows pidfd_getfd(2) and seccomp's notifications (in a container that takes "
        "--cap-add SYS_PTRACE), or write allow_network = yes or no"
    )


class GuestNotFoundError(HostError):
    """The guest's kernel, initrd, image or file is missing. Fields: ``what``, ``remedy``."""

    template = "{what}; {remedy}"


class FirmwareNotFoundError(HostError):
    """No UEFI firmware. Fields: ``architecture``, ``tried`` (text), ``remedy``."""

    template = "no UEFI firmware for {architecture} found; looked for:\n{tried}\n{remedy}"
