"""Holm's adjusted p-values against statsmodels."""

from __future__ import annotations

import gc
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from perennial.domain.multiplicity import holm


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_adjusted_p_values_equal_statsmodels(p_values: list[float]) -> None:
    found = holm(dict(enumerate(p_values)))
    with pytest.MonkeyPatch.context() as patch:
        # `multipletests` collects the whole process's garbage at every call, which takes a third of a second.
        patch.setattr(gc, "collect", lambda: 0)
        expected = multipletests(p_values, method="holm")[1].tolist()
    assert list(found.values()) == pytest.approx(expected)


def test_keys_keep_their_order() -> None:
    found = holm({"JFK": 0.04, "EWR": 0.01, "LGA": 0.03})
    assert list(found) == ["JFK", "EWR", "LGA"]
    assert found == pytest.approx({"JFK": 0.06, "EWR": 0.03, "LGA": 0.06})


def test_no_tests_give_nothing() -> None:
    assert holm({}) == {}


@pytest.mark.parametrize("wrong", [math.nan, -0.1, 1.1, math.inf])
def test_p_value_out_of_range_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm({"a": 0.5, "b": wrong})
