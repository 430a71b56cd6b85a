"""How hard both arms were tuned, and the baseline's own regularisation in the verdict."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.results.results import Results
from kdtune.results.words import MAX_RATIO, effort_text, effort_warning, tuning_effort
from tests.study_folders import RUN, at, make

NOISE = [0.0, 0.01, -0.01, 0.02, -0.02, 0.005]


def curves(**means: float) -> dict[Run, list[float]]:
    """Last accuracies by configuration: smoothing of plain training, and one distilled run."""
    found = {at(1.0, label_smoothing=float(k[1:]) / 10): v for k, v in means.items() if k != "kd"}
    found |= {at(0.5): means["kd"]} if "kd" in means else {}
    return {run: [mean + noise for noise in NOISE] for run, mean in found.items()}


@pytest.fixture
def smoothed(tmp_path: Path) -> Results:
    """Plain training is best with label smoothing 0.1; distillation is better."""
    space = {"alpha": (0.5, 1.0), "label_smoothing": (0.0, 0.1, 0.2)}
    return make(tmp_path, curves(s0=0.60, s1=0.64, s2=0.62, kd=0.70), space=space)


def test_the_verdict_names_the_rival(smoothed: Results) -> None:
    assert smoothed.baseline() == "training without distillation but with label smoothing 0.1"
    verdict = smoothed.verdict()
    assert "improved validation accuracy by 6.00 percentage points" in verdict
    assert "compared with training without distillation but with label smoothing 0.1" in verdict


def test_configurations_and_runs_of_each_arm_are_counted(smoothed: Results) -> None:
    (row,) = smoothed.effort.to_dict("records")
    assert row == {
        **{"group": "resnet18", "configs": 1, "runs": 6},
        **{"baseline_configs": 3, "baseline_runs": 18},
    }
    words = "Tuning: 1 configuration (6 runs) with distillation, 3 (18 runs) without."
    assert effort_text(smoothed.effort, smoothed.task) == words
    assert words in smoothed.text() and not smoothed.warnings[:-1]


@pytest.mark.parametrize(("configs", "search"), [(4, "grid"), (5, "grid"), (5, "random")])
def test_unequal_tuning_is_a_warning(tmp_path: Path, configs: int, search: str) -> None:
    last: dict[float | Run, list[float]] = {
        float(alpha): NOISE for alpha in np.linspace(0.1, 0.8, configs)
    }
    results = make(tmp_path, last | {1.0: NOISE}, search=search, samples=configs + 1)
    found = [w for w in results.warnings if "was tuned over" in w]
    assert len(found) == (configs > MAX_RATIO)
    if found:
        assert "training without distillation was tuned over 1 configuration, " in found[0]
        assert ("a random search" if search == "grid" else "no more configurations") in found[0]


def test_a_share_below_a_half_is_named_as_the_reason(tmp_path: Path) -> None:
    last = {float(alpha): NOISE for alpha in np.linspace(0.1, 0.8, 5)} | {1.0: NOISE}
    results = make(tmp_path, last, search="random", samples=6, plain_share=0.2)
    assert any(w.endswith("--plain-share 0.5 gives both the same number") for w in results.warnings)


def test_the_other_side_may_be_the_one_with_less(tmp_path: Path) -> None:
    space = {"alpha": (0.5, 1.0), "lr": (0.1, 0.2, 0.3, 0.4, 0.5)}
    last = {at(1.0, lr=lr): NOISE for lr in space["lr"]} | {at(0.5, lr=0.1): NOISE}
    results = make(tmp_path, last, space=space)
    (found,) = [w for w in results.warnings if "was tuned over" in w]
    assert found.startswith("distillation was tuned over 1 configuration, the other side over 5")


def test_random_searches_give_both_arms_as_many_configurations() -> None:
    from kdtune.planning.proposals import ConfigSampler

    space = {"alpha": (0.1, 0.5), "lr": (0.1, 0.2, 0.3, 0.4), "label_smoothing": (0.0, 0.1)}
    study = Study(run=RUN, space=space, search="random", samples=16)
    sampler = ConfigSampler(study)
    plain = [sampler.suggest(n).is_baseline for n in range(16)]  # type: ignore[union-attr]
    assert sum(plain) == 8


def test_without_a_baseline_there_is_nothing_to_compare(tmp_path: Path) -> None:
    results = make(tmp_path, {0.5: NOISE}, plain_share=0.0)
    assert effort_text(results.effort, results.task) == ""
    effort = tuning_effort(results.trials, results.default_criterion)
    assert effort_warning(effort, results.study) == ""


def test_more_steps_with_images_without_labels_are_a_warning(tmp_path: Path) -> None:
    """Three of four images of a batch have no label, so an epoch has four times the steps."""
    run = replace(RUN, extra="images")
    last = {
        replace(run, alpha=0.5, extra_share=0.75): NOISE,
        replace(run, alpha=1.0): NOISE,
    }
    results = make(tmp_path / "a", last, run=run)
    assert sum("up to 4 times as many steps" in w for w in results.warnings) == 1
    longer = {**last, replace(run, alpha=1.0, epochs=12): NOISE}
    results = make(tmp_path / "b", longer, run=run)
    assert not any("times as many steps" in w for w in results.warnings)
