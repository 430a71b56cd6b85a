"""Throughput of a GPU in kdtune, and the share of what the GPU could do.

    python experiments/gpu_check.py                        # a CUDA GPU, a few minutes
    python experiments/gpu_check.py --device mps
    python experiments/gpu_check.py --device cpu --small   # the same code on a CPU, in seconds

Prints one table in Markdown, with the name of the card and the versions. Images per second of

- teacher: inference on views that are in the GPU's memory, as many at a time as a run takes;
- limit: the student's training step on a batch that is in the GPU's memory;
- first run: an epoch of a run that also decodes the images and runs the teacher;
- later runs: an epoch of a run whose views and logits are in the cache. Four trials on a GPU are
  four processes that run at the same time; their sum counts.

The share of the limit is that of later runs, of which a study has many more than first ones.
torch.compile is measured for teacher and limit alone; kdtune does not use it, since it moves the
last bits and takes a minute to compile. The data are generated photographs in files, the weights
are random: neither affects the time.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kdtune import __version__
from kdtune.config.cli import run_and_exit
from kdtune.config.run import Precision, Run
from kdtune.config.study import Device, Study
from kdtune.data.sources import load_data
from kdtune.streams.cache import device_name
from kdtune.streams.views import (
    Resources,
    check_gpus,
    count_gpus,
    local_cpus,
)
from kdtune.training.recipe import resolve
from kdtune.training.run import OneBatch, distill

NOWHERE = Path("no-teacher-folder")
BARRIER_SECONDS = 600.0
CLASSES = 4
VAL_PER_CLASS = 2
"""So few that the evaluation takes no time beside the training."""
HEADER = (
    "precision",
    "compile",
    "trials per GPU",
    "teacher",
    "limit",
    "first run",
    "later runs",
    "share of the limit",
    "GPU memory, GB",
)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    images: int
    """Training images."""
    side: int
    """Side of the images in pixels; views have 7/8 of it."""
    batch: int
    epochs: int
    seconds: float
    """Time for which a step is repeated."""
    trials: tuple[int, ...]
    backend: str
    """Of torch.compile."""
    teacher: str = "resnet50"
    student: str = "resnet18"


FULL = Size(2048, 256, 64, 6, 3.0, (1, 4), "inductor")
SMALL = Size(16, 16, 8, 2, 0.0, (1, 2), "eager", "gpu_check:tiny", "gpu_check:tiny")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    precision: Precision
    compiled: bool = False
    trials: int = 1


def tiny(classes: int) -> nn.Module:
    """Return a model for --small."""
    layers = (nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
    return nn.Sequential(*layers)


Found = dict[str, float]
_barrier: Any = None


def rows(size: Size) -> list[Row]:
    """Return the lines of the table."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
    return [
        row
        for precision in precisions
        for row in (
            *(Row(precision, trials=trials) for trials in size.trials),
            Row(precision, compiled=True),
        )
    ]


def write_photos(folder: Path, size: Size) -> None:
    """Write photographs with as much detail as real ones have: noise of a quarter of the pixels."""
    rng = np.random.default_rng(0)
    for split, count in (("train", size.images // CLASSES), ("val", VAL_PER_CLASS)):
        for label in range(CLASSES):
            place = folder / split / str(label)
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (size.side // 2, size.side // 2, 3), dtype=np.uint8)
                image = Image.fromarray(pixels).resize((size.side, size.side))
                image.save(place / f"{i}.jpg", quality=90)


def study_of(row: Row, size: Size, folder: Path, device: Device) -> Study:
    """Return a study whose trials share the GPU as the row says, with its cores among them."""
    run = Run(
        data=str(folder / "photos"),
        image_size=size.side * 7 // 8,
        teacher=size.teacher,
        teacher_weights="none",
        teacher_epochs=0,
        student=size.student,
        student_weights="none",
        precision=row.precision,
        batch_size=size.batch,
        epochs=size.epochs,
    )
    return Study(
        name="gpu-check",
        run=run,
        device=device,
        cache=str(folder / "cache"),
        gpus_per_trial=1 / row.trials,
        cpus_per_trial=1 if device == "cpu" else max(1, local_cpus() // row.trials),
    )


def per_second(
    device: torch.device, images: int, work: Callable[[], object], seconds: float
) -> float:
    """Return the images per second of a piece of work, repeated for so long, after a warm-up."""
    for _ in range(3):
        work()
    synchronize(device)
    began, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - began < seconds:
        for _ in range(5):
            work()
        count += 5
        synchronize(device)
    return count * images / (time.perf_counter() - began)


def synchronize(device: torch.device) -> None:
    """Wait until the GPU has done all that it was given."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def measure_steps(study: Study, row: Row, size: Size) -> Found:
    """Return the throughput of teacher and training step on data in the memory of the device."""
    resources = Resources.of(study)
    device = resources.device
    torch.set_num_threads(resources.threads)
    run = resolve(study.run)
    one = OneBatch.of(run, load_data(run), device)
    if row.compiled:
        for model in (*one.teacher, one.training.student):
            model.net.compile(backend=size.backend)
    steps: Iterator[Tensor] = one.steps()
    count, inference = len(one.inference), one.inference
    return {
        "teacher": per_second(device, count, lambda: one.infer(inference), size.seconds),
        "limit": per_second(device, study.run.batch_size, lambda: next(steps), size.seconds),
    }


def measure_run(study: Study, repeat: int, folder: Path) -> Found:
    """Return the throughput of a run's epochs after the first, while the other trials run, too."""
    resources = Resources.of(study)
    torch.set_num_threads(resources.threads)
    epochs = distill(replace(study.run, repeat=repeat), NOWHERE, resources, folder)
    first = next(epochs)
    _barrier.wait(BARRIER_SECONDS)
    began = time.perf_counter()
    *_, ended = (time.perf_counter() for _ in epochs)  # before the run's last files are written
    seconds = (ended - began) / (study.run.epochs - 1)
    images = first.splits["train"]["n_examples"] or 0
    cuda = resources.device.type == "cuda"
    memory = torch.cuda.max_memory_reserved() / 1e9 if cuda else 0.0
    return {"images": images / seconds, "memory": memory}


def describe(device: torch.device) -> str:
    """Return the name of the card and the versions."""
    parts = [device_name(device), f"{local_cpus()} cores", f"torch {torch.__version__}"]
    if device.type == "cuda":
        parts += [f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}"]
    return ", ".join([*parts, f"kdtune {__version__}", time.strftime("%Y-%m-%d")])


def _set_barrier(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def in_processes(function: Callable[..., Any], jobs: list[tuple[Any, ...]]) -> list[Any]:
    """Return what the function answers to each job, each in a process of its own, at a time.

    This process never uses the GPU, so its children may be forked and need not import torch again.
    """
    context: Any = get_context("fork" if sys.platform == "linux" else "spawn")
    barrier = context.Barrier(len(jobs))
    with context.Pool(len(jobs), _set_barrier, (barrier,)) as pool:
        return list(pool.starmap(function, jobs, chunksize=1))


def measure(row: Row, size: Size, folder: Path, device: Device) -> Found:
    """Measure one line of the table."""
    study = study_of(row, size, folder, device)
    found: Found = {}
    if row.trials == 1:
        found |= in_processes(measure_steps, [(study, row, size)])[0]
    if row.compiled:
        return found
    places = [folder / f"{row.precision}-{row.trials}-{i}" for i in range(row.trials)]
    if row.trials == 1:
        (first,) = in_processes(measure_run, [(study, 0, folder / f"{row.precision}-first")])
        found["first run"] = first["images"]
    later = in_processes(measure_run, [(study, 0, place) for place in places])
    found["later runs"] = sum(own["images"] for own in later)
    found["memory"] = sum(own["memory"] for own in later)
    return found


def line(row: Row, found: Found, limit: float) -> str:
    """Return one line of the table.

    Args:
        row: What was measured.
        found: Its measurements.
        limit: Of one trial in the same precision, without torch.compile.
    """
    names = ("teacher", "limit", "first run", "later runs")
    cells = [row.precision, "yes" if row.compiled else "no", f"{row.trials}"]
    cells += [f"{found[name]:,.0f}" if name in found else "" for name in names]
    cells.append(f"{100 * found['later runs'] / limit:.0f} %" if "later runs" in found else "")
    cells.append(f"{found['memory']:.1f}" if found.get("memory") else "")
    return f"| {' | '.join(cells)} |"


def table(measured: dict[Row, Found]) -> str:
    """Return all measurements as Markdown; units are images per second unless said."""
    lines = [f"| {' | '.join(HEADER)} |", f"|{'---|' * len(HEADER)}"]
    for row, found in measured.items():
        lines.append(line(row, found, measured[Row(row.precision)]["limit"]))
    return "\n".join(lines)


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "mps", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="a few images, to test this program")
    parser.add_argument("--teacher", help="default: resnet50")
    parser.add_argument("--student", help="default: resnet18")
    parser.add_argument("--batch-size", type=int, help="default: 64")
    flags = parser.parse_args()
    given = {"teacher": flags.teacher, "student": flags.student, "batch": flags.batch_size}
    size = SMALL if flags.small else FULL
    size = replace(size, **{name: value for name, value in given.items() if value is not None})
    asked = Study(device=flags.device)
    check_gpus(asked, count_gpus(asked))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "photos", size)
        measured: dict[Row, Found] = {}
        for row in rows(size):
            measured[row] = measure(row, size, folder, flags.device)
            print(f"{row}: measured", file=sys.stderr)
        (about,) = in_processes(describe, [(torch.device(flags.device),)])
    models = f"{size.teacher} -> {size.student}, batch {size.batch}, {size.side * 7 // 8} pixels"
    print(f"{table(measured)}\n\nImages per second, {models}; {about}.")
    return 0


if __name__ == "__main__":
    run_and_exit(main)
