"""What is wrong with a VM, from its start to its end."""

from __future__ import annotations

import subprocess
from typing import Any

from pytest_vmports.errors.base import VmPortsError


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
        "the guest had gvproxy open host ports that nobody asked for: {forwards}; they end "
        "with the VM. Any program in a guest with network can ask for them at "
        "http://192.168.127.1/services/forwarder/expose: find the one that did, or take "
        "allow_network away; a port the test needs belongs into its marker"
    )


class NetworkUnseenError(MachineError):
    """What the guest asks of the network is not seen here. Fields: ``why``, ``remedy``."""

    template = "there is no network_log of this VM: {why}; {remedy}"


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


class GuestRebootError(MachineDiedError):
    """The guest rebooted by itself, which ends its VM, or while something was asked of it.

    Fields: ``what`` (happened), ``remedy``, ``program``, ``returncode``, ``stderr``, ``console``.
    """

    template = "{what}; {remedy}\nthe end of its console:\n{console}"


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

    def __str__(self) -> str:
        return Exception.__str__(self)


class CommandTimeoutError(MachineError, subprocess.TimeoutExpired):
    """A command in the guest did not end in time.

    Fields: ``cmd``, ``timeout`` (seconds), ``output`` and ``stderr``: what it had written.
    """

    template = "{cmd!r} had not ended in the guest after {timeout:g} s and was killed"

    def __str__(self) -> str:
        return Exception.__str__(self)


class CopyTimeoutError(CommandTimeoutError):
    """A copy into or out of a guest had made no progress for too long. Fields: as there."""

    template = "{cmd} went on no further in the guest for {timeout:g} s, and was ended there"


class CommandOutputError(MachineError):
    """A command in the guest wrote more than it may, and was killed.

    Fields: ``cmd``, ``max_output`` (bytes), ``output`` and ``stderr``: what it wrote first, as much
    as it may.
    """

    template = (
        "{cmd!r} wrote more than {max_output} bytes in the guest and was killed; what it wrote "
        "first is this error's output and stderr: give vm.run a larger max_output, or have the "
        "command write to a file and fetch that by vm.get"
    )


class ShutdownTimeoutError(MachineError):
    """The guest did not power off in time. Fields: ``timeout`` (seconds), ``console``."""

    template = (
        "the guest had not powered off after {timeout:g} s; the end of its console:\n{console}\n"
        "raise the timeout, or leave the VM to the end of the test, which kills it"
    )


class GuestFileError(MachineError):
    """A file could not be copied. Fields: ``what``, ``remedy``."""

    template = "{what}; {remedy}"


class ShareError(MachineError):
    """A folder of the host's cannot be shared with the guest. Fields: ``what``, ``remedy``."""

    template = "{what}; {remedy}"


class GuestSaidError(MachineError):
    """What a guest answered is malformed. Fields: ``who``, ``problem``, ``said`` (printable)."""

    template = (
        "{who} gave a malformed answer: {problem}\nIt said: {said}\n"
        "What runs in the guest is broken, or means ill: nothing of the answer is used"
    )


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
