"""Studies whose runs are simulated: accuracies from a formula, with a known best configuration."""

import math
import random

from kdtune.config.run import Run, derive_seed
from kdtune.config.study import Study
from kdtune.config.task import Range

RUN = Run(epochs=8, optimizer="adamw")
LISTS = {"alpha": (0.1, 0.5, 1.0), "lr": (1e-3, 1e-2, 1e-1), "loss": ("mse", "kl")}
RANGES = {"alpha": Range(0, 0.9), "lr": Range(1e-4, 1, log=True), "temperature": Range(1, 20)}


def truth(run: Run) -> float:
    """Return the true accuracy: best at lr 1e-2 and small alpha; distillation gains 3 points."""
    return 0.8 - 0.05 * abs(math.log10(run.lr) + 2) - 0.03 * run.alpha


def curve(run: Run) -> list[float]:
    """Return a curve that rises to the truth plus a shared effect of the repeat and noise.

    Both have a standard deviation of 1 point.
    """
    shared = random.Random(derive_seed("shared", run.repeat)).gauss(0, 0.01)
    own = random.Random(derive_seed("own", run.repeat, run.config_id)).gauss(0, 0.01)
    end = truth(run) + shared + own
    return [end * (1 - 0.5 ** (epoch + 1)) for epoch in range(run.epochs)]


def faulty(run: Run) -> list[float] | None:
    """Return `curve`, but let a tenth of the runs fail and a tenth diverge, in every attempt."""
    kind = derive_seed("fault", run.trial_id) % 10
    return None if kind == 0 else [0.5, math.nan] if kind == 1 else curve(run)


def make(search: str, space: dict, policy: str, stop_early: bool = False) -> Study:
    """Return a study of at most 12 samples (15 configurations of a grid) and 4 repeats.

    A quarter of the samples is without distillation.
    """
    own = {"search": search, "space": space, "policy": policy, "stop_early": stop_early}
    return Study(run=RUN, samples=12, repeats=4, plain_share=0.25, **own)
