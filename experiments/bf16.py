"""Accuracy of bf16 compared with fp32: the default study in both precisions, paired by repeat.

    python experiments/bf16.py        # about two minutes on two cores with bf16 instructions

The tolerance was fixed before the first run: the 95% CI over repeats of the difference in val
accuracy, bf16 - fp32, averaged over configurations, must lie within 1 percentage point of 0.
Teacher and student both run in bf16. The exit code is 1 if the difference is not within the
tolerance.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from kdtune.config.run import Precision, Run
from kdtune.config.study import Study, fashion
from kdtune.statistics.intervals import Interval, paired_difference
from kdtune.streams.views import Resources, has_bf16
from kdtune.training.run import distill
from kdtune.training.teachers import fine_tune

TOLERANCE = 0.01


def accuracy(run: Run, study: Study) -> float:
    """Return the accuracy on val after the last epoch."""
    torch.set_num_threads(1)
    *_, last = distill(run, study.folder / "teacher", Resources.of(study))
    return float(last.splits["val"]["acc"] or 0.0)


def accuracies(precision: Precision, folder: Path) -> np.ndarray:
    """Return the accuracy of each configuration and repeat, [C, R]."""
    study = fashion()
    own = replace(study.run, precision=precision)
    study = replace(study, run=own, out=str(folder / precision), cache=str(folder), gpus=0)
    torch.set_num_threads(1)
    list(fine_tune(study.run, study.folder / "teacher", Resources.of(study)))
    runs = [replace(run, repeat=r) for run in study.runs() for r in range(study.repeats)]
    with get_context("spawn").Pool() as pool:
        found = pool.starmap(accuracy, [(run, study) for run in runs], chunksize=1)
    return np.array(found).reshape(-1, study.repeats)


def row(name: str, difference: Interval) -> str:
    """Return a line of the table, in percentage points."""
    half = 50 * (difference.high - difference.low)
    return f"| {name} | {100 * difference.mean:+.2f} ± {half:.2f} |"


def main() -> int:
    """Print the differences and whether they are within the tolerance; return the exit code."""
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    if not has_bf16():
        print("warning: this CPU emulates bf16, which is slow", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        fp32, bf16 = (accuracies(precision, Path(folder)) for precision in ("fp32", "bf16"))
    print("| configuration | bf16 - fp32, percentage points of val accuracy |\n|---|---|")
    for run, a, b in zip(fashion().runs(), bf16, fp32, strict=True):
        name = ", ".join(f"{k} {run.config[k]}" for k in ("alpha", "temperature") if run.config[k])
        print(row(name, paired_difference(a, b).interval))
    overall = paired_difference(bf16.mean(axis=0), fp32.mean(axis=0)).interval
    print(row("all", overall))
    within = max(abs(overall.low), abs(overall.high)) <= TOLERANCE
    answer = "within" if within else "NOT within"
    limit = f"{100 * TOLERANCE:g} percentage point of 0"
    print(f"\n95% CI over {overall.n} repeats. The difference is {answer} {limit}.")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
