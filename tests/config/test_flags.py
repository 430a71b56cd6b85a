"""Flags of the commands that read a study, and the help that follows from annotations."""

import re

import pytest

from kdtune.analysis import AnalysisFlags
from kdtune.config.cli import parse, parse_command
from kdtune.config.text import InputError
from kdtune.report import ReportFlags
from kdtune.results.results import parse_baseline


def test_values() -> None:
    words = "runs/x --by alpha lr --columns acc ce --metric ce --scope best --baseline alpha=0.5"
    arguments = [*words.split(), "--format", "csv", "--pooled", "--strict"]
    assert parse_command("analysis", arguments) == AnalysisFlags(
        runs=("runs/x",),
        metric="ce",
        scope="best",
        baseline="alpha=0.5",
        by=("alpha", "lr"),
        columns=("acc", "ce"),
        format="csv",
        pooled=True,
        strict=True,
    )
    assert parse_command("report", ["--out", "page", "runs/x"]) == ReportFlags(
        ("runs/x",), out="page"
    )


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("analysis", ["runs/x", "--formt", "csv"], r"Unrecognized .*--formt.*meant.*--format \{"),
        ("report", ["runs/x", "--out", "x", "--zzz"], "Unrecognized .*--zzz"),
        ("analysis", ["runs/x", "--scope", "first"], "first.*--scope.*last-5-avg"),
        ("report", ["runs/x", "--format", "csv"], "Unrecognized .*--format"),
    ],
)
def test_flags_that_are_refused(command: str, words: list, message: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_command(command, words)
    assert ended.value.code == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_several_studies() -> None:
    assert parse_command("report", ["a", "b", "--out", "x.html"]).runs == ("a", "b")
    dropped = parse_command("analysis", ["a", "--drop", "x-r00", "y-r01", "--reason", "a fault"])
    assert (dropped.runs, dropped.drop, dropped.reason) == (("a",), ("x-r00", "y-r01"), "a fault")
    with pytest.raises(InputError, match="RUN must be given"):
        parse_command("analysis", [])


@pytest.mark.parametrize("words", [["--by"], ["--columns", "--pooled"]])
def test_a_flag_for_several_values_needs_one(words: list[str]) -> None:
    with pytest.raises(InputError, match="must have at least one value") as caught:
        parse_command("analysis", ["runs/x", *words])
    assert "\n" not in str(caught.value) and words[0] in str(caught.value)


def test_a_flag_is_not_guessed_from_its_beginning(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_command("analysis", ["runs/x", "--scop", "best"])
    assert ended.value.code == 2
    assert "--scope" in capsys.readouterr().err.split("Perhaps you meant")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--alpha 0 --alpha 1", "a flag must be given once, but got --alpha twice; "),
        ("--lr=0.1 --lr 0.2", "a flag must be given once, but got --lr twice"),
        ("--batch-size 2 --batch_size 3", "a flag must be given once, but got --batch-size twice"),
        ("--stop-early --no-stop-early", "but got --stop-early twice; leave out one"),
        ("--alpha 0.5 1 0.5", "alpha must list each value once, but got 0.5 twice"),
        ("--loss kl kl", "loss must list each value once, but got kl twice"),
        ("--alpha 0..1 0.5", "alpha must be a list or one range, but got 0..1 0.5"),
        ("--lr 0.1..1e400 --search random", "a range must be LOW..HIGH with LOW < HIGH"),
    ],
)
def test_words_that_contradict_each_other(words: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse("search", words.split())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("analysis", ["runs/x", "--metric", "acc", "--metric", "ce"]),
        ("report", ["runs/x", "--out", "a", "--out", "b"]),
        ("predict", ["runs/x", "a.png", "--top", "1", "--top", "2"]),
        ("export", ["runs/x", "--repeat", "0", "--repeat", "1"]),
        ("convert", ["--from", "keras", "--from", "timm"]),
    ],
)
def test_a_flag_counts_once_in_every_command(command: str, words: list[str]) -> None:
    with pytest.raises(InputError, match=r"^a flag must be given once, but got --"):
        parse_command(command, words)


def test_a_list_of_an_experiment_may_have_a_value_twice(tmp_path) -> None:
    """It is one configuration; a study that was begun so goes on."""
    file = tmp_path / "e.py"
    file.write_text("import kdtune\nstudy = kdtune.Study(space={'alpha': (0.5, 0.5, 1.0)})\n")
    study = parse("search", [str(file), "--repeats", "2"])
    assert len(study.runs()) == 2 and study.values("alpha") == (0.5, 0.5, 1.0)


def test_a_baseline_is_one_configuration() -> None:
    with pytest.raises(InputError, match=r"^--baseline must give each .* but got alpha twice in"):
        parse_baseline("alpha=1,alpha=0.5", ["alpha"])
    assert parse_baseline("alpha=1,lr=0.5", ["alpha", "lr"]) == {"alpha": 1, "lr": 0.5}
