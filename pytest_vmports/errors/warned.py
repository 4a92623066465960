"""What a VM tells by a warning: its test goes on."""

from __future__ import annotations


class GuestRebootWarning(UserWarning):
    """A guest rebooted by itself, which ends its VM."""


class LostEvidenceWarning(UserWarning):
    """A VM has ended, and what its report may want could not be kept, as without descriptors."""


class CloudInitWarning(UserWarning):
    """A module of cloud-init complained, where the settings tolerate that."""


class GuestKernelWarning(UserWarning):
    """A guest's kernel said that something is wrong, and went on."""


class NotEnteredWarning(UserWarning):
    """What `vm_factory` returned was thrown away, and no VM was made."""


class GuestFileWarning(UserWarning):
    """A copy left something out that has no place in an archive, as a socket."""
