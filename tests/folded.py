"""One test of many cases that say one thing: all that fail are named, and none costs a test."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def folded(names: str, cases: Iterable[Any], *, ids: Callable[[Any], str] = repr) -> Any:
    """As ``pytest.mark.parametrize``, for cases that share the test's fixtures.

    Args:
        names: of the arguments, with commas between.
        cases: a value each, or a tuple where there are several names.
        ids: returns what a case is called when it fails.
    """
    keys, cases = names.replace(",", " ").split(), list(cases)
    assert cases

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        def test(**fixtures: Any) -> None:
            failed: dict[str, BaseException] = {}
            for case in cases:
                values = case if len(keys) > 1 else (case,)
                try:
                    check(**fixtures, **dict(zip(keys, values, strict=True)))
                except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - all are told
                    failed[ids(case)] = error
            if failed:
                told = "\n".join(f"{case}: {error!r}" for case, error in failed.items())
                message = f"{len(failed)} of {len(cases)} cases:\n{told}"
                raise AssertionError(message) from next(iter(failed.values()))

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        asked = inspect.signature(check).parameters
        fixtures = [parameter for name, parameter in asked.items() if name not in keys]
        test.__signature__ = inspect.Signature(fixtures)  # type: ignore[attr-defined]
        test.__module__ = check.__module__
        return test

    return decorate
