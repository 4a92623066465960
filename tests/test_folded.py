"""A test of many cases is red where one of them is, and names all that are."""

from __future__ import annotations

import inspect

import pytest
from folded import folded

seen = []


@folded("number", range(3))
def test_each_case_is_tried_with_the_fixtures(number, tmp_path):
    seen.append((number, tmp_path))


def test_a_case_that_fails_is_named_and_hides_no_other(tmp_path):
    seen.clear()
    test_each_case_is_tried_with_the_fixtures(tmp_path=tmp_path)
    assert seen == [(number, tmp_path) for number in range(3)]

    @folded("one, other", [(1, 1), (1, 2), (2, 2), (3, 4), (5, 5)])
    def equal(one, other):
        """Text."""
        if one == 5:
            pytest.fail("of a helper")
        assert one == other

    assert (equal.__name__, equal.__doc__) == ("equal", "Text.")
    assert [*inspect.signature(equal).parameters] == []
    with pytest.raises(AssertionError) as caught:
        equal()
    first, *told = str(caught.value).splitlines()
    assert first == "3 of 5 cases:"
    assert all(case in str(told) for case in ("(1, 2): ", "(3, 4): ", "(5, 5): ", "of a helper"))
    assert "(2, 2): " not in str(told)
