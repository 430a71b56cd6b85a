"""Overhead of Ray Tune in a study of short runs: the default study compared with its runs alone.

    python experiments/overhead.py                       # about three minutes on two cores
    python experiments/overhead.py --against GIT-REF     # the check below, about three minutes

The overhead is the wall time from the first to the last epoch of the study, with an empty cache and
without the teacher, divided by the training time of its runs over filled caches per core. The
training time is measured with all cores busy, as in the study, and also one run at a time, since
busy cores are slower, which is no overhead of Ray. `experiments/speed.py` calls this as one of its
rows.

With --against a small study is run by this version and by an earlier one, in turn. Compared is the
time of the command that is spent outside of epochs, per second in them; teacher, imports and Ray
are outside. The exit code is 1 if that is more than `LIMIT` times what it was (median of pairs).
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from kdtune.config.run import Run
from kdtune.config.study import Study, fashion
from kdtune.raytune.driver import run as search
from kdtune.storage.records import read_lines
from kdtune.streams.views import Resources
from kdtune.training.run import distill
from kdtune.training.teachers import fine_tune

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from reference import plain_loop

CORES = len(os.sched_getaffinity(0))
ROOT = Path(__file__).parent.parent
SMALL = "--name small --repeats 2 --teacher-epochs 2 --gpus 0"
"""Flags of the study that two versions run: 10 runs of 60 epochs."""
PAIRS, LIMIT = 3, 1.1
"""Runs of each version, and the ratio above which this one is worse."""


@dataclass(frozen=True)
class Overhead:
    """Times of one comparison in seconds."""

    wall: float
    """From the study's first to its last epoch."""
    pure: float
    """Its runs over filled caches with all cores busy: their sum divided by the cores."""
    alone: float
    """The same measured one run at a time."""
    plain: float
    """Plain loops instead of its runs with all cores busy: their sum divided by the cores."""
    epochs: float
    """Its epochs, including the time to fill the cache: their sum divided by the cores."""


def compare() -> Overhead:
    """Measure the default study and its parts."""
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
        wall, epochs = _span(study.folder)

        def per_core(some: list[float]) -> float:  # for all runs, from the mean of some
            return statistics.mean(some) * count / CORES

        parts = {"pure": per_core(pure), "alone": per_core(alone), "plain": per_core(plain)}
        return Overhead(wall, **parts, epochs=epochs / CORES)


def _span(folder: Path) -> tuple[float, float]:
    """Return the seconds from a study's first to its last epoch, and the sum over all epochs."""
    lines: list[dict[str, Any]] = read_lines(folder)[0]
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
    """Return the comparisons in words, as medians of ratios."""
    wall = statistics.median(x["wall"] for x in each)
    pure, alone, plain, epochs = (
        statistics.median(x["wall"] / x[name] for x in each)
        for name in ("pure", "alone", "plain", "epochs")
    )
    return (
        f"Default study with an empty cache on {CORES} cores with Ray: {wall:.1f} s from the first "
        f"to the last epoch, {pure:.2f} times its training time ({alone:.2f} times if that is "
        f"measured one run at a time), {100 / epochs:.0f}% of it in epochs. Plain loops on all "
        f"cores take {1 / plain:.2f} times as long. Medians of {len(each)}."
    )


def outside(version: Path) -> tuple[float, float]:
    """Return the seconds of the small study outside of epochs and in them, in a version."""
    with tempfile.TemporaryDirectory() as out:
        flags = [*SMALL.split(), "--out", out, "--cache", f"{out}/cache"]
        command = [sys.executable, "-m", "kdtune.search", *flags]
        environment = os.environ | {"PYTHONPATH": str(version)}
        began = time.perf_counter()
        subprocess.run(command, cwd=version, env=environment, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        wall = time.perf_counter() - began
        epochs = _span(Path(out, "small"))[1] / CORES
    return wall - epochs, epochs


def compare_versions(ref: str) -> int:
    """Print the time outside of epochs of an earlier version and this one; return the exit code."""
    with tempfile.TemporaryDirectory() as name:
        archive = ["git", "-C", str(ROOT), "archive", ref, "kdtune"]
        content = subprocess.run(archive, check=True, capture_output=True).stdout  # noqa: S603
        with tarfile.open(fileobj=io.BytesIO(content)) as files:
            files.extractall(name, filter="data")
        ratios = []
        for _ in range(PAIRS):
            each = {ref: outside(Path(name)), "this version": outside(ROOT)}
            for version, (rest, epochs) in each.items():
                share = rest / (rest + epochs)
                print(f"{version}: {rest:.1f} s, {share:.0%}, outside of epochs", flush=True)
            before, now = (rest / epochs for rest, epochs in each.values())
            ratios.append(now / before)
    median = statistics.median(ratios)
    print(f"Time outside of epochs per second in them: {median:.2f} times, limit {LIMIT}.")
    return int(median > LIMIT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--against", metavar="GIT-REF", help="earlier version to compare with")
    if (ref := parser.parse_args().against) is not None:
        sys.exit(compare_versions(ref))
    print(sentence([asdict(compare())]))
