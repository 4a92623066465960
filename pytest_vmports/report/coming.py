"""Which tests come after the one that runs, as far as that is known, and the VMs that they need."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vmports.settings.options import Settings

BOOTS: pytest.StashKey[Settings] = pytest.StashKey()
"""On a test: the settings of its ``vm_with_ports``."""
NEXT: pytest.StashKey[pytest.Item] = pytest.StashKey()
"""On a test that runs: the next one of this process."""
_PLACE: pytest.StashKey[int] = pytest.StashKey()
# A VM that waits longer takes memory for too little.
_FARTHEST = 32


def coming(item: pytest.Item | None, by_factory: Sequence[Settings] = ()) -> Iterator[Settings]:
    """Yield the settings of the VMs that the next tests are expected to ask for.

    An xdist worker is told its next test only, while more are being dealt out: it is taken that
    those need what that one needs.

    Args:
        item: the test that runs.
        by_factory: what a test that uses ``vm_factory`` is expected to take.
    """
    following = None if item is None else item.stash.get(NEXT, None)
    if item is None or following is None:
        return
    if hasattr(item.config, "workerinput"):
        yield from itertools.chain.from_iterable(
            itertools.repeat(_of(following, by_factory), _FARTHEST)
        )
        return
    for one in _from(item.session.items, following, item.config.stash):
        yield from _of(one, by_factory)


def _of(item: pytest.Item, by_factory: Sequence[Settings]) -> Sequence[Settings]:
    if BOOTS in item.stash:
        return [item.stash[BOOTS]]
    return by_factory if "vm_factory" in getattr(item, "fixturenames", ()) else ()


def _from(
    items: Sequence[pytest.Item], first: pytest.Item, stash: pytest.Stash
) -> Sequence[pytest.Item]:
    """Return a test and some after it, in the order in which they run."""
    begin = stash.get(_PLACE, 0)
    if first in items[begin : begin + _FARTHEST]:  # tests may be many, and most run in order
        begin = items.index(first, begin)
    elif first in items:
        begin = items.index(first)
    else:
        return [first]
    stash[_PLACE] = begin
    return items[begin : begin + _FARTHEST]
