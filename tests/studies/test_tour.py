"""The notebook experiments/tour.ipynb runs from top to bottom in a kernel."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import kdtune

TOUR = Path(__file__).parents[2] / "experiments" / "tour.ipynb"


def read() -> Any:
    return nbformat.read(TOUR, as_version=4)


def whole_text(outputs: list[Any]) -> str:
    """Return all text of some outputs, as plain text where there is some."""
    return "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)


def test_a_notebook_shows_one_sentence_for_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_cell("import kdtune\nlr = 0.1\nrun = kdtune.Run(lr=lr,\n  alpha=2)")
    sentence = "InputError: alpha must lie in [0, 1], but got alpha=2"
    assert capsys.readouterr().out == f"----> run = kdtune.Run(lr=lr,\n{sentence}\n"
    shell.run_cell("1 / 0")  # a bug of the user's own has its traceback
    assert "Traceback" in capsys.readouterr().out


def test_the_committed_comparison_is_that_of_this_version(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The one cell whose numbers no training makes; no path of a machine is shown."""
    assert not re.search(r"/(home|root|tmp|work|usr|Users)/", TOUR.read_text())
    (cell,) = (c for c in read().cells if "kdtune.compare(own" in c.source)
    exec(f"import pandas as pd, kdtune\n{cell.source}", {})
    assert capsys.readouterr().out == whole_text(cell.outputs)


@pytest.mark.slow
def test_the_notebook_runs_its_study(tmp_path: Path) -> None:
    tour = read()
    for cell in tour.cells:
        cell.pop("outputs", None) and cell.update(outputs=[])
    NotebookClient(tour, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = {cell.source: cell.outputs for cell in tour.cells if cell.cell_type == "code"}
    results = kdtune.load(tmp_path / "runs" / "tour")
    assert results.status == "complete: 12 runs"
    ran = outputs["results = kdtune.run(study)"]
    assert len(ran) <= 8 and not [o for o in ran if o.get("name") == "stderr"]
    text = whole_text(ran)
    assert text.startswith("Recipe of runs/tour:")  # Ray has not cleared what came first
    assert "12 of 12 runs ended: 12 completed" in text and "\x1b" not in text
    assert text.count("val acc") == 1  # the head of the table, and no line of a run
    assert results.verdict() in outputs["results"][0].data["text/html"]
    assert "<img " in outputs["results.plot.curves()"][0].data["text/html"]
