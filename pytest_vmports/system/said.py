"""What a guest said: the one boundary where its words become values of ours.

Every parser of something that a guest controls, or a program that it may own, runs inside `said_by`
or reads by `shaped` and `json_said`. So a malformed answer is an error that names who gave it, and
never a Python error out of nowhere; and what is not malformed has the types that it is to have.
"""

from __future__ import annotations

import contextlib
import json
import re
import struct
import tarfile
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pytest_vmports.errors import GuestSaidError
from pytest_vmports.system.mishaps import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_T = TypeVar("_T")
# What a parser raises of bad input. Not OSError: that is the host's.
_MALFORMED = (
    ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError, EOFError,
    RecursionError, struct.error, tarfile.TarError,
)  # fmt: skip
_SHOWN = 200
# Not \d, nor what int() takes: digits of other scripts, "_", signs and spaces.
_WHOLE = re.compile(rb"0|[1-9][0-9]{0,18}")


class Answer(BaseModel):
    """The shape of an answer in JSON.

    Its members have their very types: a bool or a text is no number. Members that nobody knows are
    passed over, as QEMU's documents ask of who reads its answers.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        strict=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )


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
    except ValidationError as error:
        raise malformed(who, _first(error), said) from error
    except _MALFORMED as error:
        raise malformed(who, f"{type(error).__name__}: {str(error)[:_SHOWN]}", said) from error


def malformed(who: str, problem: str, said: object = "") -> GuestSaidError:
    """Return the error for an answer that is not what `who` has to say."""
    return GuestSaidError(who=who, problem=printable(problem[:_SHOWN]), said=printable(_cut(said)))


def shaped(who: str, value: object, shape: type[_T]) -> _T:
    """Return an answer as what it has to be: a subclass of `Answer`, or a type as ``list[int]``.

    Raises:
        GuestSaidError: it is anything else.
    """
    with said_by(who, value):
        found: _T = _adapter(cast("Any", shape)).validate_python(value)
        return found


def json_said(who: str, text: bytes | str, shape: type[_T]) -> _T:
    """Return an answer in JSON, as `shaped`.

    Raises:
        GuestSaidError: it is no JSON, or has a name twice, or another shape.
    """
    with said_by(who, text):
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    return shaped(who, value, shape)


def number_said(who: str, text: bytes, most: int) -> int:
    """Return a number that was said in decimal digits, from 0 to ``most``.

    Raises:
        GuestSaidError: it is none.
    """
    if _WHOLE.fullmatch(text) is None or int(text) > most:
        raise malformed(who, f"no number from 0 to {most}", text)
    return int(text)


@lru_cache(maxsize=64)
def _adapter(shape: Any) -> TypeAdapter[Any]:
    # A model brings its own strictness, and takes no other.
    if isinstance(shape, type) and issubclass(shape, BaseModel):
        return TypeAdapter(shape)
    return TypeAdapter(shape, config=ConfigDict(strict=True, hide_input_in_errors=True))


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("it has a name twice")
    return found


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON's")


def _first(error: ValidationError) -> str:
    """Return what is wrong first; there may be thousands."""
    (first, *_) = error.errors(include_url=False, include_context=False, include_input=False)
    place = ".".join(str(part)[:_SHOWN] for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def _cut(said: object) -> str:
    """Return the begin of what was said; it may be megabytes long, and is not made longer first."""
    if isinstance(said, str | bytes | bytearray):
        text = said[:_SHOWN] if isinstance(said, str) else repr(bytes(said[:_SHOWN]))[2:-1]
        return text + (" …" if len(said) > _SHOWN else "")
    with contextlib.suppress(RecursionError):
        text = json.dumps(said, default=lambda one: type(one).__name__)
        return text[:_SHOWN] + (" …" if len(text) > _SHOWN else "")
    return "(it is nested too deep to be shown)"
