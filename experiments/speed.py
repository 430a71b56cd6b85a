"""How much faster is a study over streams than a plain loop? Side by side, on one machine.

    python experiments/speed.py --data hymenoptera_data
    python experiments/speed.py --default

The plain loop (tests/reference.py, "B1") trains one run after another, decodes, augments and runs
the teacher in each of them, with one loader worker: what people write. Both sides have the same
threads. Its total is one run's median time by the number of runs, which are all alike; that of the
study is measured whole, cold, building included. ResNet50 -> ResNet18 from random weights: the
weights do not matter to time. A part of the images keeps a row to minutes; the share of train and
val is that of the data, and the total follows in proportion to images and epochs.

The limit is what remains when all is computed that a study cannot share, and nothing else, from
component times measured in the same call: R streams of (views + teacher + frozen backbone), and
the students' own steps.
"""

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdtune.cache import Cache
from kdtune.cli import fashion
from kdtune.config import Run, Study
from kdtune.data import load_data
from kdtune.distill import _teacher_at_hand, distill, make_student
from kdtune.models import Classifier
from kdtune.resources import Resources
from kdtune.results import read_lines
from kdtune.search import run as search
from kdtune.teacher import fine_tune, load_teacher
from kdtune.views import Views

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from reference import plain_loop

NOWHERE = Path("no-teacher-folder")
BASE = Run(
    teacher="resnet50",
    teacher_weights="none",
    teacher_epochs=0,
    student="resnet18",
    student_weights="none",
    loss="mse",
)


@dataclass(frozen=True)
class Row:
    """One line of the table: a study to time."""

    name: str
    run: Run
    configs: int
    repeats: int

    def study(self) -> Study:
        """Three alphas by as many learning rates as it takes."""
        rates = tuple(1e-3 * 1.3**i for i in range(self.configs // 3))
        space = {"alpha": (0.0, 0.5, 1.0), "lr": rates}
        return Study(name="speed", run=self.run, space=space, repeats=self.repeats)


ROWS = [
    Row(f"{what} {configs} x {repeats}, {precision}", run, configs, repeats)
    for precision in ("fp32", "bf16")
    for what, trainable, configs, repeats in (
        ("frozen head", "head", 3, 4),
        ("frozen head", "head", 30, 10),
        ("full fine-tuning", "all", 3, 4),
    )
    for run in [replace(BASE, trainable=trainable, precision=precision)]  # type: ignore[arg-type]
]


@dataclass(frozen=True)
class Seconds:
    """What something took."""

    wall: float
    cpu: float


def timed(work: Callable[[], object]) -> Seconds:
    """Wall and CPU seconds of the work, those of its loader workers included."""
    wall, cpu = time.perf_counter(), _cpu()
    work()
    return Seconds(time.perf_counter() - wall, _cpu() - cpu)


def _cpu() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def median(of: list[Seconds]) -> Seconds:
    """The median of each."""
    return Seconds(*(statistics.median(getattr(s, n) for s in of) for n in ("wall", "cpu")))


def over_streams(study: Study) -> None:
    """Every run of the study, in the order of a search, with a cold cache of its own."""
    _teacher_at_hand.cache_clear()
    with tempfile.TemporaryDirectory() as folder:
        resources = Resources(cache=Cache(folder, 50), repeats=study.repeats)
        for run in study.runs():
            for repeat in range(study.repeats):
                list(distill(replace(run, repeat=repeat), NOWHERE, resources))


def one_plain_run(run: Run) -> None:
    """One run of the plain loop, with plain PyTorch's precision and memory format."""
    list(plain_loop(replace(run, precision="fp32"), NOWHERE, workers=1, layout="contiguous"))


def limit(row: Row, parts: dict[str, float]) -> float:
    """Seconds that the row's study must take: research formula, component times measured here."""
    run, data = row.run, load_data(row.run.data)
    train, val = (len(data.splits[s]) for s in ("train", "val"))
    streams, runs = row.repeats * run.epochs, row.configs * row.repeats * run.epochs
    shared = streams * train * (parts["view"] + parts["teacher"]) + val * parts["teacher"]
    if run.trainable == "head":
        return shared + streams * (train * parts["train pass"] + val * parts["eval pass"])
    return shared + runs * (train * parts["step"] + val * parts["eval pass"])


def components(run: Run) -> dict[str, float]:
    """Seconds an image of each part, medians of several batches; views once."""
    data = load_data(run.data)
    index = torch.arange(len(data.splits["train"]))
    views = Views(data.splits["train"], index, run, 224, 0)
    seconds = timed(lambda: list(views.batches()))
    batch = next(views.batches(run.batch_size))
    teacher = load_teacher(run, NOWHERE).place(torch.device("cpu"), run.precision)
    teacher.freeze().set_mode(False)
    student = make_student(run).place(torch.device("cpu"), run.precision)

    def forward(model: Classifier, training: bool, grad: bool) -> float:
        model.set_mode(training)

        def work() -> None:
            with torch.set_grad_enabled(grad):
                logits = model(batch)
                if grad:
                    logits.square().mean().backward()

        return median([timed(work) for _ in range(7)]).wall / len(batch)

    return {
        "view": seconds.wall / len(index),
        "teacher": forward(teacher, False, False),
        "eval pass": forward(student, False, False),
        "train pass": forward(student, True, False),
        "step": forward(student, True, True),
    }


def measure(row: Row, pairs: int) -> str:
    """One line of the table: plain runs and studies in turn."""
    study, plain, streamed = row.study(), [], []
    before = components(row.run)
    for _ in range(pairs):
        plain.append(timed(lambda: one_plain_run(study.run)))
        streamed.append(timed(lambda: over_streams(study)))
    plain.append(timed(lambda: one_plain_run(study.run)))
    after = components(row.run)  # the machine may have been busy: each part at its fastest
    parts = {name: min(before[name], after[name]) for name in before}
    runs = row.configs * row.repeats
    one, ours, least = median(plain), median(streamed), limit(row, parts)
    cells = [
        row.name,
        f"{one.wall:.1f} x {runs} = {one.wall * runs:.0f}",
        f"{ours.wall:.1f}",
        f"{one.wall * runs / ours.wall:.1f}",
        f"{one.cpu * runs / ours.cpu:.1f}",
        f"{one.wall * runs / least:.1f}",
        f"{100 * least / ours.wall:.0f} %",
    ]
    print(" ".join(f"{k} {1e3 * v:.1f} ms" for k, v in parts.items()), file=sys.stderr)
    return f"| {' | '.join(cells)} |"


def seed_style(run: Run) -> str:
    """A plain run as the starting repository wrote it ("B0"): back through the teacher, too."""
    fp32 = replace(run, precision="fp32")
    loop = plain_loop(fp32, NOWHERE, workers=1, teacher_backward=True, layout="contiguous")
    return f"B0, one run of the first row: {timed(lambda: list(loop)).wall:.1f} s"


def default_study() -> str:
    """The default study under Ray, cold: from first to last epoch, against its runs alone."""
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(1)
    study = fashion()
    with tempfile.TemporaryDirectory() as name:
        study = replace(study, out=name, cache=f"{name}/cache", gpus=0)
        list(fine_tune(study.run, study.folder / "teacher", Resources.of(study)))
        search(study)
        epochs = [line for line in read_lines(study.folder)[0] if line["kind"] == "epoch"]
        first = min(line["time"] - line["seconds"] for line in epochs)
        wall = max(line["time"] for line in epochs) - first
        alone = [  # over warm streams, so nothing but training
            timed(partial(over_warm_streams, run, study)) for run in study.runs()
        ]
        plain = [timed(lambda: list(plain_loop(study.run, study.folder / "teacher"))).wall]
    pure = statistics.mean(s.wall for s in alone) * len(epochs_of(epochs)) / cores
    naive = plain[0] * len(epochs_of(epochs)) / cores
    return (
        f"default study: {wall:.1f} s from first to last epoch on {cores} cores, "
        f"{wall / pure:.2f} times its pure training time ({pure:.1f} s); "
        f"plain loops on all cores {naive:.1f} s, {naive / wall:.2f} times as long"
    )


def over_warm_streams(run: Run, study: Study) -> None:
    """One run whose streams are all built."""
    list(distill(run, study.folder / "teacher", Resources.of(study)))


def epochs_of(lines: list[dict[str, Any]]) -> set[str]:
    """The trials that the lines are of."""
    return {line["trial_id"] for line in lines}


def part_of(data: Path, folder: Path, images: int) -> Path:
    """A folder with links to `images` of train and, in proportion, of val, evenly over classes."""
    whole = load_data(str(data))
    share = images / len(whole.splits["train"])
    for name in ("train", "val"):
        split = whole.splits[name]
        for k, label in enumerate(whole.classes):
            files = [f for f, y in zip(split.images, split.labels, strict=True) if y == k]
            (folder / name / label).mkdir(parents=True)
            for file in files[: max(1, round(share * len(files)))]:
                os.symlink(Path(file).absolute(), folder / name / label / Path(file).name)
    return folder


def main() -> None:
    """Measure the rows asked for and print them as they come."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="the hymenoptera photographs")
    parser.add_argument("--default", action="store_true", help="the default study instead")
    parser.add_argument("--b0", action="store_true", help="a run as the original wrote it instead")
    parser.add_argument("--images", type=int, default=64, help="training images used")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=1, help="plain run and study in turn")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rows", nargs="*", type=int, default=range(len(ROWS)))
    flags = parser.parse_args()
    if flags.default:
        print(default_study())
        return
    if flags.data is None:
        parser.error("--data is needed for the photographs' rows")
    torch.set_num_threads(flags.threads)
    if not flags.b0:
        print("| study | plain runs, s | streams, s | ratio | CPU ratio | limit | share |")
        print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        data = part_of(flags.data, Path(folder), flags.images)
        if flags.b0:
            run = replace(ROWS[0].run, data=str(data), epochs=flags.epochs)
            print(seed_style(run))
            return
        for number in flags.rows:
            row = ROWS[number]
            run = replace(row.run, data=str(data), epochs=flags.epochs)
            print(measure(replace(row, run=run), flags.pairs), flush=True)


if __name__ == "__main__":
    main()
