"""The recipe's default beside the chosen configuration: numbers by hand, and their words."""

from dataclasses import replace

import pytest
from study_folders import RUN, make

from kdtune.results.comparison import Criterion

LAST = {0.1: [0.7, 0.7, 0.7], 0.5: [0.81, 0.82, 0.86], 1.0: [0.8, 0.8, 0.83]}


def test_the_difference_is_paired_by_repeat_on_test(tmp_path) -> None:
    """Test is val - 0.1: means 0.73 and 0.71, differences 1, 2 and 3 points, t(.975, 2) = 4.3."""
    made = make(tmp_path, LAST, run=replace(RUN, alpha=1.0))
    row = made.selection().set_index("row").loc["chosen - default"]
    assert row["test/mean"] == pytest.approx(0.02)
    assert (
        "Test accuracy of the recipe's default (alpha = 1): 71.0%; the chosen configuration "
        "differs by +2.0 percentage points (95% CI -0.5 to +4.5)."
    ) in made.text()
    assert "Warning: the chosen" not in made.text()


def test_the_chosen_one_may_be_the_default(tmp_path) -> None:
    assert "The chosen configuration is the recipe's default." in make(tmp_path, LAST).text()


@pytest.mark.parametrize(("metric", "word"), [("acc", "accuracy"), ("ce", "cross-entropy")])
def test_a_default_that_was_better_on_test_is_a_warning(tmp_path, metric, word) -> None:
    """The chosen one is better on val, by 2 points, and worse on test, by 2 points and 0.02."""
    made = make(tmp_path, LAST, run=replace(RUN, alpha=1.0))
    trials = made.trials.copy()
    chosen = trials["config/alpha"] == 0.5
    sign = 1 if metric == "acc" else -1
    trials.loc[chosen, f"test/{metric}@last"] -= sign * 0.04
    made = replace(made, frames=replace(made.frames, trials=trials))
    text = made.text(criterion=Criterion(metric))
    assert f"Test {word} of the recipe's default (alpha = 1): " in text
    warning = "Warning: the chosen configuration was worse than the recipe's default"
    assert f"{warning} (not significant)." in text


def test_val_chose_where_there_is_no_test(tmp_path) -> None:
    made = make(tmp_path, LAST, run=replace(RUN, alpha=0.1))
    trials = made.trials.assign(**{"test/acc@last": float("nan")})
    text = replace(made, frames=replace(made.frames, trials=trials)).text()
    assert (
        "Validation accuracy (optimistic, since it selected the chosen configuration) of the "
        "recipe's default (alpha = 0.1): 70.0%; the chosen configuration differs by +13.0"
    ) in text


def test_a_default_without_completed_runs_is_not_mentioned(tmp_path) -> None:
    fates = {(0.1, r): "failed" for r in range(3)}
    made = make(tmp_path, LAST, fates, run=replace(RUN, alpha=0.1))
    assert "default" not in set(made.selection().row) and "recipe's default" not in made.text()
