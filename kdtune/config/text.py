"""Texts of unknown origin, made safe to show."""

import sys
from unicodedata import category

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of controls, of formats (bidi and zero-width characters, the soft hyphen),
of lone surrogates (bytes of a file name that are not UTF-8), of line and paragraph separators."""

JOINERS = "\u200c\u200d"
"""Formats without which Persian, Indian languages and some emoji cannot be written."""
MAX_SHOWN = 200
"""Letters or digits of a value that an error shows."""


def printable(text: str) -> str:
    r"""Return the text with every character that acts on what surrounds it as its escape.

    A terminal obeys control characters, a reader is misled by characters that turn the direction
    of writing or take no room, and a lone surrogate cannot be encoded. They become Python's
    escapes; all other characters, a backslash included, stay as they are. The result is one line.

    >>> print(printable("a\x1b[2Jb\u202ec\n"), printable("7 × größer"))
    a\x1b[2Jb\u202ec\n 7 × größer
    """
    if text.isprintable():
        return text
    return "".join(_escape(c) if category(c) in HIDDEN else c for c in text)


def printable_lines(text: str) -> str:
    """Return the text with each of its lines as `printable` returns it."""
    return "\n".join(map(printable, text.split("\n")))


def in_spreadsheet(text: str) -> str:
    """Return a text for a cell of a csv file, which a spreadsheet must not take for a formula.

    Spreadsheets evaluate texts that begin with = + - or @. They get an apostrophe in front, unless
    they are numbers.

    >>> [in_spreadsheet(text) for text in ("=1+1", "-0.5", "-x", "alpha 0.5", "-")]
    ["'=1+1", '-0.5', "'-x", 'alpha 0.5', '-']
    """
    if not text.startswith(("=", "+", "-", "@")) or len(text) == 1:
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def has_hidden(text: str) -> bool:
    """Return True if the text has characters of `HIDDEN`, but for joiners.

    They could forge what a terminal, a page or a file name shows.
    """
    return bool(hidden_characters(text))


def hidden_characters(text: str, formats: bool = True) -> list[str]:
    """Return the characters of `HIDDEN` in a text, but for joiners.

    Args:
        text: Any text.
        formats: Whether those of formats are among them. They are harmless where the text is only
            shown by `printable`, such as the marks that Windows puts into dates in file names.
    """
    if text.isprintable():
        return []
    kinds = HIDDEN if formats else HIDDEN - {"Cf"}
    return [c for c in text if category(c) in kinds and c not in JOINERS]


def locale_hint(text: str) -> str:
    """Return what to do if text of a command line is only wrong because of the locale, else ""."""
    encoding = sys.getfilesystemencoding()
    if encoding == "utf-8" or not any(category(c) == "Cs" for c in text):
        return ""
    return f" (the locale has the encoding {encoding}; set PYTHONUTF8=1)"


def shown(value: object) -> str:
    """Return a value as an error shows it: `repr`, but not too long."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write whole numbers of some thousand digits
        return "a number of thousands of digits"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def repr_or_type(value: object, most: int) -> str:
    """Return the `repr` of a value, or, if that has more than `most` letters, "a TYPE"."""
    text = repr(value)
    return text if len(text) <= most else f"a {type(value).__name__}"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
