"""What a guest said: the one boundary where its words become values of ours.

Every parser of something that a guest controls runs inside `said_by`, so a malformed answer is an
error that names who gave it, and never a Python error out of nowhere.
"""

from __future__ import annotations

import contextlib
import struct
import tarfile
from typing import TYPE_CHECKING

from pytest_vmports.errors import GuestSaidError
from pytest_vmports.system.mishaps import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a parser raises of bad input. Not OSError: that is the host's.
_MALFORMED = (
    ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError, EOFError,
    RecursionError, struct.error, tarfile.TarError,
)  # fmt: skip
_SHOWN = 200


@contextlib.contextmanager
def said_by(who: str, said: object = "") -> Iterator[None]:
    """Read inside what a guest said.

    Args:
        who: said it, as "the guest's control channel".
        said: what it said, to be shown; a long one is cut.

    Raises:
        GuestSaidError: it is malformed.
    """
    try:
        yield
    except GuestSaidError:
        raise
    except _MALFORMED as error:
        raise malformed(who, f"{type(error).__name__}: {error}", said) from error


def malformed(who: str, problem: str, said: object = "") -> GuestSaidError:
    """Return the error for an answer that is not what `who` has to say."""
    text = said if isinstance(said, str) else repr(said)
    cut = text[:_SHOWN] + (" …" if len(text) > _SHOWN else "")
    return GuestSaidError(who=who, problem=printable(problem[:_SHOWN]), said=printable(cut))
