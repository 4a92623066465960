"""Every error this project raises on purpose.

::

    VmPortsError
    ├── SettingError (also ValueError)   a marker, option, variable or ini value is wrong
    ├── ImageError                       a disk image is there and cannot be booted
    ├── SeedError                        what cloud-init is to be given is not what it reads
    ├── PortError
    │   ├── PortInUseError               a fixed host port is held by somebody
    │   ├── PortsExhaustedError          no free port is left in the range
    │   └── StateDirError                the directory of the port leases cannot be used
    ├── HostError
    │   ├── QemuNotFoundError            no QEMU that runs
    │   ├── GvproxyNotFoundError         no gvproxy that runs
    │   ├── GuestNotFoundError           kernel, initrd or image is not there
    │   └── FirmwareNotFoundError        no UEFI firmware
    └── MachineError
        ├── LaunchError                  QEMU or gvproxy ended while it was being started
        │   └── ForwardError             ... because a host port could not be bound
        ├── SetupError                   the guest's setup script failed
        ├── CloudInitError               cloud-init failed in the guest
        ├── CommandTimeoutError          a command in the guest took too long and was killed
        ├── GuestShellError              no command can be run in the guest
        ├── BootTimeoutError             the guest was not ready in time
        ├── TemplateBusyError            another process builds a template without end
        ├── MachineDiedError             QEMU or gvproxy ended when it should not have
        └── MonitorError                 a monitor command was refused

Each holds its facts as keyword fields, keeps them through ``pickle`` (xdist sends errors
between processes), and says what was tried, what was found and what to do.
"""

from __future__ import annotations

from typing import Any, ClassVar


class VmPortsError(Exception):
    """Base of all errors of pytest-vmports.

    Subclasses name their fields in ``template``; the message is made from them, so an error can
    be rebuilt from its fields alone.
    """

    template: ClassVar[str] = "{message}"

    def __init__(self, message: str | None = None, **fields: Any) -> None:
        self.fields = fields if message is None else {"message": message, **fields}
        super().__init__(self.template.format_map(self.fields) if message is None else message)

    def __getattr__(self, name: str) -> Any:
        # Only reached when normal lookup failed: an error's facts read as attributes.
        fields = self.__dict__.get("fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(f"{type(self).__name__} has no field {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args[0], self.fields)


def _rebuild(kind: type[VmPortsError], message: str, fields: dict[str, Any]) -> VmPortsError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.fields = fields
    return error


class SettingError(VmPortsError, ValueError):
    """A setting's value is not allowed. Fields: ``name``, ``value``, ``source``, ``allowed``."""

    template = "{source}: {name} = {value!r} is not allowed; {allowed}"


class ImageError(VmPortsError):
    """A disk image cannot be booted. Fields: ``path``, ``problem``, ``remedy``."""

    template = "disk image {path} cannot be booted: {problem}; {remedy}"


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
    """The lease directory is unusable. Fields: ``path``, ``reason``, ``remedy``."""

    template = "cannot keep port leases in {path}: {reason}; {remedy}"


class HostError(VmPortsError):
    """This machine lacks something that is needed."""


class QemuNotFoundError(HostError):
    """No QEMU runs here. Fields: ``tried`` (text), ``remedy``."""

    template = "no working QEMU found; tried:\n{tried}\n{remedy}"


class GvproxyNotFoundError(HostError):
    """No gvproxy runs here. Fields: ``tried`` (text), ``remedy``."""

    template = (
        "no working gvproxy found, which a guest with network needs; tried:\n{tried}\n{remedy}"
    )


class GuestNotFoundError(HostError):
    """The guest's kernel, initrd, image or file is missing. Fields: ``what``, ``remedy``."""

    template = "{what}; {remedy}"


class FirmwareNotFoundError(HostError):
    """No UEFI firmware. Fields: ``architecture``, ``tried`` (text), ``remedy``."""

    template = "no UEFI firmware for {architecture} found; looked for:\n{tried}\n{remedy}"


class MachineError(VmPortsError):
    """A VM did not do what it should. Fields: at least ``evidence`` (text, may be empty)."""


class LaunchError(MachineError):
    """A program ended while it was being started.

    Fields: ``program``, ``returncode``, ``stderr``, ``command``.
    """

    template = (
        "{program} ended with {returncode} while it was being started; it said:\n{stderr}\n"
        "command: {command}"
    )


class ForwardError(LaunchError):
    """A host port could not be bound by the program that should forward it.

    Fields: ``program``, ``port``, ``protocol``, ``host``, ``detail``.
    """

    template = (
        "{program} could not bind host port {port}/{protocol} on {host}: {detail}; "
        "another program took it: end that program or leave the host port out"
    )


class SetupError(MachineError):
    """The guest's setup failed. Fields: ``returncode``, ``console``."""

    template = "the guest's setup ended with {returncode}; the end of its console:\n{console}"


class CloudInitError(MachineError):
    """cloud-init failed. Fields: ``errors`` (what it reported), ``console``."""

    template = (
        "cloud-init failed in the guest:\n{errors}\nthe end of its console:\n{console}\n"
        "correct user_data, or look into /var/log/cloud-init.log of a guest booted without ports"
    )


class CommandTimeoutError(MachineError):
    """A command in the guest was killed.

    Fields: ``command``, ``timeout`` (seconds), ``stdout`` and ``stderr`` (bytes until then).
    """

    template = (
        "{command!r} had not ended after {timeout:g} s and was killed in the guest; "
        "it had written {stdout!r} and, as errors, {stderr!r}; raise the timeout"
    )


class GuestShellError(MachineError):
    """No command can be run. Fields: ``means`` (ssh, or the agent), ``detail``, ``remedy``."""

    template = "{means} cannot run a command in the guest: {detail}; {remedy}"


class BootTimeoutError(MachineError):
    """The guest was not ready in time.

    Fields: ``timeout``, ``waited_for``, ``ports``, ``console``.
    """

    template = (
        "the guest was not ready within {timeout:g} s: {waited_for}\n{ports}\n"
        "the end of its console:\n{console}\n"
        "raise boot_timeout, or change wait_for if the test does not need this"
    )


class TemplateBusyError(MachineError):
    """A template was not built in time by the process that does. Fields: ``name``, ``timeout``."""

    template = (
        "waited {timeout:g} s for another process that builds the template of {name} and holds "
        "{lock}; end that process, raise boot_timeout, or set template = no"
    )


class MachineDiedError(MachineError):
    """A program ended on its own. Fields: ``program``, ``returncode``, ``stderr``, ``console``."""

    template = (
        "{program} ended on its own with {returncode}; it said:\n{stderr}\n"
        "the end of the guest's console:\n{console}"
    )


class MonitorError(MachineError):
    """QEMU's monitor refused a command. Fields: ``command``, ``reply``."""

    template = "QEMU's monitor refused {command!r}: {reply}"
