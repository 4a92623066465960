"""The passt of this host: found by running it, and only if it can be told to leave the host alone.

Source: passt(1). Of its version it says nothing to who is no terminal.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

from pytest_vmports.errors import PasstNotFoundError
from pytest_vmports.system import surroundings
from pytest_vmports.system.probing import ask

_SECONDS = 20.0
# Came with 2024_10_30. Before it a guest's UDP reaches the host's loopback at the gateway's
# address whatever is said (seen with Debian 12's, of March 2023).
NEEDED = ("--map-host-loopback", "none", "--map-guest-addr", "none")
_REMEDY = "install one of 2025 or later (Debian 13 and Fedora have it), or leave backend = auto"


@dataclass(frozen=True)
class Passt:
    """A passt that ran.

    Attributes:
        path: the program.
    """

    path: str

    def __str__(self) -> str:
        return f"passt ({self.path})"


@lru_cache(maxsize=1)
def find_passt() -> Passt:
    """Return the passt on PATH.

    Raises:
        PasstNotFoundError: none runs there, or it is too old.
        ProgramStoppedError: there is one, and the host keeps it from running.
    """
    path = surroundings.which("passt")
    if path is None:
        raise PasstNotFoundError(found="it is not on PATH", remedy=_REMEDY)
    bare, needed = (ask([path, *words, "--help"], timeout=_SECONDS) for words in ((), NEEDED))
    if bare.code or "passt" not in bare.text:
        raise PasstNotFoundError(found=f"{path} does not run: {bare.begin}", remedy=_REMEDY)
    if needed.code:
        raise PasstNotFoundError(
            found=f"{path} is too old, it cannot be kept from the host's 127.0.0.1: it does not "
            f"know {NEEDED[0]}",
            remedy=_REMEDY,
        )
    return Passt(os.path.realpath(path))
