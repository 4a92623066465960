"""Which VMs the next tests ask for: from their settings to what can be made ready for them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vmports.pool.standby import Order
    from pytest_vmports.settings.options import Settings

_MOST_KINDS = 16


class Foresight:
    """Knows how VMs are made of which one like it has been made already.

    Of others there may be no template yet, and a boot beside a test would take its processor.
    """

    def __init__(self) -> None:
        self._known: list[tuple[Settings, Order]] = []

    def learn(self, settings: Settings, order: Order | None) -> None:
        """Remember how a VM of these settings is made; None where none can be made ready."""
        self._known = [one for one in self._known if not alike(one[0], settings)]
        if order is not None:
            self._known = [*self._known[1 - _MOST_KINDS :], (settings, order)]

    def orders(self, following: Iterable[Settings], most: int) -> list[Order]:
        """Return how the next VMs are made, as far as it is known, the nearest first.

        Args:
            following: their settings.
            most: how many are looked at. One that is not known takes its place all the same: what
                comes after it would be ended again as soon as that one is known.
        """
        found = map(self._order_for, itertools.islice(following, most))
        return [one for one in found if one is not None]

    def _order_for(self, settings: Settings) -> Order | None:
        if not settings.prewarm:
            return None
        return next((order for known, order in self._known if alike(known, settings)), None)


class Habits:
    """What tests took from a factory, of which nothing is known beforehand.

    While a test takes what the one before it took, it is expected to go on so, and the next one to
    begin so.
    """

    def __init__(self) -> None:
        self._test: object = None
        self._before: list[Settings] = []
        self._now: list[Settings] = []

    def take(self, test: object, settings: Settings) -> None:
        """Note that a test takes a VM."""
        if test is not self._test:
            self._test, self._before, self._now = test, self._now, []
        self._now.append(settings)

    @property
    def rest(self) -> list[Settings]:
        """What the test that runs is expected to take yet."""
        return self._before[len(self._now) :] if self._as_before else []

    @property
    def whole(self) -> list[Settings]:
        """What the next test that uses the factory is expected to take."""
        return list(self._before) if self._as_before else []

    @property
    def _as_before(self) -> bool:
        pairs = zip(self._before, self._now, strict=False)
        return len(self._now) <= len(self._before) and all(alike(*pair) for pair in pairs)


def alike(one: Settings, other: Settings) -> bool:
    """Whether two tests' VMs look the same, from inside too."""
    same = replace(
        other, allow_crash=one.allow_crash, copy_limit=one.copy_limit, prewarm=one.prewarm
    )
    return same == one
