"""Command lines: what `parse` returns for flags, experiments and defaults; what a user sees.

References: the flags that users were promised, the order of precedence (flags over the experiment,
the experiment over the defaults) and the fields' docstrings.
"""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import kdtune
from kdtune.config.cli import _format_warning, parse, run_and_exit
from kdtune.config.defaults import fashion
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import Diverged, InputError, LeaseLostError, NodeMismatchError

EXPERIMENT = """
from kdtune import Run, Study
study = Study(
    name="bees",
    run=Run(data="/data/bees", lr=0.3, epochs=7, student="timm/resnet10t"),
    space={"alpha": (0.2, 1.0), "weight_decay": (0.0, 0.1)},
    repeats=3,
)
"""


@pytest.fixture
def experiment(tmp_path: Path) -> str:
    file = tmp_path / "bees.py"
    file.write_text(EXPERIMENT)
    return str(file)


def command(module: str, *arguments: str, python: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Exit code, output without its frames and line breaks, standard error."""
    line = [sys.executable, *python, "-m", f"kdtune.{module}", *arguments]
    environment = os.environ | {"COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, env=environment)
    return done.returncode, " ".join(re.sub("[│╭╮╰╯─]", " ", done.stdout).split()), done.stderr


@pytest.fixture(scope="module")
def search_help() -> str:
    code, out, _ = command("search", "--help")
    assert code == 0
    return out


# -- what parse makes of it ------------------------------------------------------------------------


def test_default_is_the_fashion_study() -> None:
    study = parse("search", [])
    assert study == fashion()
    assert study.space == {"alpha": (0.1, 0.5, 1.0), "temperature": (1.0, 4.0)}
    assert (study.run.train_images, study.repeats, len(study.runs())) == (300, 8, 5)


def test_several_values_are_searched() -> None:
    study = parse("search", ["--alpha", "0", "1", "--lr", "0.1", "1", "--loss", "mse", "kl"])
    space = {"alpha": (0, 1), "temperature": (1, 4), "lr": (0.1, 1), "loss": ("mse", "kl")}
    assert study.space == space
    assert study.run == fashion().run


def test_one_value_is_not_searched() -> None:
    study = parse("search", ["--alpha=0.3"])
    assert study.space == {"temperature": (1.0, 4.0)}
    assert study.run == replace(fashion().run, alpha=0.3)
    assert [run.alpha for run in study.runs()] == [0.3, 1, 0.3]


def test_ranges() -> None:
    study = parse(
        "search",
        ["--lr", "1e-4..1e-1:log", "--epochs", "5..20", "--alpha", "0..1", "--search", "tpe"],
    )
    assert study.space["lr"] == Range(1e-4, 0.1, log=True)
    assert study.space["epochs"] == Range(5, 20) and isinstance(study.space["epochs"].low, int)
    assert study.space["temperature"] == (1, 4) and study.search == "tpe"
    assert study.run == fashion().run
    odds = parse("search", ["--alpha", "0.001..0.999:logit", "--search", "random"])
    assert odds.space["alpha"] == Range(0.001, 0.999, logit=True)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--lr 1..0", "LOW < HIGH, but got 1..0"),
        ("--lr 0..1:log", "begin above 0, but got 0..1:log"),
        ("--alpha 0..1:logit --search tpe", "0 and 1, both excluded, but got 0..1:logit"),
        ("--epochs 5..9:logit --search tpe", "0 and 1, both excluded, but got 5..9:logit"),
        ("--lr 0.1 1..2", "lr must be a list or one range, but got 0.1 1..2"),
        ("--lr 0.1..1", "lr must be a list for a grid, but got 0.1..1; --search random or tpe"),
        ("--alpha 0..2 --search tpe", r"alpha must lie in \[0, 1\], but got alpha=2"),
        ("--repeats auto", "repeats auto must have a limit"),
        ("--budget 3h", "budget is for --repeats auto only, but got budget=3h"),
    ],
)
def test_bad_ranges(flags: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse("search", flags.split())


def test_repeats_auto() -> None:
    study = parse("search", ["--repeats", "auto", "--budget", "400runs"])
    assert (study.repeats, study.until_decided, study.budget) == (8, True, "400runs")
    assert not parse("search", ["--repeats", "3"]).until_decided


def test_repeats_win_over_an_experiment_that_has_them_auto(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import kdtune\nstudy = kdtune.Study(until_decided=True, budget='400runs')")
    assert parse("search", [str(file)]).until_decided
    study = parse("search", [str(file), "--repeats", "8"])
    assert (study.repeats, study.until_decided, study.budget) == (8, False, None)


def test_experiment_wins_over_defaults(experiment: str) -> None:
    study = parse("search", [experiment])
    run = Run(data="/data/bees", lr=0.3, epochs=7, student="timm/resnet10t")
    space = {"alpha": (0.2, 1.0), "weight_decay": (0.0, 0.1)}
    assert study == Study(name="bees", run=run, space=space, repeats=3)


def test_flags_win_over_experiment(experiment: str) -> None:
    flags = ["--lr", "0.5", "--alpha", "0.4", "--weight-decay", "0.2", "0.3", "--repeats", "5"]
    study = parse("search", [experiment, *flags, "--seed", "9", "--gpus", "0"])
    assert (study.run.lr, study.run.alpha, study.repeats, study.run.seed) == (0.5, 0.4, 5, 9)
    assert study.gpus == 0
    assert study.space == {"weight_decay": (0.2, 0.3)}
    assert (study.run.epochs, study.run.student) == (7, "timm/resnet10t")
    assert study.name == "bees"


def test_an_experiment_keeps_its_name_on_other_data(experiment: str) -> None:
    study = parse("search", [experiment, "--data", "/data/ants"])
    assert (study.name, study.run.data, study.run.epochs) == ("bees", "/data/ants", 7)
    named = parse("search", [experiment, "--data", "/data/ants", "--name", "mine"])
    assert named.name == "mine"
    assert parse("search", [experiment, "--data", "/data/bees"]).name == "bees"


@pytest.mark.parametrize("flags", [["--data", "/data/ants"], ["--data=/data/ants"]])
def test_data_without_experiment_starts_from_the_defaults(flags: list[str]) -> None:
    study = parse("search", [*flags, "--alpha", "0.5", "1"])
    assert study == Study(run=Run(data="/data/ants"), space={"alpha": (0.5, 1)})
    assert (study.name, study.run.train_images, study.run.student) == ("ants", None, "resnet18")


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = parse("search", ["--data", "photos", "--teacher-weights", "t.safetensors"])
    assert study.run.data == str(tmp_path / "photos")
    assert study.run.teacher_weights == str(tmp_path / "t.safetensors")


def test_misspelt_experiment(tmp_path: Path, experiment: str) -> None:
    (tmp_path / "photos.py").touch()
    with pytest.raises(
        InputError, match=f"bess.py does not exist; did you mean {re.escape(experiment)}"
    ):
        parse("search", [str(tmp_path / "bess.py")])
    with pytest.raises(InputError, match=r"/nowhere/x\.py does not exist$"):
        parse("search", ["/nowhere/x.py"])
    with pytest.raises(InputError, match="must be a Python file"):
        parse("search", [str(tmp_path)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "import kdtune\nx = (",
            r"run: SyntaxError: '\(' was never closed \(.*faulty.py, line 2\)$",
        ),
        ("\nimport no_such_module", r"ModuleNotFoundError: No module named .*line 2\)$"),
        ("def f():\n    return 1 / 0\nf()", r"ZeroDivisionError: .* \(.*faulty.py, line 2\)$"),
        ("import kdtune\nkdtune.Study(nme='e')", r"TypeError: .*nme.* \(.*faulty.py, line 2\)$"),
        ("import kdtune\nkdtune.Study(space=['alpha'])", r"^space must be a dict"),
    ],
)
def test_a_fault_of_the_experiment_has_its_place(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "faulty.py"
    file.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        parse("search", [str(file)])
    assert "\n" not in str(caught.value)


def test_a_folder_whose_name_begins_with_fashion_is_not_the_embedded_set() -> None:
    study = parse("search", ["--data", "fashion x", "--name", "x"])
    assert (study.run.train_images, study.run.student) == (None, "resnet18")
    assert parse("search", ["--data=fashion"]).run.train_images == 300


@pytest.mark.parametrize(
    ("text", "got"), [("", "None"), ("study = {'lr': 1}", "{'lr': 1}"), ("Study = 1", "None")]
)
def test_experiment_without_study(tmp_path: Path, text: str, got: str) -> None:
    file = tmp_path / "empty.py"
    file.write_text(text)
    with pytest.raises(InputError, match=rf"empty\.py must define `study = .*but got {got}$"):
        parse("search", [str(file)])


def test_distill_takes_one_value_of_each() -> None:
    study = parse("distill", ["--alpha", "1", "--lr", "0.5", "--repeat", "3", "--epochs", "2"])
    run = study.run
    assert (run.alpha, run.lr, run.repeat, run.epochs) == (1, 0.5, 3, 2)
    assert run.student == fashion().run.student


@pytest.mark.parametrize(
    ("which", "flags", "named"),
    [
        ("distill", "--alpha 0.1 0.5", "0.5"),
        ("distill", "--repeats 2", "--repeats"),
        ("search", "--repeat 1", "--repeats"),
        ("search", "--alpha much", "--alpha"),
        ("search", "--seed 1 2", "2"),
        ("teacher", "--alpha 0.5", "--alpha"),
    ],
)
def test_flags_that_are_refused(which, flags: str, named: str, capsys) -> None:
    with pytest.raises(SystemExit) as exit:
        parse(which, flags.split())
    assert exit.value.code == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("which", ["search", "distill", "teacher"])
def test_flags_of_several_numbers_are_one_value(which) -> None:
    one = parse(which, ["--teacher-mean", "0.5", "--teacher-size", "64", "--eval-crop", "0.9"])
    assert (one.run.teacher_mean, one.run.teacher_size, one.run.eval_crop) == ((0.5,), 64, 0.9)
    words = ["--teacher-mean", "0.1", "0.2", "0.3", "--teacher-std", "0.4", "0.5", "0.6"]
    several = parse(which, [*words, "--teacher-interpolation", "bicubic"])
    assert several.run.teacher_mean == (0.1, 0.2, 0.3) and several.run.teacher_std == (
        0.4,
        0.5,
        0.6,
    )
    assert several.space == one.space  # nothing more is searched
    with pytest.raises(InputError, match=r"teacher_std must lie in \[0.000001, 1\], .*58.4"):
        parse(which, ["--teacher-std", "58.4", "57.1", "57.4"])


def test_help_says_bounds_and_effects(search_help: str) -> None:
    assert "Momentum. Must lie in [0, 1). Only used with optimizer sgd or nesterov." in search_help
    assert "Must lie in [0, 1000000]. Only used with loss " in search_help
    assert re.search(r"--loss \[\{kl,mse[a-z_,]*,module:function,A.B\}", search_help)


def test_temperatures_of_student_and_teacher() -> None:
    both = ["--temperature", "1", "4", "--teacher-temperature", "1", "4", "--alpha", "0.5"]
    runs = parse("search", both).runs()
    pairs = {(r.config["temperature"], r.config["teacher_temperature"]) for r in runs}
    assert pairs == {(1, None), (4, None), (1, 4), (4, 1), (None, None)}  # the last is alpha = 1
    drawn = parse("search", ["--teacher-temperature", "1..20:log", "--search", "random"])
    assert drawn.space["teacher_temperature"] == Range(1.0, 20.0, log=True)
    assert parse("search", ["--teacher-temperature", "2"]).run.teacher_temperature == 2
    assert parse("search", ["--teacher-temperature", "None"]).run.teacher_temperature is None
    assert parse("distill", ["--teacher-temperature", "2"]).run.teacher_temperature == 2
    with pytest.raises(InputError, match="searched among numbers, but got None"):
        parse("search", ["--teacher-temperature", "None", "2"])


# -- what a user sees ------------------------------------------------------------------------------


def test_help_explains_the_fields(search_help: str) -> None:
    assert "Weight of the cross-entropy with the labels; the distillation loss has" in search_help
    assert "GPUs per trial, a fraction of 1 or a whole number; 0.5 puts two" in search_help
    assert "(default: 0.1 0.5 1.0)" in search_help
    assert "[EXPERIMENT.py]" in search_help
    assert "--repeat " not in search_help


@pytest.mark.parametrize(
    "line",
    [
        *(("search", "--help"), ("search", "--temprature", "3"), ("distill", "--help")),
        *(("analysis", "--help"), ("report", "--formt", "x")),
    ],
)
def test_answers_before_torch_and_ray_load(line: tuple[str, ...]) -> None:
    _, _, err = command(*line, python=("-X", "importtime"))
    loaded = set(re.findall(r"^import time:.*\| +(\S+)$", err, re.MULTILINE))
    assert {"kdtune.config.study", "tyro"} <= loaded
    assert not {"torch", "ray", "pandas"} & loaded


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("alpha is wrong"), 2, "error: alpha is wrong\n"),
        (NodeMismatchError("node7 has no torch"), 2, "error: node7 has no torch\n"),
        (Diverged("loss became nan"), 1, "error: loss became nan\n"),
        (LeaseLostError("taken over"), 1, "error: taken over\n"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to resume\n"),
        (KeyboardInterrupt("no disk"), 130, "interrupted (no disk); run the same command "),
    ],
)
def test_exit_codes(error: BaseException, code: int, said: str, capsys) -> None:
    def main() -> int:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_and_exit(main, resumes=True)
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith(said)


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_and_exit(lambda: 1 // 0)
    with pytest.raises(SystemExit) as ended:
        run_and_exit(lambda: 3)
    assert ended.value.code == 3


def test_a_warning_of_kdtune_is_one_line_and_others_name_their_place() -> None:
    own = kdtune.__file__
    assert _format_warning("text", UserWarning, own, 3, None) == "warning: text\n"
    assert _format_warning("text", UserWarning, "lib.py", 3, "").startswith("lib.py:3: UserWarn")
