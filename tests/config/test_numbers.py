"""Short numbers: a law and cases worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdtune.config.text import short


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.00123456, 3, "0.00123"),
        (0.5, 3, "0.5"),
        (0.123456, 4, "0.1235"),
        (0.995, 4, "0.995"),
        (0.99876544, 3, "0.99877"),
        (0.999999877, 3, "0.999999877"),
        (1, 3, "1"),
        (0, 3, "0"),
        (12345.6, 3, "1.23e+04"),
        (-0.9987, 2, "-1"),
    ],
)
def test_short(value: float, digits: int, text: str) -> None:
    assert short(value, digits) == text


@given(st.floats(1e-12, 1 - 1e-12), st.integers(2, 6))
def test_value_and_distance_from_1_keep_their_digits(value: float, digits: int) -> None:
    """The relative rounding error of x and of 1 - x is at most half a unit of the last digit."""
    shown = float(short(value, digits))
    bound = 0.5 * 10.0 ** (1 - digits)
    assert abs(shown - value) <= 1.001 * bound * value
    if value > 0.99:
        assert abs(shown - value) <= 1.001 * bound * (1 - value) + 2e-16
