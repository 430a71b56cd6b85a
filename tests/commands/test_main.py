"""`python -m kdtune` and the console script: exit codes, signals, odd surroundings, completion.

Reference: docs/commands.md. What is printed is frozen in tests/goldens. Also the commands of a
study, one after the other as a user runs them, in seconds.
"""

import csv
import importlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from factories import tiny_teacher
from own_data import clothes
from study_folders import edit_json, edit_records, write_small_study

import kdtune
import kdtune.analysis
import kdtune.distill
import kdtune.search
import kdtune.teacher
from kdtune.analysis import main as analysis
from kdtune.completion import completion_script, main
from kdtune.config.cli import parse, parse_command, run_and_exit
from kdtune.config.fields import OPTIMIZERS
from kdtune.config.study import Study
from kdtune.config.text import Diverged, InputError, first_line
from kdtune.deploy.card import code, escape, yaml_value
from kdtune.models.weights import save_weights
from kdtune.report import ReportFlags
from kdtune.report import main as report
from kdtune.results.formatting import csv_text

ROOT = Path(kdtune.__file__).parents[1]
HEAVY = {"torch", "ray", "pandas", "matplotlib", "scipy", "optuna"}
CONVERT = "-m kdtune.convert --from repdistiller gamma=1 alpha=1"
"""A command that imports little and prints a little."""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
SEARCH = (
    "-m kdtune.search --train-images 60 --epochs 1 --teacher-epochs 1 --gpus 0 --repeats 1 "
    "--alpha 0 1 --temperature 1 --teacher factories:tiny_teacher --student factories:tiny_student"
)


def shell(script: str, cwd: Path, **variables: str | None) -> subprocess.CompletedProcess[str]:
    """Run a script of bash, in which $PYTHON is this Python; None unsets a variable.

    It prints neither a traceback nor Python's own complaint about a stream.
    """
    changed = os.environ | variables | {"PYTHON": sys.executable}
    env = {name: value for name, value in changed.items() if value is not None}
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=cwd, env=env)
    printed = ran.stdout + ran.stderr
    assert "Traceback" not in printed and "Exception ignored" not in printed, printed
    return ran


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (InputError("alpha is wrong"), 2, "error: alpha is wrong\n"),
        (Diverged("loss became nan"), 1, "error: loss became nan\n"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to resume\n"),
        (KeyboardInterrupt("no disk"), 130, "interrupted (no disk); run the same command "),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_and_exit(fail, resumes=True)
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith(printed)


LINES = ("serach", "search --alpa 1", "analysis -h", "distill --data no", "predict no no.png")


@pytest.mark.parametrize("line", LINES)
def test_it_answers_without_heavy_modules(line: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "kdtune", *line.split()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    loaded = set(re.findall(r"^import time:.*\| +(\S+)$", ran.stderr, re.MULTILINE))
    assert "kdtune.config.cli" in loaded and not HEAVY & loaded
    assert ("tyro" in loaded) == (line != "serach")


def test_public_names_are_those_of_their_modules_and_load_neither_torch_nor_pandas() -> None:
    for name in kdtune.__all__:
        module = import_module(f"kdtune.{kdtune._MODULES[name]}")
        assert getattr(kdtune, name) is getattr(module, name)
    for take in (kdtune.load, kdtune.load_student, kdtune.run):
        for value in (None, 5):
            with pytest.raises(InputError, match=f"must be .*, but got {value}"):
                take(value)  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="module 'kdtune' has no attribute 'Stduy'"):
        kdtune.Stduy  # noqa: B018
    code = (
        "import kdtune, sys; assert 'run' in dir(kdtune); kdtune.Study(run=kdtune.Run());"
        "assert not {'torch', 'ray', 'pandas', 'tyro', 'optuna'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_console_script_finds_modules_in_the_current_folder(tmp_path: Path) -> None:
    """As `python -m` does: a model or an experiment may be a module there."""
    script = tmp_path / "bin" / "kdtune"
    script.parent.mkdir()
    script.write_text("import sys; from kdtune.__main__ import console; sys.exit(console())")
    (tmp_path / "my_models.py").write_text("lr = 7.0")
    (tmp_path / "bin" / "wave.py").write_text("raise SystemExit('beside the script')")
    text = "import wave, kdtune, my_models\nkdtune.Study(run=kdtune.Run(lr=-my_models.lr))"
    (tmp_path / "mine.py").write_text(text)
    ran = shell(f"$PYTHON {script} search mine.py", tmp_path, PYTHONPATH=str(ROOT))
    assert ran.returncode == 2 and "lr=-7.0" in ran.stderr, ran.stderr


WAITING = """
import sys, time, types
from kdtune.config.cli import start
def main(flags):
    print("begun", flush=True)
    while True:
        print("x" * 1000, flush=True) if {prints} else time.sleep(0.1)
sys.modules["kdtune.report"] = types.SimpleNamespace(main=main, parse=list)
start("report", ["runs/x"])
"""


@pytest.mark.parametrize(("code", "prints"), [(130, False), (-signal.SIGTERM, False), (141, True)])
def test_a_command_that_is_ended(code: int, prints: bool) -> None:
    """Of the command only `main` is replaced; the shell reports -15 as 143."""
    command, pipe = [sys.executable, "-c", WAITING.format(prints=prints)], subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None and process.stderr is not None
    ends: dict[int, Callable[[], None]] = {
        130: lambda: process.send_signal(signal.SIGINT),
        -signal.SIGTERM: process.terminate,
        141: process.stdout.close,
    }
    with process:
        process.stdout.readline()  # the process runs
        ends[code]()
        assert process.wait(30) == code
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    "variables",
    [
        {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "XDG_CACHE_HOME": "/etc/passwd"},
        {"TERM": None, "COLUMNS": "10", "PYTHONOPTIMIZE": "1", **ASCII},
    ],
    ids=["no-folder", "ascii"],
)
def test_a_command_works(variables: dict[str, str | None], tmp_path: Path) -> None:
    ran = shell(f"$PYTHON {CONVERT}", tmp_path, **variables)
    assert ran.returncode == 0 and "--loss kl --alpha 0.5 --temperature 4" in ran.stdout


def test_a_name_that_the_locale_cannot_read_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    ran = shell("$PYTHON -m kdtune.search --data ärzte", tmp_path, **ASCII)
    assert ran.returncode == 2
    assert "in a locale of another encoding, set PYTHONUTF8=1" in ran.stderr


@pytest.mark.slow
def test_a_study_works_with_256_files_and_without_a_home(tmp_path: Path) -> None:
    variables = {"HOME": "/nonexistent", "PYTHONOPTIMIZE": "1", **ASCII}
    study = shell(f"ulimit -n 256; $PYTHON {SEARCH} </dev/null", tmp_path, **variables)
    assert study.returncode == 0
    table = shell("$PYTHON -m kdtune.analysis runs/fashion", tmp_path, **variables)
    assert table.returncode == 0 and "| alpha |" in table.stdout


IN_BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
$(complete -p kdtune | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""Completes the last word, by the function that is registered for kdtune."""
OFFERED = {
    "se": "search",
    "search --optimizer ": " ".join(sorted(OPTIMIZERS)),
    "analysis --hi": "--higher-is-better",  # of tables
    "convert --fr": "--from",  # the field is from_
    "report runs/fash": "",  # left to bash's own completion of file names
}


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_by_the_script_that_tyro_writes(tmp_path: Path) -> None:
    (script := tmp_path / "kdtune").write_text(completion_script("bash"))
    for typed, offered in OFFERED.items():
        line = ["bash", "--norc", "-c", IN_BASH, "bash", str(script), "kdtune", *typed.split(" ")]
        done = subprocess.run(line, capture_output=True, text=True, timeout=240, check=True)
        assert (sorted(done.stdout.split()), done.stderr) == (offered.split(), ""), typed


def test_completion_of_other_shells(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(parse_command("completion", ["zsh"])) == 0
    assert capsys.readouterr().out.startswith("#compdef kdtune")
    assert completion_script("fish")


TEACHER = "--teacher-epochs 1 --gpus 0 --teacher factories:tiny_teacher --cache"
STUDENT = "--train-images 300 --epochs 2 --student factories:tiny_student"


def test_images_of_val_in_train_and_weights_for_other_classes_are_said(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = dict.fromkeys(("train", "val"), clothes()["train"])
    monkeypatch.setattr("own_data.shared", lambda: shared, raising=False)
    save_weights(tiny_teacher(7), file := here / "weights.safetensors")
    words = f"{TEACHER} {here / 'cache'} --data own_data:shared --teacher-weights {file}"
    assert kdtune.teacher.main(parse("teacher", words.split())) == 0
    words += " --student factories:tiny_student --student-weights none --epochs 1"
    assert kdtune.distill.main(parse("distill", words.split())) == 0
    text = capsys.readouterr().out
    assert text.count("warning: 200 of the 200 images in val are also in") == 2
    assert text.count(f"warning: the weights {file} of factories:tiny_teacher are for 7 class") == 2


@pytest.mark.usefixtures("in_this_process")
def test_teacher_then_distill_then_search_then_analysis(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kdtune.planning.proposals.export_for_optuna", lambda *_: None)  # is slow
    teacher = f"{TEACHER} {here / 'cache'}"
    student = f"{teacher} {STUDENT}"

    def printed(module: object, argument: object) -> str:
        assert module.main(argument) == 0  # type: ignore[attr-defined]
        return capsys.readouterr().out

    first = printed(kdtune.teacher, parse("teacher", teacher.split()))
    assert "epoch   0" in first and "teacher.safetensors" in first
    again = printed(kdtune.teacher, parse("teacher", teacher.split()))
    assert "the teacher is ready" in again

    text = printed(kdtune.distill, parse("distill", f"{student} --alpha 0.2".split()))
    assert text.count("epoch ") == 2 and "alpha 0.2" in text
    assert text.count("student") == 2 and "mixup" not in text  # "the student NAME"

    line = f"{student} --alpha 0.1 1 --repeats 3"
    text = " ".join(printed(kdtune.search, parse("search", line.split())).split())
    assert "epoch " not in text  # the teacher was there
    assert "difference in" in text or "Distillation" in text
    text = printed(kdtune.search, parse("search", f"{line} --check".split()))
    assert text.endswith("runs the study.\n")  # in no time: no run is left

    for line in ("", "--pooled --strict --by alpha --format json"):
        flags = parse_command("analysis", ["runs/fashion", *line.split()])
        assert "0.1" in printed(kdtune.analysis, flags)


def test_a_check_trains_the_teacher_and_first_steps_and_the_study_goes_on_from_there(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = f"{TEACHER} {here / 'cache'}".replace("epochs 1", "epochs 3")
    line = f"{teacher} --student factories:tiny_student --alpha 0.2 --temperature 2"

    def checked(words: str) -> tuple[int, str]:
        code = kdtune.search.main(parse("search", f"{words} --check".split()))
        return code, capsys.readouterr().out

    code, text = checked(line)
    *_, end, after = text.splitlines()
    assert code == 0 and end == "Check of runs/fashion: no finding."
    assert re.search(r"without --check .*: (less|about) .* for its runs, one at a time", after)
    assert "Recipe of runs/fashion:" in text and "Accuracy of the teacher" in text
    firsts = re.findall(r"First epoch of \S+ \((.*)\)", text)
    assert firsts == ["alpha 1, lr 0.02", "loss kl, alpha 0.2, temperature 2, lr 0.02"]
    assert [f.name for f in Path("runs/fashion").glob("**/*") if f.is_file()] == [
        f.name for f in Path("runs/fashion/teacher").glob("*.checkpoint.pt")
    ]
    # with its seconds, which are others if it is trained again; a later one may not be saved
    first = re.compile(r"^epoch   0 .*", re.M)
    epoch = first.findall(text)
    code, text = checked(f"{line} --lr 0.001 2")  # the largest lr; no other teacher is trained
    assert code == 1 and "lr 2) worse: its cross-entropy on train rises" in text
    assert first.findall(text) == epoch
    code, text = checked(f"{line} --teacher-lr 0.03")  # another teacher, which is not refused
    assert code == 0 and first.findall(text) != epoch
    with pytest.raises(InputError, match="so its head alone learns"):
        checked(f"{line} --trainable head")
    # the teacher of the first check: it is not trained again
    assert kdtune.teacher.main(parse("teacher", teacher.split())) == 0
    assert first.findall(capsys.readouterr().out) == epoch
    with pytest.raises(InputError, match="check must be left out"):
        kdtune.run(Study(check=True))


EVIL = "a\x1b]0;owned\x07\x9b2J\u202eb"
SHOWN = r"a\x1b]0;owned\x07\x9b2J\u202eb"


@pytest.mark.usefixtures("one_figure")
def test_reading_a_study_imports_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = write_small_study(tmp_path / "small").folder
    (tmp_path / "hostile.py").write_text("open('executed', 'w').close()\n")
    names = {n: f"hostile:{n}" for n in ("data", "student", "teacher", "loss")}

    def name_hostile(values: dict[str, Any]) -> None:
        values.update({name: names[name] for name in values.keys() & names})

    edit_json(study / "study.json", lambda saved: name_hostile(saved["run"]))
    edit_records(study, lambda line: "config" in line and name_hostile(line["config"]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    results = kdtune.load(study)
    assert results.text() and results._repr_html_()
    assert report(ReportFlags(runs=(str(study),))) == 0
    assert "hostile:student" in (study / "report.html").read_text("utf-8")
    assert not (tmp_path / "executed").exists()
    importlib.import_module("hostile")  # the control
    assert (tmp_path / "executed").exists()


def test_an_error_and_a_model_card_act_on_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise InputError(f"the class {EVIL} is unknown")

    with pytest.raises(SystemExit):
        run_and_exit(fail)
    assert capsys.readouterr().err == f"error: the class {SHOWN} is unknown\n"
    assert first_line(ValueError(f"{EVIL}\nmore")) == SHOWN
    text = escape(EVIL) + code(EVIL) + yaml_value({"name": EVIL})
    assert not set("\x1b\x07\x9b\u202e") & set(text)


@pytest.mark.parametrize("format", ["md", "csv", "json", "latex"])
def test_a_table_of_others_acts_on_no_terminal(
    tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"method": method, "seed": seed, f"note{EVIL}": EVIL, "acc": 0.5 + 0.1 * k + 0.01 * seed}
        for k, method in enumerate((EVIL, "=cmd|' /C calc'!A0"))
        for seed in range(3)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "results.csv", index=False)
    words = [str(tmp_path / "results.csv"), "--by", "method", "--repeat", "seed"]
    analysis(parse_command("analysis", [*words, "--metric", "acc", "--format", format]))
    out, err = capsys.readouterr()
    assert not set("\x1b\x07\x9b\u202e") & set(out + err)
    assert "owned" in out
    if format == "csv":
        cells = [cell for row in csv.reader(io.StringIO(out)) for cell in row]
        assert "'=cmd|' /C calc'!A0" in cells
        assert not [cell for cell in cells if cell.startswith(("=", "@"))]


def test_numbers_in_csv_stay_numbers() -> None:
    table = pd.DataFrame({"x": [-0.5, 1e-7], "text": ["-0.5", "+x"], "mixed": [None, -1]})
    read = pd.read_csv(io.StringIO(csv_text(table)))
    assert read.mixed[1] == -1 and pd.isna(read.mixed[0])
    assert read.x.tolist() == [-0.5, 1e-7] and read.text.tolist() == ["-0.5", "'+x"]
