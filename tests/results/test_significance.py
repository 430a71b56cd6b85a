"""The rules of significance, at their edges."""

import math

import pandas as pd
import pytest

from kdtune.results.design import (
    exact_test,
    in_every_repeat,
    is_significant,
    p_text,
    p_value,
    since_interval,
)

NAN = math.nan


@pytest.mark.parametrize(
    ("p", "low", "high", "or_equal", "want"),
    [
        (0.04, 0.1, 0.2, False, True),
        (0.04, -0.2, -0.1, False, True),
        (0.04, -0.1, 0.2, False, False),  # Holm's p value after a first rejection
        (0.04, NAN, NAN, False, True),  # equal differences
        (0.06, NAN, NAN, False, False),
        (0.06, 0.1, 0.2, False, False),
        (NAN, NAN, NAN, False, False),  # too few repeats
        (0.05, 0.1, 0.2, False, False),
        (0.05, 0.1, 0.2, True, True),
        (0.01, -math.inf, math.inf, False, False),
    ],
)
def test_significance(p: float, low: float, high: float, or_equal: bool, want: bool) -> None:
    assert bool(is_significant(p, low, high, 0.05, or_equal)) == want
    columns = (pd.Series([0.5, value]) for value in (p, low, high))
    assert is_significant(*columns, 0.05, or_equal)[1] == want


def test_the_interval_is_the_reason_only_where_it_includes_0() -> None:
    assert since_interval(0.04, -1, 2, 0.05) == ", since the interval includes 0"
    assert not since_interval(0.04, -2, -1, 0.05)  # significantly worse
    assert not since_interval(0.06, -1, 2, 0.05)
    assert not since_interval(0.04, NAN, NAN, 0.05)
    assert since_interval(0.05, -1, 2, 0.05, or_equal=True)


def test_p_values_as_text() -> None:
    values = (0.00099, 0.001, 0.0321, 1.0, NAN)
    assert [p_value(p) for p in values] == ["< 0.001", "0.001", "0.032", "1", "-"]
    assert [p_text(p) for p in values[:3]] == ["p < 0.001", "p = 0.001", "p = 0.032"]


def test_a_p_value_without_interval_names_its_test() -> None:
    assert exact_test(NAN) == " (sign-flip test)"
    assert exact_test(NAN, paired=False) == " (permutation test)" and not exact_test(0.1)


def test_in_every_repeat() -> None:
    row = pd.Series({"wins": 4.0, "losses": 0.0, "n": 4.0})
    assert in_every_repeat(row) == "; it was better in all 4 repeats"
    assert in_every_repeat(pd.Series({"wins": 0, "losses": 4, "n": 4})).startswith(
        "; it was behind"
    )
    assert not in_every_repeat(pd.Series({"wins": 3, "losses": 1, "n": 4}))
    assert not in_every_repeat(pd.Series({"wins": NAN, "losses": NAN, "n": 4}))  # unpaired
