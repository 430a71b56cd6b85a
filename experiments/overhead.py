"""What does Ray Tune add to a study of short runs? The default study against its runs alone.

    python experiments/overhead.py

Wall time from the first to the last epoch, cold, teacher apart, divided by the sum of the runs'
pure training time over warm streams by the number of cores. Pure time is measured as in the study,
on all cores at once, and also one run at a time: cores that all work take longer each, and that is
no overhead of Ray's. `experiments/speed.py` calls this as one of its rows.
"""

import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from kdtune.config.defaults import fashion
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.raytune.driver import run as search
from kdtune.storage.records import read_lines
from kdtune.streams.resources import Resources
from kdtune.training.run import distill
from kdtune.training.teacher import fine_tune

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from reference import plain_loop

CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Overhead:
    """Seconds of one comparison."""

    wall: float
    """From the study's first to its last epoch."""
    pure: float
    """Its runs over warm streams, all cores at once: their sum by the number of cores."""
    alone: float
    """The same measured one run at a time."""
    plain: float
    """Plain loops in place of its runs, all cores at once: their sum by the number of cores."""
    epochs: float
    """Its epochs, the building of streams included: their sum by the number of cores."""


def compare() -> Overhead:
    """Run the default study once, then its parts."""
    study, count = fashion(), len(fashion().runs()) * fashion().repeats
    with tempfile.TemporaryDirectory() as name:
        study = replace(study, out=name, cache=f"{name}/cache", gpus=0)
        torch.set_num_threads(1)
        list(fine_tune(study.run, study.folder / "teacher", Resources.of(study)))
        search(study)
        some = [replace(run, repeat=r) for run in study.runs() for r in range(4)]
        with get_context("spawn").Pool(CORES, _warm_up, (study,)) as pool:
            pure = pool.starmap(_over_warm_streams, [(run, study) for run in some], chunksize=1)
            plain = pool.starmap(_plain, [(run, study) for run in some[: 2 * CORES]], chunksize=1)
        _warm_up(study)
        alone = [_over_warm_streams(run, study) for run in study.runs()]
        wall, epochs = _span(study)

        def by_core(some: list[float]) -> float:  # of all runs, from those of some
            return statistics.mean(some) * count / CORES

        parts = {"pure": by_core(pure), "alone": by_core(alone), "plain": by_core(plain)}
        return Overhead(wall, **parts, epochs=epochs / CORES)


def _span(study: Study) -> tuple[float, float]:
    """Seconds from the first to the last epoch, and those that all epochs took together."""
    lines: list[dict[str, Any]] = read_lines(study.folder)[0]
    epochs = [line for line in lines if line["kind"] == "epoch" and line["split"] == "val"]
    first = min(line["time"] - line["seconds"] for line in epochs)
    wall = max(line["time"] for line in epochs) - first
    return wall, sum(line["seconds"] for line in epochs)


def _warm_up(study: Study) -> None:
    torch.set_num_threads(1)
    _over_warm_streams(replace(study.run, epochs=1), study)


def _over_warm_streams(run: Run, study: Study) -> float:
    started = time.perf_counter()
    list(distill(run, study.folder / "teacher", Resources.of(study)))
    return time.perf_counter() - started


def _plain(run: Run, study: Study) -> float:
    started = time.perf_counter()
    list(plain_loop(run, study.folder / "teacher"))
    return time.perf_counter() - started


def sentence(each: list[dict[str, float]]) -> str:
    """What the comparisons say, medians of the ratios."""
    wall = statistics.median(x["wall"] for x in each)
    pure, alone, plain, epochs = (
        statistics.median(x["wall"] / x[name] for x in each)
        for name in ("pure", "alone", "plain", "epochs")
    )
    return (
        f"The default study, cold, under Ray on {CORES} cores: {wall:.1f} s from first to last "
        f"epoch, {pure:.2f} times its pure training time ({alone:.2f} times if that is measured "
        f"one run at a time), {100 / epochs:.0f} % of it in epochs; plain loops on all cores take "
        f"{1 / plain:.2f} times as long. Medians of {len(each)}."
    )


if __name__ == "__main__":
    print(sentence([asdict(compare())]))
