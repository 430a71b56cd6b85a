"""Flags of the commands that read a study."""

import dataclasses

import pytest

from kdtune.config.errors import InputError
from kdtune.config.reading import Reading, Reporting, docs, read


def test_defaults() -> None:
    assert read("analysis", ["runs/x"]) == Reading("runs/x")
    assert read("report", ["runs/x"]) == Reporting("runs/x")


def test_values() -> None:
    words = "runs/x --by alpha lr --columns acc ce --metric ce --scope best --baseline alpha=0.5"
    flags = read("analysis", [*words.split(), "--format", "csv", "--pooled", "--strict"])
    assert flags == Reading(
        *("runs/x", ("alpha", "lr"), ("acc", "ce"), "ce", "best", "alpha=0.5", "csv", True, True)
    )
    assert read("report", ["--out", "page", "runs/x"]) == Reporting("runs/x", "page")


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("analysis", ["runs/x", "--formt", "csv"], "did you mean --format?"),
        ("report", ["runs/x", "--out", "x", "--zzz"], "there is no --zzz here; see python -m"),
        ("analysis", [], "required: run"),
        ("analysis", ["runs/x", "--scope", "first"], "first"),
        ("analysis", ["runs/x", "--by"], "at least one"),
        ("report", ["runs/x", "--format", "csv"], "there is no --format here"),
    ],
)
def test_words_that_cannot_be(command: str, words: list, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(command, words)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("command", "kind"), [("analysis", Reading), ("report", Reporting)])
def test_help_is_the_docstrings(command: str, kind: type, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        read(command, ["--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    texts = docs(kind)
    assert set(texts) == {f.name for f in dataclasses.fields(kind)}
    for text in texts.values():
        assert " ".join(text.split()) in said.replace("- ", "-")


def test_a_flag_is_not_guessed_from_its_beginning() -> None:
    with pytest.raises(InputError, match="there is no --scop here; did you mean --scope"):
        read("analysis", ["runs/x", "--scop", "best"])
