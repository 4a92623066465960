"""What a test sees of its guest's wishes of the network: `VM.network_log`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.errors import NetworkUnseenError

if TYPE_CHECKING:
    from pytest_vmports.network.log import NetworkEntries
    from pytest_vmports.vm.machine import Machine

_UNSEEN = {
    "usernet": "QEMU's user network", "none": "none at all",
    "passt": "passt without allow_network",
}  # fmt: skip
_LISTED = (
    "set allow_network to yes or a list, as ['packages.example.org'] or [] for nothing, and leave "
    "backend = auto"
)


class WithNetworkLog:
    """The part of a VM that looks at its network."""

    _machine: Machine

    @property
    def network_log(self) -> NetworkEntries:
        """What the guest asked of the network since its start, and what it was refused.

        ``assert not vm.network_log.refused`` says that it wanted nothing it was not given. A clone
        begins with none: what the setup of its template asked for is not there.

        Raises:
            NetworkUnseenError: this VM's network is not looked at.
        """
        cards = self._machine.cards
        log, wiring = cards.first.network_log, cards.network.kind
        if log is not None:
            return log.entries()
        if wiring == "gvproxy":
            why = "gvproxy's connections are not held in a run that may keep its VMs, nor where a "
            why += "host does not allow that"
            remedy = "leave --vmports-keep out, or see what pytest-vmports doctor says"
        else:
            why, remedy = f"its network is {_UNSEEN[wiring]}, which tells nothing", _LISTED
        raise NetworkUnseenError(why=why, remedy=remedy)
