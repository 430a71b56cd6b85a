"""Lists, ranges and what they cover: hand-worked cases and a law."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdtune.config.errors import InputError
from kdtune.config.hyperparameters import Range, covers


def test_a_range_is_read() -> None:
    assert Range.parse("1e-4..1e-1:log", float) == Range(1e-4, 0.1, log=True)
    assert Range.parse("-1..2", float) == Range(-1, 2)
    whole = Range.parse("5..20", int)
    assert whole == Range(5, 20) and isinstance(whole.high, int)


@pytest.mark.parametrize("text", ["5", "1..", "..2", "1..2:ln", "1..2..3", "1...2", "1:2", "a..b"])
def test_text_that_is_no_range(text: str) -> None:
    with pytest.raises(InputError, match=r"must be LOW\.\.HIGH or LOW\.\.HIGH:log of numbers"):
        Range.parse(text, float)
    with pytest.raises(InputError, match="whole numbers, but got 1"):
        Range.parse("1.5..3", int)


@pytest.mark.parametrize("ends", [(1, 1), (2, 1), (0, float("inf")), (float("nan"), 1)])
def test_ends_that_are_none(ends: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="LOW < HIGH"):
        Range(*ends)


@given(st.floats(1e-9, 1), st.floats(1.1, 1e9), st.booleans())
def test_what_is_printed_is_read_again(low: float, high: float, log: bool) -> None:
    assert Range.parse(str(Range(low, high, log)), float) == Range(low, high, log)


@pytest.mark.parametrize(
    ("wide", "narrow", "holds"),
    [
        ((1, 2, 3), (3, 1), True),
        ((1, 2), (3,), False),
        ((1, 2), Range(1, 2), False),
        (Range(1, 4), (1, 4, 2), True),
        (Range(1, 4), (0.9,), False),
        (Range(1, 4), Range(1, 4, log=True), True),
        (Range(1, 4), Range(2, 5), False),
        (Range(0, 1), ("kl",), False),
    ],
)
def test_covers(wide, narrow, holds: bool) -> None:  # type: ignore[no-untyped-def]
    assert covers(wide, narrow) is holds
