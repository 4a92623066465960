"""Where saved guests are fetched from and put, and by what secret they are signed."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_vmports.errors import SettingError
from pytest_vmports.system.paths import absolute
from pytest_vmports.system.small_file import read_small

_ALLOWED = (
    "write a folder or an address, as s3://bucket/folder, and behind it readonly, or trusted where "
    "nobody signs what is in it"
)
_LEAST_SECRET = 16
_VARIABLE = "env:"
_PASSWORD = re.compile(r"//[^/@]*@")


@dataclass(frozen=True)
class FarStore:
    """A store.

    Attributes:
        url: a folder's path, or an address.
        readonly: nothing is put there.
        trusted: what is in it is believed unsigned.
        secret: of who signs it; None where nobody does.
    """

    url: str
    readonly: bool = False
    trusted: bool = False
    secret: bytes | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The address as it is shown: without a password."""
        return _PASSWORD.sub("//", self.url)

    def __str__(self) -> str:
        words = [self.shown, *["readonly"] * self.readonly, *["trusted"] * self.trusted]
        return " ".join(words)


def store(value: Any, root: Path | None = None) -> FarStore | None:
    """Read the store's address and words.

    Raises:
        ValueError: it is none.
    """
    words = str(value or "").split()
    if not words:
        return None
    url, *more = words
    if not set(more) <= {"readonly", "trusted"}:
        raise ValueError(f"{_ALLOWED}; not {' '.join(more)!r}")
    local = not re.match(r"[a-zA-Z][\w+.-]*:", url)
    if local:
        url = str(absolute(url, root))
    return FarStore(url, "readonly" in more, "trusted" in more or local)


def secret(value: Any, root: Path | None = None) -> str | None:
    """Read where a secret is: ``env:NAME``, or a file's path.

    Raises:
        ValueError: it is none.
    """
    text = str(value or "").strip()
    if text.startswith(_VARIABLE) and not text.removeprefix(_VARIABLE).isidentifier():
        raise ValueError("write env:NAME with the name of a variable, or a file")
    if not text:
        return None
    return text if text.startswith(_VARIABLE) else str(absolute(text, root))


def with_secret(found: FarStore | None, reference: str | None) -> FarStore | None:
    """Return the store with the secret of who signs what is in it.

    Args:
        found: the store; None for none.
        reference: where the secret is: ``env:NAME``, or a file; None for none.

    Raises:
        SettingError: there is no secret, or it is too short; or there is none, and nobody said that
            the store is to be believed without.
    """
    if found is None:
        return None
    if reference:
        return replace(found, secret=read_secret(reference))
    if not found.trusted:
        raise SettingError(
            source="cache_store", name="cache_store", value=found.shown,
            allowed="a saved guest is a program and its memory, which runs here: set "
            "cache_store_secret, by which it is signed, or write trusted behind the address",
        )  # fmt: skip
    return found


def read_secret(reference: str) -> bytes:
    """Return a secret.

    Args:
        reference: ``env:NAME``, or a file.

    Raises:
        SettingError: there is none, or it is too short.
    """
    if reference.startswith(_VARIABLE):
        name = reference.removeprefix(_VARIABLE)
        where, found = f"the variable {name}", os.environ.get(name, "").encode()
    else:
        try:
            where, found = reference, read_small(Path(reference)).strip()
        except OSError as error:
            raise _refusal(reference, f"it cannot be read: {error.strerror}") from error
    if len(found) < _LEAST_SECRET:
        raise _refusal(
            reference, f"{where} holds {len(found)} bytes, and a secret has {_LEAST_SECRET} or more"
        )
    return found


def _refusal(reference: str, why: str) -> SettingError:
    return SettingError(
        source="cache_store_secret", name="cache_store_secret", value=reference,
        allowed=f"write env:NAME, or a file; {why}",
    )  # fmt: skip
