"""Ten thousand real trials through Ray: do the driver's memory and its time per trial stay small?

    python experiments/many_trials.py                   # about an hour on two cores
    python experiments/many_trials.py --trials 1000

The trials do nothing but yield a number, so that all of the time is that of Ray Tune and kdtune.
Printed by thousand (or tenth of the trials): wall time per trial, CPU time of the driver's process
per trial, which other work on the machine does not change, and the memory of that process. Then the
time to load the study and to write its report. The limits: 1.5 GB, a last tenth at most 1.5 times
as slow as the second one, a report in a minute.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil

import kdtune
from kdtune.reporting.build import write

REPEATS = 8
LIMIT_GB, LIMIT_SLOWDOWN, LIMIT_REPORT = 1.5, 1.5, 60.0


def train(config: dict[str, Any], repeat: int) -> Iterator[dict[str, float]]:
    """Yield an accuracy that depends on the configuration, with noise of the repeat."""
    noise = Random(f"{config} {repeat}").gauss(0, 0.01)  # noqa: S311 - no secret
    yield {"val/acc": min(0.99, 0.7 + 0.1 * float(config["x"]) + noise)}


@dataclass
class Sampler:
    """Samples of the driver's process while a study runs, in a thread."""

    parts: Path
    """Folder of the study's records."""
    samples: list[tuple[int, float, float, float]] = field(default_factory=list)
    """Ended trials, wall seconds, CPU seconds of the process, its memory in MB."""
    is_over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Take a sample each second until the study is over."""
        process, ended, read = psutil.Process(), 0, dict[Path, int]()
        while not self.is_over.wait(1.0):
            for part in self.parts.glob("*.jsonl"):
                with part.open("rb") as file:
                    file.seek(read.get(part, 0))
                    text = file.read()
                read[part] = read.get(part, 0) + len(text)
                ended += text.count(b'"kind": "end"')
            cpu, memory = process.cpu_times(), process.memory_info().rss / 1e6
            self.samples.append((ended, time.monotonic(), cpu.user + cpu.system, memory))

    def tenths(self, trials: int) -> Iterator[tuple[int, float, float, float]]:
        """Yield ended trials, wall and CPU seconds per trial, and MB, for each tenth."""
        before = next(s for s in self.samples if s[0] > 0)
        for tenth in range(1, 11):
            reached = (s for s in self.samples if s[0] >= trials * tenth // 10)
            now = next(reached, self.samples[-1])
            count = max(1, now[0] - before[0])
            yield now[0], (now[1] - before[1]) / count, (now[2] - before[2]) / count, now[3]
            before = now


def main() -> int:
    """Run the study and print its table; return 1 if a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    trials = parser.parse_args().trials // (2 * REPEATS) * 2 * REPEATS
    with tempfile.TemporaryDirectory() as name:
        xs = tuple(n * REPEATS * 2 / trials for n in range(trials // REPEATS // 2))
        study = kdtune.Study(
            name="many",
            out=name,
            train="many_trials:train",
            space={"x": xs, "alpha": (0.5, 1.0)},
            baseline={"alpha": 1.0},
            epochs=1,
            repeats=REPEATS,
        )
        sampler = Sampler(study.folder / "epochs")
        thread = threading.Thread(target=sampler.run, daemon=True)
        thread.start()
        kdtune.run(study)
        sampler.is_over.set()
        thread.join()
        began = time.monotonic()
        results = kdtune.load(study.folder)
        completed = int((results.trials.status == "completed").sum())
        loaded = time.monotonic()
        write(results, results.default_criterion, study.folder)
        seconds = (loaded - began, time.monotonic() - loaded)
    rows = list(sampler.tenths(trials))
    print("| trials | s per trial | driver's CPU s per trial | driver's MB |")
    print("| ---: | ---: | ---: | ---: |")
    for count, wall, cpu, memory in rows:
        print(f"| {count:,} | {wall:.3f} | {cpu:.4f} | {memory:.0f} |")
    peak, slowdown = max(s[3] for s in sampler.samples) / 1e3, rows[-1][2] / rows[1][2]
    print(f"{completed:,} of {trials:,} trials completed; peak {peak:.2f} GB (limit {LIMIT_GB});")
    print(f"CPU per trial, last tenth over second: {slowdown:.2f} (limit {LIMIT_SLOWDOWN});")
    print(f"load {seconds[0]:.1f} s, report {seconds[1]:.1f} s (limit {LIMIT_REPORT:.0f} s)")
    kept = peak < LIMIT_GB and slowdown < LIMIT_SLOWDOWN and sum(seconds) < LIMIT_REPORT
    return int(not (kept and completed == trials))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
