"""Lists, ranges and what they cover: hand-worked cases and a law."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdtune.config.task import Range, covers, including
from kdtune.config.text import InputError


def test_a_range_is_read() -> None:
    assert Range.parse("1e-4..1e-1:log", float) == Range(1e-4, 0.1, log=True)
    assert Range.parse("0.001..0.999:logit", float) == Range(0.001, 0.999, logit=True)
    assert Range.parse("-1..2", float) == Range(-1, 2)
    whole = Range.parse("5..20", int)
    assert whole == Range(5, 20) and isinstance(whole.high, int)


@pytest.mark.parametrize("text", ["5", "1..", "..2", "1..2:ln", "1..2..3", "1...2", "1:2", "a..b"])
def test_text_that_is_no_range(text: str) -> None:
    forms = r"must be LOW\.\.HIGH, LOW\.\.HIGH:log or LOW\.\.HIGH:logit of numbers"
    with pytest.raises(InputError, match=forms):
        Range.parse(text, float)
    with pytest.raises(InputError, match="whole numbers, but got 1"):
        Range.parse("1.5..3", int)


@pytest.mark.parametrize("ends", [(1, 1), (2, 1), (0, float("inf")), (float("nan"), 1)])
def test_ends_that_are_none(ends: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="LOW < HIGH"):
        Range(*ends)


@pytest.mark.parametrize("ends", [(0, 0.5), (0.5, 1), (-1, 0.5), (2, 3), (0, 1)])
def test_log_odds_exist_between_0_and_1_only(ends: tuple[float, float]) -> None:
    shown = f"{ends[0]:g}..{ends[1]:g}:logit; 0.001..0.999:logit would do"
    with pytest.raises(InputError, match=f"between 0 and 1, both excluded, but got {shown}"):
        Range(*ends, logit=True)


def test_a_range_has_one_scale() -> None:
    with pytest.raises(InputError, match="must have one scale, log or logit, but got"):
        Range(0.1, 0.9, log=True, logit=True)
    assert [Range(0.1, 0.9, **own).scale for own in ({}, {"log": True}, {"logit": True})] == [
        *("", "log", "logit")
    ]


def test_a_value_off_the_scale_takes_the_scale_away() -> None:
    odds = Range(0.01, 0.9, logit=True)
    assert including(odds, 0.99) == Range(0.01, 0.99, logit=True)
    assert including(odds, 1.0) == Range(0.01, 1.0) and including(odds, 0.0) == Range(0.0, 0.9)
    assert including(Range(0.1, 1, log=True), 0) == Range(0, 1)


@given(st.floats(5e-324, 0.5), st.floats(0.51, 1, exclude_max=True))
def test_a_printed_range_of_log_odds_is_read_again(low: float, high: float) -> None:
    odds = Range(low, high, logit=True)
    assert str(odds).endswith(":logit") and Range.parse(str(odds), float) == odds


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
        (Range(0, 1), Range(0.1, 0.9, logit=True), True),
        (Range(0.1, 0.9, logit=True), (0.5, 1.0), False),
        (Range(0, 1), ("kl",), False),
    ],
)
def test_covers(wide, narrow, holds: bool) -> None:  # type: ignore[no-untyped-def]
    assert covers(wide, narrow) is holds
