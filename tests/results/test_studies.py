"""The list of a folder's studies."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from study_folders import RUN, draw, edit_records, make

from kdtune.analysis import AnalysisFlags, main
from kdtune.results.results import is_folder_of_studies, list_studies


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three studies that can be read and two that cannot."""
    runs = tmp_path_factory.mktemp("runs")
    for day, (name, gain) in enumerate([("second", 0.05), ("third", 0.012), ("first", -0.05)]):
        folder = runs / name
        make(folder, draw({0.5: gain, 1.0: 0.0}, 8), name="made")
        time = 1_700_000_000 + 86_400 * {"first": 0, "second": 1, "third": 2}[name] + day
        edit_records(folder, lambda line, time=time: line.update(time=time))
    (runs / "cut").mkdir()
    (runs / "cut" / "study.json").write_text("{")
    make(runs / "strange", draw({0.5: 0.0, 1.0: 0.0}, 2))
    edit_records(runs / "strange", lambda line: line.pop("epochs", None))
    (runs / "notes").mkdir()
    return runs


def test_the_latest_comes_first_and_a_damaged_study_is_a_row(runs: Path) -> None:
    table = list_studies(runs).set_index("name")
    assert list(table.index) == ["third", "second", "first", "cut", "strange"]
    assert table.state["cut"].startswith("damaged: study.json is not a study")
    assert table.state["strange"].endswith("0 of 4 runs completed, 4 damaged records")
    assert table.state["first"] == "complete: 16 runs" and table.data["first"] == "fashion"
    assert table.last_record["second"] == "2023-11-15 22:13:20"
    assert table.verdict["second"].startswith("better: +")
    assert table.verdict["first"].startswith("worse: -")
    assert table.verdict["third"].startswith("not significant: ")
    assert table.best["first"] == "alpha = 1" and table.n["first"] == 8
    want = draw({0.5: 0.05, 1.0: 0.0}, 8)[0.5]
    assert table["mean"]["second"] == pytest.approx(pd.Series(want).mean())
    assert table["std"]["second"] == pytest.approx(pd.Series(want).std())


def test_the_command_lists_a_folder(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(AnalysisFlags((str(runs),))) == 0
    printed = capsys.readouterr()
    rows = printed.out.splitlines()
    assert len(rows) == 2 + 5 and " complete: 16 runs | fashion | " in rows[2]
    assert "warning: cut cannot be read" in printed.err
    assert main(AnalysisFlags((str(runs),), strict=True)) == 3
    capsys.readouterr()
    main(AnalysisFlags((str(runs),), format="csv"))
    frame = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert frame["mean"].tolist() == pytest.approx(list_studies(runs)["mean"].tolist(), nan_ok=True)
    main(AnalysisFlags((str(runs),), format="json"))
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list(frame["name"])


def test_what_is_a_folder_of_studies(runs: Path) -> None:
    assert is_folder_of_studies(str(runs))
    for place in (runs / "first", runs / "notes", runs / "none", "s3://bucket/runs"):
        assert not is_folder_of_studies(str(place))


def test_the_conclusion_is_on_the_student_of_the_best_configuration(tmp_path: Path) -> None:
    both = (("resnet18", 0.6, 0.2), ("resnet34", 0.8, 0.01))
    made = make(
        tmp_path / "two",
        {
            replace(RUN, student=student, alpha=alpha): [base + gain + r / 1000 for r in range(4)]
            for student, base, gained in both
            for alpha, gain in ((0.5, gained), (1.0, 0.0))
        },
    )
    assert len(made.compared_students()) == 2
    (row,) = list_studies(tmp_path).to_dict("records")
    assert "resnet34" in row["best"] and row["verdict"].startswith("not significant: +1.0")
