"""What has to answer before a VM is ready, as a setting says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vmports.models import ExposedPort, PortMapping

_Port = TypeVar("_Port", "ExposedPort", "PortMapping")


@dataclass(frozen=True)
class WaitFor:
    """What has to answer before a VM is ready.

    Attributes:
        mode: ``any`` one TCP port, ``all`` TCP ports, these ``ports``, an ``http`` path, ``none``.
        ports: guest ports, for ``ports`` and ``http``.
        path: for ``http``; begins with a slash.
    """

    mode: str = "any"
    ports: tuple[int, ...] = ()
    path: str = ""

    def candidates(self, ports: Sequence[_Port]) -> list[_Port]:
        """Return those of these ports that are to be asked."""
        tcp = [port for port in ports if port.protocol == "tcp"]
        if self.mode == "none":
            return []
        if self.mode in {"any", "all"}:
            return tcp
        return [port for port in tcp if port.internal in self.ports]

    def __str__(self) -> str:
        if self.mode == "http":
            return f"an answer to GET {self.path} on port {self.ports[0]}"
        return {
            "any": "any one forwarded TCP port",
            "all": "all forwarded TCP ports",
            "none": "nothing",
        }.get(self.mode, "port " + ", ".join(map(str, self.ports)))
