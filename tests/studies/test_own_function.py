"""Studies of training functions under a real Ray."""

from pathlib import Path
from typing import Any

import own_functions
import pytest

import kdtune
from kdtune.report import ReportFlags, main

pytestmark = pytest.mark.usefixtures("shared_ray", "one_at_a_time")


def make(tmp_path: Path, function: Any, **changes: Any) -> kdtune.Study:
    own: dict[str, Any] = {"space": {"alpha": (0.5, 1.0)}, "baseline": {"alpha": 1.0}}
    return kdtune.Study(train=function, out=str(tmp_path / "runs"), **own | changes)


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
