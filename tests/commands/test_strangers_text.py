"""What a study, a table or a file name of a stranger does to who reads it: nothing.

No module that it names is imported, and no character of it acts on the terminal.
"""

import csv
import importlib
import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from study_folders import edit_json, edit_records, write_small_study

import kdtune
from kdtune.analysis import main as analysis
from kdtune.config.cli import parse_command, run_and_exit
from kdtune.config.text import InputError, first_line
from kdtune.deploy.card import code, escape, yaml_value
from kdtune.report import ReportFlags
from kdtune.report import main as report
from kdtune.results.formatting import csv_text

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
