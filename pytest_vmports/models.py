"""A wanted forward (`PortMapping`) and a granted one (`ExposedPort`)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from pytest_vmports.constants import (
    MAX_PORT,
    PORT_FORWARD_BIND_HOST,
    PORT_FORWARD_MIN_HOST_PORT,
)

Protocol = Literal["tcp", "udp"]
GuestPort = Annotated[int, Field(ge=1, le=MAX_PORT, strict=True)]
HostPort = Annotated[int, Field(ge=PORT_FORWARD_MIN_HOST_PORT, le=MAX_PORT, strict=True)]


class PortMapping(BaseModel):
    """A guest port that somebody wants to reach.

    Attributes:
        internal: the guest's port, 1 to 65535.
        external: the host's port, 1024 to 65535, or None to be given a free one.
        protocol: ``"tcp"`` or ``"udp"``.

    Raises:
        pydantic.ValidationError: (a ValueError) when a number is out of range or not a number.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    internal: GuestPort
    external: HostPort | None = None
    protocol: Protocol = "tcp"

    def __str__(self) -> str:
        host = f"{self.external}:" if self.external else ""
        return f"{host}{self.internal}/{self.protocol}"


class ExposedPort(BaseModel):
    """A guest port and the host address where it can be reached.

    Attributes:
        internal: the guest's port.
        external: the host's port.
        host: the host's address that the forward is bound to.
        protocol: ``"tcp"`` or ``"udp"``.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    internal: GuestPort
    external: HostPort
    host: str = PORT_FORWARD_BIND_HOST
    protocol: Protocol = "tcp"

    @property
    def url(self) -> str:
        """``http://host:port`` for TCP, ``udp://host:port`` for UDP."""
        scheme = "http" if self.protocol == "tcp" else "udp"
        return f"{scheme}://{self.host}:{self.external}"

    @property
    def address(self) -> tuple[str, int]:
        """``(host, port)`` as `socket.create_connection` takes it."""
        return self.host, self.external

    def __str__(self) -> str:
        return f"{self.host}:{self.external} -> {self.internal}/{self.protocol}"
