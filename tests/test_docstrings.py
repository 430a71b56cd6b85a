"""Docstrings of functions begin with a verb in the imperative, as PEP 257 asks."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kdtune

PACKAGE = Path(kdtune.__file__).parent
PARTS = sorted({file.relative_to(PACKAGE).parts[0] for file in PACKAGE.rglob("*.py")})
_WORDS = """
a about after again all also an and any another are as at be because before below beside between
both but by can each either eight every everything few for four from half here how if in into is
it its just last least less like many more most much must neither never next no nobody none nor
not nothing now of on once one only or other others out over same several should since so some
such than that the their them then there these they this those three to two under until up upon
was what whatever when where whether which whichever while who whole whose why will with within
without would
"""
NO_VERBS = set(_WORDS.split())


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Yield functions with a docstring, but not properties, which nouns describe."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or ast.get_docstring(node) is None:
            continue
        marks = {getattr(mark, "id", None) for mark in node.decorator_list}
        if not marks & {"property", "cached_property"}:
            yield node


def is_imperative(docstring: str) -> bool:
    """Return False if the first word is surely no imperative.

    That is a pronoun, an article, a numeral, a preposition, a name in backticks, a third person
    ("Returns") or a plural noun.
    """
    word = docstring.split()[0].rstrip(",:;.")
    third = word.endswith("s") and not word.endswith(("ss", "ias", "us"))
    return (
        word.replace("-", "").isalpha()
        and word[0].isupper()
        and word.lower() not in NO_VERBS
        and not third
    )


@pytest.mark.parametrize("part", PARTS)
def test_docstrings_begin_with_a_verb(part: str) -> None:
    place = PACKAGE / part
    found = []
    for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
        for function in functions(ast.parse(file.read_text())):
            text = str(ast.get_docstring(function))
            if not is_imperative(text):
                line = text.splitlines()[0]
                found.append(f"{file.relative_to(PACKAGE)}:{function.lineno}: {line}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("docstring", "holds"),
    [
        ("Return the best trial.", True),
        ("Yield (name, value) pairs.", True),
        ("Pass on what is there.", True),
        ("The best trial.", False),
        ("Whether it runs.", False),
        ("Returns the best trial.", False),
        ("Values of a list.", False),
        ("`name` of it.", False),
        ("(field, default) of each flag.", False),
        ("No more lines.", False),
    ],
)
def test_what_counts_as_imperative(docstring: str, holds: bool) -> None:
    assert is_imperative(docstring) is holds
