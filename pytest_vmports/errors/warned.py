"""What a VM tells by a warning: its test goes on."""

from __future__ import annotations

from pytest_vmports.errors.shown import printable


class _VmWarning(UserWarning):
    def __init__(self, text: str = "") -> None:
        super().__init__(printable(text))


class GuestRebootWarning(_VmWarning):
    """A guest that may reboot was reset without a word of its kernel."""


class LostEvidenceWarning(_VmWarning):
    """A VM has ended, and what its report may want could not be kept, as without descriptors."""


class CloudInitWarning(_VmWarning):
    """A module of cloud-init complained, where the settings tolerate that."""


class GuestKernelWarning(_VmWarning):
    """A guest's kernel said that something is wrong, and went on."""


class NotEnteredWarning(_VmWarning):
    """What `vm_factory` returned was thrown away, and no VM was made."""


class SharedCopyWarning(_VmWarning):
    """A guest has a copy of a folder that it should share, since it has no driver for one."""


class GuestFileWarning(_VmWarning):
    """A copy left something out that has no place in an archive, as a socket."""
