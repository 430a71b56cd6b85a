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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("a\x9b31m\x7f\x00", r"a\x9b31m\x7f\x00"),
        ("cat\u202egnp.exe\u2066\u2069", r"cat\u202egnp.exe\u2066\u2069"),
        ("a\u200bb\u200d\ufeff\u00ad\u2060", r"a\u200bb\u200d\ufeff\xad\u2060"),
        ("one\ntwo\r\tthree\u2028\u2029\x85", r"one\ntwo\r\tthree\u2028\u2029\x85"),
        ("\udce9.png", r"\udce9.png"),
        ("\U000e0041\U000e007f", r"\U000e0041\U000e007f"),
    ],
)
def test_characters_that_act_on_their_surroundings_are_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected


@pytest.mark.parametrize("text", ["", "größer – 7 ×", "猫 قطة חתול", r"C:\new\x1b", "a\u00a0b 🐈"])
def test_other_characters_stay_as_they_are(text: str) -> None:
    assert printable(text) == text


def test_no_character_that_acts_on_its_surroundings_is_left() -> None:
    text = printable("".join(map(chr, range(0x110000))))
    assert not {c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
    text.encode()
