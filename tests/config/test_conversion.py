"""docs/conventions.md against the table.

The formulas: tests/training/test_conventions.py. What is printed and refused: tests/goldens.
"""

import re
from pathlib import Path

import pytest

import kdtune.convert
from kdtune.config.conventions import CONVENTIONS
from kdtune.convert import parse as parse_convert

DOCS = (Path(__file__).parents[2] / "docs" / "conventions.md").read_text(encoding="utf-8")


def printed(line: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that the command prints."""
    assert kdtune.convert.main(parse_convert(line.split())) == 0
    return capsys.readouterr().out.splitlines()


def test_the_documented_example_settings_and_tools(capsys: pytest.CaptureFixture[str]) -> None:
    line, shown = re.findall(r"^    \$ python -m kdtune.convert (.+)\n    (.+)$", DOCS, re.M)[0]
    assert printed(line, capsys)[0] == shown
    rows = re.findall(r"^\| [^|]+ \| `([^`]+)` \| `(--[^`]+)` \| (\S+) \|$", DOCS, re.M)
    for words, flags, scale in rows:
        first, _, sentence, *_ = printed(f"--from {words}", capsys)
        assert first == flags
        expected = "The losses are equal" if scale == "1" else f"is {scale} times this one"
        assert expected in sentence
    assert {words.split()[0] for words, *_ in rows} == set(CONVENTIONS) - {"kd_lib"}
    tools = re.findall(r"^\| `(\S+)` \| (.+) \| (.+) \| (.+) \|$", DOCS, re.M)
    assert tools[1:] == [(n, c.title, c.formula, c.signature) for n, c in CONVENTIONS.items()]
