"""Studies of training functions under a real Ray."""

import signal
from pathlib import Path
from typing import Any

import own_functions
import pandas as pd
import pytest

import kdtune
from kdtune.report import ReportFlags, main

pytestmark = pytest.mark.usefixtures("shared_ray", "one_at_a_time")


def make(tmp_path: Path, function: Any, **changes: Any) -> kdtune.Study:
    own: dict[str, Any] = {"space": {"alpha": (0.5, 1.0)}, "baseline": {"alpha": 1.0}}
    return kdtune.Study(train=function, out=str(tmp_path / "runs"), **own | changes)


def test_a_worker_that_dies_resumes_its_function_by_epoch(tmp_path: Path) -> None:
    """The function finds its state; the epochs before it are not computed again."""
    space, of_ctrl_c = {"alpha": (1.0,)}, signal.getsignal(signal.SIGINT)
    results = kdtune.run(make(tmp_path, own_functions.resumes, epochs=4, repeats=2, space=space))
    assert signal.getsignal(signal.SIGINT) is of_ctrl_c  # Tune leaves another one behind
    assert set(results.trials.status) == {"completed"}
    val = results.epochs[results.epochs.split == "val"].set_index(["repeat", "epoch"]).sort_index()
    assert val.loc[0].began.tolist() == [0] * 4 and val.loc[1].began.tolist() == [0, 0, 2, 2]
    assert val.loc[1].acc.max() == pytest.approx(0.4)
    attempts = pd.read_json(next((results.folder / "epochs").glob("*.jsonl")), lines=True)
    assert attempts[attempts.kind == "start"].groupby("trial_id").attempt.max().sum() == 1


@pytest.mark.slow
def test_a_study_of_scikit_learn_without_torch_in_its_trials(tmp_path: Path) -> None:
    """From the function to the page; other code under the same name is refused."""
    space = {"l2": (1e-4, 1e-1)}
    study = make(
        tmp_path, own_functions.without_torch, space=space, baseline={"l2": 1e-1}, repeats=3
    )
    results = kdtune.run(study)
    assert set(results.trials.status) == {"completed"}, results.trials.error.tolist()
    row = results.compare().iloc[0]
    assert (row.n, row.n_images, row.label) == (3, 400, "l2 = 0.0001")
    by_hand = [
        own_functions.without_torch({"l2": l2}, repeat)["val/acc"].mean()
        for l2 in (1e-4, 1e-1)
        for repeat in range(3)
    ]
    trials = results.trials.sort_values(["config/l2", "repeat"])
    assert trials["val/acc@last"].tolist() == pytest.approx(by_hand)
    assert "val examples" in results.verdict() and "Distillation" not in results.verdict()
    assert main(ReportFlags((str(study.folder),))) == 0
    page = (study.folder / "report.html").read_text("utf-8")
    assert "own_functions:without_torch" in page and "teacher" not in page.split("<script")[0]
    assert kdtune.run(study).trials.equals(results.trials)  # nothing is left to do
    with pytest.raises(
        kdtune.InputError, match=r"another study \(train: own_functions:without_torch → own"
    ):
        kdtune.run(make(tmp_path, own_functions.wave, name="without_torch"))
