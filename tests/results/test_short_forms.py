"""The summary for reading, the line that stands for results, and labels of all dataframes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_study import write_small_study
from study_folders import RUN, at, cost, make, make_final, write_predictions

import kdtune
from kdtune.config.records import write_costs
from kdtune.config.run import DISTILLATION
from kdtune.config.task import make_task
from kdtune.config.text import InputError
from kdtune.results.results import Results
from kdtune.results.words import short_metrics, short_summary


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return write_small_study(tmp_path_factory.mktemp("runs") / "small")


# -- the summary -----------------------------------------------------------------------------------


def test_the_short_summary_has_the_numbers_of_the_full_one(small: Results) -> None:
    short, full = small.summary(), small.summary(full=True).set_index("label")
    assert list(short) == ["label", "alpha", "n", "accuracy", "cross-entropy", "agreement"]
    for name, metric in (("accuracy", "acc"), ("cross-entropy", "ce"), ("agreement", "agreement")):
        for label, text in zip(short.label, short[name], strict=True):
            mean, sd = map(float, text.split(" ± "))
            digits = len(text.rpartition(".")[2])
            assert mean == round(full.loc[label, f"val/{metric}/mean"], digits)
            assert sd == round(full.loc[label, f"val/{metric}/std"], digits)
    assert short.columns.name == "mean ± SD" and short.n.tolist() == [4, 4, 4]


def test_the_best_row_comes_first(small: Results) -> None:
    assert small.summary().label.iloc[0] == small.label(str(small.best()))
    assert small.summary(metrics=["ce"]).label.iloc[0] == "alpha = 0.1"  # lower is better
    accuracies = small.summary().accuracy.str.split(" ").str[0].astype(float)
    assert accuracies.is_monotonic_decreasing


def test_hyperparameters_stay_numbers_and_inactive_ones_are_dashes(tmp_path: Path) -> None:
    last = {
        at(0.5, temperature=4.0): [0.6, 0.9],
        at(0.5, temperature=1 / 3): [0.3, 0.5],
        1.0: [0.3],
    }
    short = make(tmp_path, last, repeats=2).summary()
    assert short.temperature.tolist() == [4, 0.333333, "-"]
    assert short[short.temperature == 4].label.tolist() == ["alpha = 0.5, T = 4"]
    assert short.n.tolist() == [2, 2, "1 of 2"]


def test_a_lucky_repeat_is_not_the_first_row(tmp_path: Path) -> None:
    made = make(tmp_path, {0.5: [0.6, 0.6, 0.6, 0.6], 0.1: [0.9], 1.0: [0.4, 0.4, 0.4, 0.4]})
    assert made.summary().alpha.tolist() == [0.5, 1.0, 0.1]
    assert made.summary().accuracy.tolist() == ["0.6 ± 0", "0.4 ± 0", "0.9"]


def test_metrics_without_a_value_are_left_out(tmp_path: Path) -> None:
    made = make(tmp_path, {0.5: [0.6, 0.7], 1.0: [0.3, 0.4]})
    assert list(made.summary(metrics=["acc", "nll"])) == ["label", "alpha", "n", "accuracy"]
    ce = made.summary(metrics=["distill"])
    assert ce["distillation term"].tolist()[1] == "-"  # there is none at alpha = 1
    with pytest.raises(InputError, match=r"must be one of .* but got accuracy"):
        made.summary(metrics=["accuracy"])


def test_a_summary_by_a_range_and_a_pooled_one_are_short_too(small: Results) -> None:
    assert small.summary(pooled=True).n.tolist() == [12, 12, 12]  # three epochs of four repeats
    assert small.summary(by=["loss"]).loss.tolist() == ["kl", "-"]


def test_the_full_summary_has_the_metrics_of_the_tables(small: Results) -> None:
    statistics = ("mean", "std", "n", "low", "high")
    columns = [f"val/{m}/{s}" for m in DISTILLATION.table_metrics for s in statistics]
    assert list(small.summary(full=True)) == ["alpha", "n_planned", *columns, "label"]


# -- the line --------------------------------------------------------------------------------------


def test_the_line_is_short(small: Results) -> None:
    text = repr(small)
    assert text == str(small) and len(text) < 400 and "\n" not in text
    head = f"<kdtune.Results of small ({small.folder}), complete: 12 runs. Distillation (alpha = 0"
    assert text.startswith(head) and text.endswith("images).>")
    assert text.removesuffix(">").partition("runs. ")[2] in small.verdict()


def test_the_line_of_a_study_that_has_just_begun(tmp_path: Path) -> None:
    made = make(tmp_path, {0.5: [None], 1.0: [None]})
    assert "0 of 2 runs completed. No conclusion" in repr(made)


# -- labels ----------------------------------------------------------------------------------------


def several(folder: Path) -> Results:
    """Hyperparameters that are inactive in some configurations: losses, temperatures."""
    last = {at(0.5, temperature=4.0): [0.6, 0.9], at(0.5, loss="mse"): [0.3, 0.6], 1.0: [0.3, 0.31]}
    return make(folder, last)


def one(folder: Path) -> Results:
    """One configuration."""
    return make(folder, {0.5: [0.6, 0.7]}, plain_share=0.0)


def students(folder: Path) -> Results:
    """Two students at one alpha, without a baseline."""
    last = {at(0.5, student=name): [0.6, 0.7] for name in ("resnet18", "mobilenet_v3_small")}
    return make(folder, last, plain_share=0.0)


def temperatures(folder: Path) -> Results:
    """Only the temperature is searched; the baseline has none."""
    last = {at(0.5, temperature=t): [0.5 + t / 10, 0.6] for t in (1.0, 4.0)} | {1.0: [0.3, 0.31]}
    space = {"temperature": (1.0, 4.0)}
    return make(folder, last, space=space, run=replace(RUN, alpha=0.5))


def race(folder: Path) -> Results:
    """Final repeats that the finalists alone have run."""
    last = {0.1: [0.6, 0.7, 0.65], 0.5: [0.5, 0.6, 0.55], 1.0: [0.3, 0.4, 0.35]}
    return make_final(folder, last, {0.1: [0.6, 0.7, 0.7], 1.0: [0.3, 0.4, 0.4]}, policy="race")


def frames(results: Results) -> dict[str, pd.DataFrame]:
    """Return every dataframe of the API whose rows are about configurations."""
    by_alpha = {"by": ["alpha"], "full": True}
    return {
        "trials": results.trials,
        "epochs": results.epochs,
        "configs": results.configs,
        "summary": results.summary(),
        "summary, full": results.summary(full=True),
        "summary, by": results.summary(**by_alpha),  # type: ignore[arg-type]
        "summary, by temperature": results.summary(by=["temperature"]),
        "summary, pooled": results.summary(pooled=True, full=True),
        "marginal": results.marginal(),
        "compare": results.compare(),
        "compare, other": results.compare(results.criterion("ce", baseline={"alpha": 0.5})),
        "selection": results.selection(),
        "sensitivity": results.sensitivity(),
        "frontier": results.frontier(),
        "predictions": results.predictions().rename(
            columns={"label": "class", "configuration": "label"}
        ),
    }


@pytest.mark.parametrize("study", [several, one, students, temperatures, race])
def test_every_dataframe_has_a_label(study, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    made = study(tmp_path)
    write_predictions(made)
    models = made.trials["config/student"].unique()
    write_costs(tmp_path, [cost(model, params=1000 * (1 + i)) for i, model in enumerate(models)])
    made = kdtune.load(tmp_path)
    all_frames = frames(made)
    for name, frame in all_frames.items():
        if not len(frame):
            assert name.startswith("compare") and study in (one, students), name
            continue
        assert frame.label.map(type).eq(str).all(), name
        assert (frame.label.str.len() > 0).all(), name
        assert not frame.label.str.contains("nan|None|the configuration").any(), name
    for name in ("configs", "summary", "sensitivity"):
        assert all_frames[name].label.is_unique
    labels = made.trials.groupby("config_id").label.first()
    assert labels.is_unique


def test_labels_of_a_selection_name_both_sides(small: Results) -> None:
    table = small.selection().set_index("row")
    assert table.label["best"] == "alpha = 0.1" and table.label["baseline"] == "alpha = 1"
    assert table.label["difference"] == "alpha = 0.1 minus alpha = 1"


# -- predictions -----------------------------------------------------------------------------------


def test_predictions_give_the_accuracies_of_the_trials(small: Results) -> None:
    frame = small.predictions()
    assert len(frame) == 12 * 500
    mean = frame.groupby("trial_id").correct.mean()
    want = small.trials.set_index("trial_id")["val/acc@last"]
    assert np.abs(mean - want[mean.index]).max() <= 0.5 / 500 + 1e-12
    assert set(frame.configuration) == set(small.trials.label)


def test_predictions_that_were_not_kept(tmp_path: Path, small: Results) -> None:
    made = make(tmp_path, {0.5: [0.6, 0.7], 1.0: [0.3, 0.4]})
    assert not len(made.predictions())
    with pytest.raises(InputError, match="split must be val or test, but got train"):
        small.predictions("train")
    assert not len(small.predictions("test"))


# -- training functions of one's own ---------------------------------------------------------------


def test_a_training_function_is_ranked_by_its_own_score() -> None:
    """Lower is better, and one hyperparameter has the name of the count of repeats."""
    space = {"n": (1, 2), "knob": (0.5,)}
    task = make_task(space, "val/error", "min", {"n": 1}, {}).with_metrics(["error", "size"])
    statistics = {"mean": [0.4, 0.2], "std": [0.02, 0.01], "n": [3, 3]}
    table = pd.DataFrame({"n": [1, 2], "n_planned": [3, 3], "label": ["n = 1", "n = 2"]})
    for metric in ("size", "error"):
        table = table.assign(**{f"val/{metric}/{k}": v for k, v in statistics.items()})
    short = short_summary(table, ["n"], ["size", "error"], task)
    assert list(short) == ["label", "n", "n", "size", "error"]
    want = ["n = 2", 2, 3, "0.200 ± 0.010", "0.200 ± 0.010"]
    assert short.iloc[0].tolist() == want
    assert short_metrics(task) == task.table_metrics and "acc" not in short_metrics(task)
