"""experiments/: settings are the published ones, and the notebook runs from top to bottom."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import check
import gallery
import nbformat
import pytest
import torch
import torch.nn.functional as F
import where_time_goes
from nbclient import NotebookClient

import kdtune
from kdtune.config.cli import parse
from kdtune.training.loop import milestones
from kdtune.training.losses import objective, total
from kdtune.training.recipe import resolve
from kdtune.training.teachers import fine_tuning_run

FOLDER = Path(__file__).parents[2] / "experiments"


@pytest.mark.parametrize("name", ["hymenoptera.py", "hymenoptera_lite.py"])
def test_settings_are_those_of_the_published_study(name: str) -> None:
    study = parse("search", [str(FOLDER / name), "--data", "photos"])
    run = study.run
    published = [r for r in study.runs() if r.loss == "mse" and r.lr == 1e-3]
    assert {0, 0.5, 1} <= {r.alpha for r in published} and study.repeats >= 4
    assert (run.epochs, run.batch_size, run.loss) == (25, 32, "mse")
    assert (run.optimizer, run.lr, run.momentum) == ("sgd", 1e-3, 0.9)
    assert (run.schedule, run.lr_step_size, run.lr_gamma) == ("step", 7, 0.1)
    assert (run.trainable, run.batch_norm) == ("head", "train")
    if name == "hymenoptera.py":  # the other study's teacher has a recipe of its own
        assert (run.teacher_epochs, run.teacher_trainable) == (25, "all")
    assert run.augmentation == "resized-crop"
    assert study.name == name.removesuffix(".py").replace("_", "-")


def test_the_recipe_of_the_cifar_tables() -> None:
    """RepDistiller, commit b84f547: train_teacher.py, and train_student.py -r 0.1 -a 0.9."""
    study = parse("search", [str(FOLDER / "cifar_recipe.py")])
    for own in (study.run, fine_tuning_run(resolve(replace(study.run, data="fashion")))):
        assert (own.optimizer, own.lr, own.momentum, own.weight_decay) == ("sgd", 0.05, 0.9, 5e-4)
        assert (own.schedule, milestones(own), own.lr_gamma) == ("multistep", [150, 180, 210], 0.1)
        assert (own.epochs, own.batch_size, own.augmentation) == (240, 64, "crop")
        assert (own.warmup_epochs, own.clip_norm, own.ema, own.label_smoothing) == (0, 0, 0, 0)
    assert (study.run.data, study.run.trainable) == ("torchvision:CIFAR100", "all")
    distilled, plain = study.runs()
    assert (distilled.loss, distilled.temperature) == ("kl", 4)
    assert (distilled.alpha, plain.alpha) == (0.1, 1)
    s, t = torch.randn(2, 8, 100, generator=torch.Generator().manual_seed(0)).unbind()
    y = torch.arange(8)
    # distiller_zoo/KD.py, with the weights of scripts/run_cifar_distill.sh
    p_s, p_t = F.log_softmax(s / 4, dim=1), F.softmax(t / 4, dim=1)
    theirs = F.kl_div(p_s, p_t, reduction="sum") * 4**2 / 8
    ours = total(distilled.alpha, F.cross_entropy(s, y), objective(distilled)(s, t, y))
    assert float(ours) == pytest.approx(float(0.1 * F.cross_entropy(s, y) + 0.9 * theirs))


def test_the_seconds_of_workers_sum_to_those_of_the_trials(tmp_path: Path) -> None:
    """Of 20 s, one worker had trials from 4 to 9 and from 10 to 16, the other from 6 to 20."""
    for name, spans in (("1", [(4, 9), (10, 16)]), ("2", [(6, 20)])):
        trials = [
            {"began": a, "ended": b, "seconds": {"training": b - a - 1, "evaluation": 1}}
            for a, b in spans
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, trials)))
    rows = where_time_goes.of_workers(tmp_path, began=0, ended=20)
    assert sum(rows.values()) == 20 and rows["training"] == (4 + 5 + 13) / 2
    assert [rows[n] for n in (where_time_goes.START, where_time_goes.BETWEEN)] == [5, 0.5]


def test_the_gallery_is_what_its_command_writes() -> None:
    assert gallery.PAGE.read_text("utf-8") == gallery.markdown()


def read(name: str = "tour") -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


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


def test_the_committed_comparison_is_of_this_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The one cell whose numbers no training makes; no path of a machine is shown."""
    for file in FOLDER.glob("*.ipynb"):
        assert not re.search(r"/(home|root|tmp|work|usr|Users)/", file.read_text("utf-8"))
    (cell,) = (c for c in read().cells if "kdtune.compare(own" in c.source)
    exec(f"import pandas as pd, kdtune\n{cell.source}", {})
    assert capsys.readouterr().out == whole_text(cell.outputs)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "runs"), [("tour", 12), ("course", 10)])
def test_the_notebook_runs_its_study(name: str, runs: int, tmp_path: Path) -> None:
    tour = read(name)
    for cell in tour.cells:
        cell.pop("outputs", None) and cell.update(outputs=[])
    NotebookClient(tour, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = {cell.source: cell.outputs for cell in tour.cells if cell.cell_type == "code"}
    results = kdtune.load(tmp_path / "runs" / name)
    assert results.status == f"complete: {runs} runs"
    if name == "course":  # its cells check the loss and the interval
        return
    ran = outputs["results = kdtune.run(study)"]
    assert len(ran) <= 8 and not [o for o in ran if o.get("name") == "stderr"]
    text = whole_text(ran)
    assert text.startswith("Recipe of runs/tour:")  # Ray has not cleared what came first
    assert "12 of 12 runs ended: 12 completed" in text and "\x1b" not in text
    assert text.count("val acc") == 1  # the head of the table, and no line of a run
    assert results.verdict(brief=True) in outputs["results"][0].data["text/html"]
    assert "<img " in outputs["results.plot.curves()"][0].data["text/html"]


@pytest.mark.parametrize(("lr", "fault"), [("0.01", ""), ("1", "learning rate is probably")])
def test_a_check_of_a_sound_and_of_a_broken_recipe(lr: str, fault: str, tmp_path: Path) -> None:
    words = check.TENSORS.replace("--lr 0.01", f"--lr {lr}")
    row = check.check(check.Recipe("", words, fault), {}, tmp_path)
    assert row["result"] == ("named" if fault else "nothing found")
