"""Near-valid inputs for parsers of what a guest says: real answers, changed a little. Seeded.

A run tries the same inputs each time; VMPORTS_FUZZ_SEED names others, VMPORTS_FUZZ_COUNT how many.
"""

from __future__ import annotations

import json
import os
from copy import deepcopy
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_vmports.errors import VmPortsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SEED = os.environ.get("VMPORTS_FUZZ_SEED", "0")
COUNT = int(os.environ.get("VMPORTS_FUZZ_COUNT", "10000"))

# What has broken parsers: numbers at the edge of a type, digits that are none, ends of what ends.
WORDS = [
    b"", b"\0", b"\n", b"\r\n", b"\xff", b"\xff\xfe", b" ", b"\t", b'"', b"\\", b"{", b"}", b"[",
    b"]", b":", b",", b"-", b"-1", b"0", b"00", b"+1", b"1_0", b" 1", b"1.5", b"1e999", b"NaN",
    b"Infinity", b"-Infinity", b"255", b"256", b"65535", b"65536", b"2147483648", b"4294967296",
    b"-9223372036854775809", b"18446744073709551616", "١٢".encode(), "²".encode(),
    "\u2028".encode(), "\x85".encode(), b"\xed\xb2\x80", b"\x1b[2J", b"null", b"true", b"0x10",
    b"\\ud800", b"\\u0000", b"%s", b"{}", b"[]",
]  # fmt: skip
# Long ones, which are rare: int() refuses more than 4300 digits, json goes down with each bracket.
LONG = [b"9" * 5000, b"[" * 100_000, b'{"a":' * 20_000, b"A" * 70_000, b"\n" * 70_000]
# The same as sizes are written.
SIZES = [b"\xff" * 4, bytes(4), b"\xff\x0f\0\0", b"\0\0\0\x80", b"\x01\x10\0\0", b"\0\x10\0\0"]
# What stands in a JSON answer where another type belongs.
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 0.5, -0.0, 1e308, float("nan"), float("inf"), 255, 256, 65536,
    1 << 31, 1 << 63, 1 << 64, -(1 << 63), 10**400, "", "0", "1", "-1", "true", "١", "\ud800", "\0",
    "A" * 300, "=", "====", "QUJD", "QUJ", "QU JD", "QUJD\n", "ÄÖ==", [], {}, [[]], [None], {"": 0},
    {"return": {}}, {"error": {}}, {"error": None}, [0] * 300,
]  # fmt: skip


class Parser(NamedTuple):
    """One parser of what a guest, or who it may own, says.

    Attributes:
        name: module and function, ``vm.inside.control.Frames.feed``; more words tell two apart.
        parse: gives it one input; may raise a `VmPortsError`, and nothing else.
        samples: real inputs.
        mutate: makes a near-valid one of them; see `changed_bytes`, `changed_json`.
        fits: whether what was returned is what may be; what is accepted must be right.
    """

    name: str
    parse: Callable[[Any], Any]
    samples: Sequence[Any]
    mutate: Callable[[Random, Sequence[Any]], Any]
    fits: Callable[[Any], bool] = lambda _: True


def fuzz(parser: Parser, count: int = COUNT) -> int:
    """Give a parser near-valid inputs; return how many of them it took.

    Raises:
        AssertionError: it raised what is no `VmPortsError`, or returned what must not be.
    """
    random = Random(f"{SEED} {parser.name}")
    taken = 0
    for number in range(count):
        given = parser.mutate(random, parser.samples)
        try:
            found = parser.parse(given)
        except VmPortsError:
            continue
        except BaseException as error:
            raise AssertionError(
                f"{parser.name}: input {number} of seed {SEED} made it raise {error!r:.300}: "
                f"{given!r:.500}"
            ) from error
        taken += 1
        assert parser.fits(found), (
            f"{parser.name}: input {number} of seed {SEED} gave {found!r:.300}: {given!r:.500}"
        )
    return taken


def changed_bytes(random: Random, samples: Sequence[bytes]) -> bytes:
    """Return one of the samples with a few bytes changed, cut, doubled, moved or put in."""
    data = bytearray(random.choice(samples))
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        _change(random, data, samples)
    return bytes(data)


def changed_text(random: Random, samples: Sequence[str]) -> str:
    """Likewise of texts, as they are decoded for us."""
    encoded = [sample.encode("utf-8", "surrogatepass") for sample in samples]
    how = random.choice(("replace", "surrogateescape"))
    return changed_bytes(random, encoded).decode("utf-8", how)


def changed_value(random: Random, samples: Sequence[Any]) -> Any:
    """Return a JSON value like one of the samples, with wrong ones at a few places."""
    value = deepcopy(random.choice(samples))
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        value = _put(random, value, samples)
    return value


def changed_json(random: Random, samples: Sequence[Any]) -> bytes:
    """Return the JSON text of a value like one of the samples, and sometimes a broken text."""
    text = json.dumps(changed_value(random, samples)).encode()
    if random.random() < 0.3:
        return changed_bytes(random, [text])
    if random.random() < 0.1:  # a key that is there twice
        return text.replace(b"{", b'{"return": 1, "exited": [], "v1": null, ', 1)
    return text


def _change(random: Random, data: bytearray, samples: Sequence[bytes]) -> None:
    at = random.randrange(len(data) + 1)
    end = at + random.choice((0, 1, 1, 2, 4, 16, 1 << 20))
    data[at:end] = random.choice(_NEW)(random, bytes(data[at:end]), samples)


def _bit(random: Random, old: bytes, _: Sequence[bytes]) -> bytes:
    return bytes([old[0] ^ 1 << random.randrange(8)]) + old[1:] if old else b"\0"


def _another(random: Random, _: bytes, samples: Sequence[bytes]) -> bytes:
    other = random.choice(samples)
    return other[random.randrange(len(other) + 1) :]


# What takes the place of some bytes.
_NEW: tuple[Callable[[Random, bytes, Sequence[bytes]], bytes], ...] = (
    _bit,
    _another,
    lambda _random, _old, _samples: b"",
    lambda random, old, _: old * random.choice((2, 3, 50)) if len(old) < 1000 else old,
    lambda random, _old, _samples: random.choice(WORDS),
    lambda random, old, _: random.choice(WORDS) + old,
    lambda random, _old, _samples: random.randbytes(random.choice((1, 2, 4, 30))),
    lambda random, old, _: random.choice(SIZES) + old[4:],
    lambda random, old, _: random.choice(LONG) if random.random() < 0.005 else old[::-1],
)


def _put(random: Random, value: Any, samples: Sequence[Any]) -> Any:
    """Return the value with one place changed."""
    if random.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return deepcopy(random.choice(samples if random.random() < 0.3 else VALUES))
    if isinstance(value, list):
        at = random.randrange(len(value))
        if random.random() < 0.2:
            del value[at]
        else:
            value[at] = _put(random, value[at], samples)
        return value
    key = random.choice(list(value))
    what = random.random()
    if what < 0.15:
        del value[key]
    elif what < 0.25:
        value[random.choice(("", "return", "error", "x" * 300, "\ud800"))] = deepcopy(value[key])
    elif what < 0.3:
        value[key.upper()] = value.pop(key)
    else:
        value[key] = _put(random, value[key], samples)
    return value
