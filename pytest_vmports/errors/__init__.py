"""Every error this project raises on purpose.

Their tree stands at the top of ``errors.md``, which has a section on each.

Each holds its facts as keyword fields, keeps them through ``pickle`` (xdist sends errors between
processes), says what was tried, what was found and what to do, and ends with the command that
shows its section of ``errors.md``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any, ClassVar

from pytest_vmports.errors.warned import CloudInitWarning as CloudInitWarning
from pytest_vmports.errors.warned import GuestFileWarning as GuestFileWarning
from pytest_vmports.errors.warned import GuestKernelWarning as GuestKernelWarning
from pytest_vmports.errors.warned import GuestRebootWarning as GuestRebootWarning
from pytest_vmports.errors.warned import LostEvidenceWarning as LostEvidenceWarning
from pytest_vmports.errors.warned import NotEnteredWarning as NotEnteredWarning


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
        # Behind a console it would look like the guest's words.
        between = "\n" if "\n" in text else " "
        text = f"{text}{between}[{self.address()}]".encode("utf-8", "backslashreplace").decode()
        _hide_frames()
        # Not super(): some are also errors of subprocess, which are made from other arguments.
        Exception.__init__(self, text)

    @classmethod
    def address(cls) -> str:
        """Return the command that tells more of this error: by its name without "Error"."""
        words = re.findall("[A-Z][a-z]+", cls.__name__.removesuffix("Error"))
        return "pytest-vmports explain " + "-".join(words).lower()

    def __getattr__(self, name: str) -> Any:
        # Only reached when normal lookup failed: an error's facts read as attributes.
        fields = self.__dict__.get("fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(f"{type(self).__name__} has no field {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (type(self), self.args[0], self.fields)


def _hide_frames() -> None:
    """Have pytest hide our frames too where it asks no plugin, as while it imports one."""
    frame = sys._getframe(1)  # noqa: SLF001 - inspect's takes long to import
    while (up := frame.f_back) is not None:
        if str(frame.f_globals.get("__name__")).startswith("pytest_vmports."):
            frame.f_globals["__tracebackhide__"] = True
        frame = up


def rebuild(kind: type[VmPortsError], message: str, fields: dict[str, Any]) -> VmPortsError:
    """Return an error with this whole message, from another process or moment."""
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.fields = fields
    return error


class SettingError(VmPortsError, ValueError):
    """A setting's value is not allowed. Fields: ``name``, ``value``, ``source``, ``allowed``."""

    template = "{source}: {name} = {value!r} is not allowed; {allowed}"


class NotExposedError(VmPortsError, KeyError):
    """A guest port is not exposed. Fields: ``port``, ``exposed`` (text), ``remedy``."""

    template = "guest port {port} is not exposed; exposed are: {exposed}; {remedy}"
    __str__ = Exception.__str__


class NotEnteredError(VmPortsError, AttributeError):
    """What makes a VM is used as one. Fields: ``used`` (what was asked of it), ``what`` it is."""

    template = (
        "{used} is asked of {what}, and the VM is made by a with block: "
        "`with vm_factory(…) as vm:`, and in it `vm`"
    )


class ImageError(VmPortsError):
    """A disk image cannot be booted. Fields: ``path``, ``problem``, ``remedy``."""

    template = "disk image {path} cannot be booted: {problem}; {remedy}"


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


class QemuNotFoundError(HostError):
    """No QEMU runs here. Fields: ``tried`` (text), ``remedy``."""

    template = "no working QEMU found; tried:\n{tried}\n{remedy}"


class GvproxyNotFoundError(HostError):
    """No gvproxy runs here. Fields: ``tried`` (text), ``remedy``."""

    template = (
        "no working gvproxy found, which a guest with network needs; tried:\n{tried}\n{remedy}"
    )


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
        "correct user_data, or look into /var/log/cloud-init.log of a guest booted without ports; "
        "where one module's complaint does not matter, set cloud_init = tolerant"
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


class GuestStuckError(MachineError):
    """The guest's boot has ended short of its goal, and nothing more will come.

    Fields: ``means``, ``words`` (its last ones, if any), ``ending`` (of its console, in words),
    ``seconds`` (of silence), ``console``, ``remedy``.
    """

    template = (
        "the guest will not come up: {means}\nits console {ending}, and nothing has come for "
        "{seconds:g} s; {remedy}\nthe end of its console:\n{console}"
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

    Fields: ``panic`` (its reason), ``cause`` (what the kernel said before, as its oops; may be
    empty), ``hint`` (what to do, may be empty), ``console``, ``program``, ``returncode``,
    ``stderr``.
    """

    template = (
        "the guest's kernel panicked: {panic}{cause}\n{hint}the end of its console:\n{console}\n"
        "where the test wants that, set allow_crash = yes"
    )

    def __init__(self, message: str | None = None, **fields: Any) -> None:
        super().__init__(message, **{"hint": "", "cause": "", **fields})


class DiskFullError(MachineDiedError):
    """The host had no room for what the guest writes. Fields: ``folder``, as `MachineDiedError`."""

    template = (
        "QEMU has paused the guest, since its disk's file can grow no more: no space is left in "
        "{folder}; make room there, or set TMPDIR to a folder on another file system\n"
        "the end of its console:\n{console}"
    )


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


class ForkedProcessError(MachineError):
    """A forked child used its parent's VM. Fields: ``owner``, ``pid`` (process ids)."""

    template = (
        "this VM is that of process {owner}, which forked this one, {pid}: its channels have one "
        "reader; use it there, and here connect to its ports by what vm[8080].address was"
    )


class NoShellError(MachineError):
    """Nothing in this guest runs commands. Fields: ``guest``."""

    template = (
        "no command can be run in {guest}: its init is its own; give Guest.kernel a setup (even "
        "setup=''), or Guest.disk ssh=True or agent=True"
    )
