"""Texts of unknown origin, made safe to show."""

from unicodedata import category

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of controls, of formats (bidi and zero-width characters, the soft hyphen),
of lone surrogates (bytes of a file name that are not UTF-8), of line and paragraph separators."""


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


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
