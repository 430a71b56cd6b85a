import unicodedata

import pytest

from kdtune.config.text import printable


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
