"""Time and memory to read a large study: 300 configurations x 10 repeats x 100 epochs.

    python experiments/big_study.py --out /tmp/big

Writes records with random metrics (train and val in every epoch, test in the last) and measures
loading, analysis (summary, comparison, conclusion) and report, each in a separate process. With
--strict the exit code is 1 if a limit is exceeded: 10 s for the analysis, 60 s for the report, 1 GB
of memory, 2 MB for the page. Limits are CPU seconds, since everything runs in one thread.
"""

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

import kdtune
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.storage.records import Records

LIMITS = {"load": 10.0, "analysis": 10.0, "report": 60.0}
"""Limits in CPU seconds, without imports."""
MOST_MB, MOST_PAGE_MB = 1000, 2


def study_of(configs: int, repeats: int, epochs: int) -> Study:
    """Return a study with ten configurations per learning rate, one without distillation."""
    rates = tuple(float(f"{lr:.4g}") for lr in np.geomspace(1e-4, 1e-1, configs // 10))
    space = {"lr": rates, "alpha": (0.1, 0.5, 0.9, 1.0), "temperature": (1.0, 4.0, 16.0)}
    return Study(name="big", run=Run(epochs=epochs), space=space, repeats=repeats)


def generate(folder: Path, study: Study) -> None:
    """Write the folder of a study; its accuracy is best at alpha = 0.5 and lr = 0.003."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(study.to_json())
    shared = rng.normal(0, 0.01, study.repeats)
    with Records(folder) as records:
        for config in study.runs():
            level = 0.75 - 0.02 * abs(np.log10(config.lr / 3e-3)) + 0.01 * (config.alpha == 0.5)
            for repeat in range(study.repeats):
                run = replace(config, repeat=repeat)
                last = level + shared[repeat] + rng.normal(0, 0.005)
                rise = 1 - np.exp(-np.linspace(0.2, 4, run.epochs))
                _record(records, run, last * rise + rng.normal(0, 0.003, run.epochs))


def _record(records: Records, run: Run, accs: np.ndarray) -> None:
    records.start(run, 0)
    for epoch, acc in enumerate(accs.tolist()):
        val = {"n_examples": 500, "loss": 2 - acc, "ce": 1.5 - acc, "distill": 2.2 - acc}
        val |= {"acc": acc, "teacher_acc": 0.85, "logit_diff": 1.3 - acc}
        val |= {"agreement": 0.05 + 0.9 * acc, "kl": 1.2 - acc}
        splits = {"train": val, "val": val}
        if epoch == run.epochs - 1:
            splits["test"] = val
        records.epoch(run, 0, {"number": epoch, "seconds": 0.1, "splits": splits})
    records.end(run, 0, "completed", None, "node1")


def load(folder: Path) -> str:
    """Load the study; return its size."""
    return f"{len(kdtune.load(folder).epochs):,} rows"


def analysis(folder: Path) -> str:
    """Compute summary and comparison; return the conclusion."""
    results = kdtune.load(folder)
    results.summary(full=True)
    results.compare()
    return results.verdict()


def report(folder: Path) -> str:
    """Write page and figures; return the size of the page."""
    from kdtune.reporting.build import write
    from kdtune.results.comparison import DEFAULT

    page = write(kdtune.load(folder), DEFAULT, folder / "page")
    return f"{page.stat().st_size / 1e6:.2f} MB"


def _measure(step: Callable[[Path], str], folder: Path) -> tuple[float, float, float, str]:
    import kdtune.report  # noqa: F401 - imports are not measured

    wall, cpu = time.perf_counter(), time.process_time()
    said = step(folder)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return cpu, wall, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, said


def main() -> int:
    """Generate the study if it does not exist, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder of the study, generated if it does not exist",
    )
    parser.add_argument("--configs", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a limit is exceeded")
    flags = parser.parse_args()
    if not flags.out.exists():
        generate(flags.out, study_of(flags.configs, flags.repeats, flags.epochs))
    missed = 0
    print("| step | CPU s | s | peak MB | |\n| ---: | ---: | ---: | ---: | :--- |")
    for step in (load, analysis, report):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            cpu, wall, peak, said = pool.apply(_measure, (step, flags.out))
        missed += cpu > LIMITS[step.__name__] or peak > MOST_MB
        print(f"| {step.__name__} | {cpu:.1f} | {wall:.1f} | {peak:.0f} | {said} |", flush=True)
    missed += (flags.out / "page" / "report.html").stat().st_size > MOST_PAGE_MB * 1e6
    return int(flags.strict and missed > 0)


if __name__ == "__main__":
    sys.exit(main())
