"""Text that is safe to show, and short numbers: cases worked by hand and laws."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdtune.config.text import printable, short


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.00123456, 3, "0.00123"),
        (0.995, 4, "0.995"),
        (0.99876544, 3, "0.99877"),
        (0.999999877, 3, "0.999999877"),
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


def test_characters_that_act_on_their_surroundings_are_escaped() -> None:
    text = "\x1b]0;owned\x07 \x9b31m cat\u202egnp.exe one\ntwo\u2028 \udce9.png \U000e0041"
    shown = r"\x1b]0;owned\x07 \x9b31m cat\u202egnp.exe one\ntwo\u2028 \udce9.png \U000e0041"
    assert printable(text) == shown
    for harmless in ("", "größer – 7 ×", "猫 قطة חתול", r"C:\new\x1b", "a\u00a0b 🐈"):
        assert printable(harmless) == harmless
    everything = printable("".join(map(chr, range(0x110000))))
    categories = set(map(unicodedata.category, everything))
    assert not categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    everything.encode()
