"""What students.json says of the best configuration: the numbers of the study's own tables."""

import json
from pathlib import Path

import pytest
from study_folders import draw, make, write_predictions

from kdtune.results.examples import configuration_record, trial_metrics


def test_a_distilled_configuration_and_its_gain(tmp_path: Path) -> None:
    made = make(tmp_path, draw({0.5: 0.05, 0.9: 0.01, 1.0: 0.0}, 6))
    write_predictions(made)  # of val only
    record = json.loads(json.dumps(configuration_record(made), allow_nan=False))
    assert record["config_id"] == made.best() and record["label"] == made.label(record["config_id"])
    assert record["hyperparameters"] == {"alpha": 0.5}
    assert record["verdict"] == made.verdict()
    assert record["baseline"] == "training without distillation"

    rows, compared = made.selection().set_index("row"), made.compare().set_index("config_id")
    for split, about in (
        ("val", "new repeats with this teacher and new images like those of val"),
        ("test", "new repeats with this teacher on these test images"),
    ):
        own = record["accuracy"][split]
        assert own["holds_for"] == about and (own["n"], own["interval"]) == (6, "95% CI")
        for name in ("mean", "low", "high"):
            assert own[name] == pytest.approx(rows.loc["best", f"{split}/{name}"])
    assert record["accuracy"]["val"]["bias"].startswith("optimistic")
    row, gain = compared.loc[made.best()], record["difference"]["val"]
    assert (gain["mean"], gain["low"], gain["p"]) == (row["diff"], row.low, row.p_holm)
    assert gain["interval"] == "simultaneous 95% CI"  # one of two comparisons
    assert record["difference"]["test"]["mean"] == rows.loc["difference", "test/mean"]

    trial = made.trials[made.trials.config_id == made.best()].iloc[0]
    assert trial_metrics(trial)["val"]["acc"] == trial["val/acc@last"]
    assert set(trial_metrics(trial)) == {"val", "test"}


def test_the_baseline_has_no_difference_from_itself(tmp_path: Path) -> None:
    record = configuration_record(make(tmp_path, draw({0.5: -0.1, 1.0: 0.0}, 3)))
    assert record["label"] == "alpha = 1" and record["difference"] == {}


def test_one_repeat_has_no_interval_and_no_run_no_record(tmp_path: Path) -> None:
    record = configuration_record(make(tmp_path / "one", {0.5: [0.9], 1.0: [0.8]}))
    own = record["accuracy"]["val"]
    assert (own["mean"], own["low"], own["high"], own["n"]) == (0.9, None, None, 1)
    assert record["difference"]["val"]["low"] is None
    json.dumps(record, allow_nan=False)
    assert configuration_record(make(tmp_path / "none", {0.5: [None], 1.0: [None]})) == {}
