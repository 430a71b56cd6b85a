"""Experiments load with the published settings; the benchmark computes its table correctly."""

from dataclasses import replace
from pathlib import Path

import pytest
import speed
import torch
import torch.nn.functional as F

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


def test_the_limit_of_the_benchmark_by_hand() -> None:
    parts = {"view": 1.0, "teacher": 2.0, "eval pass": 3.0, "train pass": 4.0}
    frozen = speed.Row("head", 3, 4, "fp32", None, images=10, epochs=2, pairs=1)
    # 8 streams of 10 (1 + 2 + 4) + 5 x 3, and one pass of the teacher over val
    assert speed.limit(frozen, 10, 5, parts) == 8 * (70 + 15) + 10
    whole = replace(frozen, trainable="all")
    # the teacher's part 8 times, the students' part 3 x 8 times
    assert speed.limit(whole, 10, 5, parts) == 8 * 30 + 10 + 24 * (40 + 15)
