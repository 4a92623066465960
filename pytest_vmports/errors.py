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
    │   ├── OpenHostError                the guest would reach all of the host's loopback
    │   ├── GuestNotFoundError           kernel, initrd or image is not there
    │   └── FirmwareNotFoundError        no UEFI firmware
    └── MachineError
        ├── LaunchError                  QEMU or gvproxy ended while it was being started
        │   └── ForwardError             ... because a host port could not be bound
        ├── SetupError                   the guest's setup script failed
        ├── CloudInitError               cloud-init failed in the guest
        ├── GuestShellError              no command can be run in the guest
        ├── BootTimeoutError             the guest was not ready in time
        ├── GuestForwardError            the guest had host ports opened that nobody asked for
        ├── TemplateBusyError            another process builds a template without end
        ├── MachineDiedError             QEMU or gvproxy ended when it should not have
        │   └── GuestCrashError          ... or the guest's kernel failed, as by an oops
        │       └── GuestPanicError      ... or panicked
        ├── MonitorError                 a monitor command was refused
        ├── CommandFailedError           a command in the guest ended with another status than 0
        ├── CommandTimeoutError          a command in the guest did not end in time
        ├── ShutdownTimeoutError         the guest did not power off in time
        ├── GuestFileError               a file could not be copied into or out of the guest
        └── NoShellError                 nothing in this guest runs commands

Each holds its facts as keyword fields, keeps them through ``pickle`` (xdist sends errors between
processes), says what was tried, what was found and what to do, and names its section of
``docs/errors.md``.
"""

from __future__ import annotations

import re
import subprocess
from typing import Any, ClassVar


class VmPortsError(Exception):
    """Base of all errors of pytest-vmports.

    Subclasses name their fields in ``template``; the message is made from them, so an error can
    be rebuilt from its fields alone.
    """

    template: ClassVar[str] = "{message}"

    def __init__(self, message: str | None = None, **fields: Any) -> None:
        self.fields = fields if message is None else {"message": message, **fields}
        text = self.template.format_map(self.fields) if message is None else message
        # A path whose bytes are no UTF-8 has no encoding, and xdist sends errors between processes.
        text = f"{text} [{self.anchor()}]".encode("utf-8", "backslashreplace").decode()
        # Not super(): some are also errors of subprocess, which are made from other arguments.
        Exception.__init__(self, text)

    @classmethod
    def anchor(cls) -> str:
        """Return where ``docs/errors.md`` tells of this error: its name without "Error"."""
        words = re.findall("[A-Z][a-z]+", cls.__name__.removesuffix("Error"))
        return "errors.md#" + "-".join(words).lower()

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
    """A folder that we keep files in is unusable. Fields: ``path``, ``reason``, ``remedy``."""

    template = "cannot keep files in {path}: {reason}; {remedy}"


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


class OpenHostError(HostError):
    """With ``strict_network``: the guest would get of the host what nobody gave it.

    Fields: ``reached``, ``why``, ``remedy``.
    """

    template = (
        "strict_network = yes, and a guest with network would reach {reached}: {why}; {remedy}, or "
        "set strict_network = no"
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


class GuestForwardError(MachineError):
    """The guest asked gvproxy to open ports of the host. Fields: ``forwards`` (text)."""

    template = (
        "the guest had gvproxy open host ports that nobody asked for: {forwards}; they are closed "
        "again. Any program in a guest with network can ask for them at "
        "http://192.168.127.1/services/forwarder/expose: find the one that did, or take "
        "allow_network away; a port the test needs belongs into its marker"
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


class GuestCrashError(MachineDiedError):
    """The guest's kernel failed, as by an oops, whether or not the guest runs on.

    Fields: ``kind`` (a word for it), ``what`` (happened to the kernel), ``crash`` (its own words),
    ``console``, ``program``, ``returncode``, ``stderr``, ``remedy``.
    """

    template = (
        "the guest's kernel {what}: {crash}\nwhere it tells of that on its console:\n{console}\n"
        "{remedy}where the test wants that, set allow_crash = yes"
    )


class GuestPanicError(GuestCrashError):
    """The guest's kernel panicked, whether or not QEMU has ended with that.

    Fields: ``panic`` (its reason), ``console``, ``program``, ``returncode``, ``stderr``, ``cause``
    (what the kernel said before, as its oops; may be empty).
    """

    template = (
        "the guest's kernel panicked: {panic}{cause}\nthe end of its console:\n{console}\n"
        "where the test wants that, set allow_crash = yes"
    )


class GuestRebootWarning(UserWarning):
    """A guest rebooted by itself, which ends its VM."""


class GuestKernelWarning(UserWarning):
    """A guest's kernel said that something is wrong, and went on."""


class MonitorError(MachineError):
    """QEMU's monitor refused a command. Fields: ``command``, ``reply``."""

    template = "QEMU's monitor refused {command!r}: {reply}"


class CommandFailedError(MachineError, subprocess.CalledProcessError):
    """A command in the guest failed.

    Fields: ``cmd``, ``returncode`` (negative for a signal), ``output`` (also read as ``stdout``),
    ``stderr``, ``said``.
    """

    template = "{cmd!r} ended with {returncode} in the guest; it said:\n{said}"
    __str__ = Exception.__str__


class CommandTimeoutError(MachineError, subprocess.TimeoutExpired):
    """A command in the guest did not end in time.

    Fields: ``cmd``, ``timeout`` (seconds), ``output`` and ``stderr``: what it had written.
    """

    template = "{cmd!r} had not ended in the guest after {timeout:g} s and was killed"
    __str__ = Exception.__str__


class ShutdownTimeoutError(MachineError):
    """The guest did not power off in time. Fields: ``timeout`` (seconds), ``console``."""

    template = (
        "the guest had not powered off after {timeout:g} s; the end of its console:\n{console}\n"
        "raise the timeout, or leave the VM to the end of the test, which kills it"
    )


class GuestFileError(MachineError):
    """A file could not be copied. Fields: ``what``, ``remedy``."""

    template = "{what}; {remedy}"


class NoShellError(MachineError):
    """Nothing in this guest runs commands. Fields: ``guest``."""

    template = (
        "no command can be run in {guest}: its init is its own; give Guest.kernel a setup (even "
        "setup=''), or Guest.disk ssh=True or agent=True"
    )
