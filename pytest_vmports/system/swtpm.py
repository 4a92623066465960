"""The swtpm of this host, which is a guest's TPM: found by running it.

Source: swtpm(8).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

from pytest_vmports.errors import SwtpmNotFoundError
from pytest_vmports.system import surroundings
from pytest_vmports.system.probing import ask

_SECONDS = 20.0
_REMEDY = "install it (apt install swtpm, dnf install swtpm, brew install swtpm)"


@dataclass(frozen=True)
class Swtpm:
    """A swtpm that ran.

    Attributes:
        path: the program.
    """

    path: str

    def __str__(self) -> str:
        return f"swtpm ({self.path})"


@lru_cache(maxsize=1)
def find_swtpm() -> Swtpm:
    """Return the swtpm on PATH.

    Raises:
        ProgramStoppedError: there is one, and the host keeps it from running.
        SwtpmNotFoundError: none runs there.
    """
    path = surroundings.which("swtpm")
    if path is None:
        raise SwtpmNotFoundError(found="it is not on PATH", remedy=_REMEDY)
    answer = ask([path, "--version"], timeout=_SECONDS)
    if answer.code or "TPM emulator" not in answer.text:
        raise SwtpmNotFoundError(found=f"{path} does not run: {answer.begin}", remedy=_REMEDY)
    return Swtpm(os.path.realpath(path))
