"""Speed of a study with shared streams compared with separate training loops.

    python experiments/speed.py --data hymenoptera_data

Prints the table of experiments/README.md, in about half an hour on two cores. Each measurement is
written to --out at once; run the same command again to resume after an interruption. Rows with bf16
are left out on CPUs without bf16 instructions.

A plain loop (tests/reference.py, "B1") trains one run after another. Each run decodes, augments and
runs the teacher itself, with one data loader worker, as is common. Both sides use the same number
of threads and are measured alternately, in pairs. The total of plain loops is the time of one run
times the number of runs, which are all alike. The study is measured as a whole, with an empty cache
and including the time to fill it. ResNet50 -> ResNet18 have random weights, which do not affect the
time. A part of the images keeps a row to minutes; totals are proportional to images and epochs.

The limit is the speedup if only the work were done that a study cannot share. It follows from
component times measured in each pair: R streams of (views + teacher + frozen backbone), and the
students' training steps.
"""

import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from overhead import compare, sentence

from kdtune.config.run import Precision, Run, Trainable
from kdtune.config.study import Study
from kdtune.data.sources import load_data
from kdtune.data.views import Views
from kdtune.models.classifier import Classifier
from kdtune.storage.records import read_lines
from kdtune.streams.cache import Cache
from kdtune.streams.views import Resources, has_bf16
from kdtune.training.run import clear_cached_models, distill, make_student
from kdtune.training.teachers import initial_network

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from reference import plain_loop

NOWHERE = Path("no-teacher-folder")
COMMAND = ["data", "teacher", "teacher_weights", "teacher_epochs", "student", "student_weights"]
COMMAND += ["trainable", "precision", "loss", "epochs"]
"""Fields of a run that are flags of the command that is measured."""
COMPONENT_TIMES = 5
"""Measurements of each component for a row, over all its pairs."""
Record = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of the table: a study to time."""

    trainable: Trainable
    configs: int
    repeats: int
    precision: Precision
    must: float | None
    """Required speedup; None: no requirement."""
    images: int
    """Training images; val images are in proportion. Images and epochs are chosen such that the
    start of the runs takes less than 5% of the time of the row."""
    epochs: int
    pairs: int

    @property
    def name(self) -> str:
        """The first cell of the row."""
        what = {"head": "frozen head", "all": "full fine-tuning"}[self.trainable]
        return f"{what} {self.configs} × {self.repeats}, {self.precision}"

    def study(self, data: Path) -> Study:
        """Return a study with three values of alpha and as many learning rates as needed."""
        run = Run(
            data=str(data),
            teacher="resnet50",
            teacher_weights="none",
            teacher_epochs=0,
            student="resnet18",
            student_weights="none",
            trainable=self.trainable,
            batch_norm="train",
            precision=self.precision,
            loss="mse",
            epochs=self.epochs,
        )
        rates = tuple(1e-3 * 1.3**i for i in range(self.configs // 3))
        space = {"alpha": (0.0, 0.5, 1.0), "lr": rates}
        return Study(name="speed", run=run, space=space, repeats=self.repeats)


ROWS = (
    Row("head", 3, 4, "fp32", 4.3, 32, 3, 5),
    Row("head", 3, 4, "bf16", 8.0, 32, 3, 5),
    Row("all", 3, 4, "fp32", 1.8, 32, 2, 5),
    Row("all", 3, 4, "bf16", 3.3, 32, 2, 5),
    Row("head", 30, 10, "fp32", 40.0, 64, 4, 2),
    Row("head", 30, 10, "bf16", None, 64, 4, 2),
)
B0 = "B0"
DEFAULT = "default"
DEFAULT_PAIRS = 3
WHOLE = "whole process"
WHOLE_ROW = Row("head", 3, 4, "fp32", 7.0, 48, 6, 3)
START_OF_RAY = """
import os, secrets
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray writes one into the home folder
import torch, ray
ray.init(num_gpus=0, include_dashboard=False)
"""


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Return wall and CPU seconds of a call, including its data loader workers."""
    wall, cpu = time.perf_counter(), _cpu()
    work()
    return {"wall": time.perf_counter() - wall, "cpu": _cpu() - cpu}


def _cpu() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def over_streams(study: Study) -> None:
    """Run all trials of the study in the order of a search, with empty caches."""
    clear_cached_models()
    with tempfile.TemporaryDirectory() as folder:
        resources = Resources(cache=Cache(folder, 50))
        for run in study.runs():
            for repeat in range(study.repeats):
                list(distill(replace(run, repeat=repeat), NOWHERE, resources))


def plain_run(run: Run, teacher_backward: bool = False) -> None:
    """Run one plain loop with PyTorch's default precision and memory format."""
    fp32 = replace(run, precision="fp32")
    list(plain_loop(fp32, NOWHERE, "cpu", 1, teacher_backward, layout="contiguous"))


def components(run: Run, times: int) -> dict[str, list[float]]:
    """Return `times` measurements of each component, in seconds per image."""
    data = load_data(run)
    index = torch.arange(len(data.splits["train"]))
    views = Views(data.splits["train"], index, run, 224, 0)
    batch = next(views.batches(run.batch_size))
    teacher = initial_network(run, load_data(run)).place(torch.device("cpu"), run.precision)
    teacher.freeze().set_mode(False)
    student = make_student(run, load_data(run)).place(torch.device("cpu"), run.precision)

    def forward(model: Classifier, training: bool, grad: bool) -> float:
        model.set_mode(training)

        def work() -> None:
            with torch.set_grad_enabled(grad):
                logits = model(batch)
                if grad:
                    logits.square().mean().backward()

        return timed(work)["wall"] / len(batch)

    found: dict[str, list[float]] = {}
    for _ in range(times):
        parts = {
            "view": timed(lambda: list(views.batches()))["wall"] / len(index),
            "teacher": forward(teacher, False, False),
            "eval pass": forward(student, False, False),
            "train pass": forward(student, True, run.trainable == "all"),
        }
        for name, value in parts.items():
            found.setdefault(name, []).append(value)
    return found


def limit(row: Row, train: int, val: int, parts: dict[str, float]) -> float:
    """Return the least time of the row's study in seconds.

    The configurations of a repeat share views, the teacher's passes over train (over val there is
    one for all) and the passes of a frozen backbone. Each run has its own training and evaluation
    passes if the whole student is trained; those of a head alone take a thousandth and are ignored.

    Args:
        row: the study.
        train: number of training images.
        val: number of val images.
        parts: seconds per image of each component.
    """
    streams, runs = row.repeats * row.epochs, row.configs * row.repeats * row.epochs
    passes = streams if row.trainable == "head" else runs
    shared = streams * train * (parts["view"] + parts["teacher"]) + val * parts["teacher"]
    return shared + passes * (train * parts["train pass"] + val * parts["eval pass"])


def measure(row: Row, data: Path) -> Record:
    """Measure one pair: a plain loop and the study, and the components."""
    study = row.study(data)
    parts = components(study.run, -(-COMPONENT_TIMES // row.pairs))
    plain = timed(lambda: plain_run(study.run))
    ours = timed(lambda: over_streams(study))
    sizes = {name: len(load_data(study.run).splits[name]) for name in ("train", "val")}
    return {"plain": plain, "ours": ours, "parts": parts, **sizes}


def whole_process(row: Row, data: Path) -> Record:
    """Measure one pair: a plain loop and the command of the study, from its start to its end.

    `first` are the seconds to the first epoch of training, `start` those of a process that imports
    torch and ray and starts Ray.
    """
    study = row.study(data)
    flags = [f"--{n.replace('_', '-')} {getattr(study.run, n)}" for n in COMMAND]
    with tempfile.TemporaryDirectory() as out:
        flags += [f"--name {study.name} --out {out} --cache {out}/cache --repeats {row.repeats}"]
        flags += ["--allow-random-backbone"]  # random weights do not affect the time
        command = f"-m kdtune.search --gpus 0 --alpha 0 0.5 1 {' '.join(flags)}"
        plain = timed(lambda: plain_run(study.run))
        start = timed(lambda: _python("-c", START_OF_RAY))
        began = time.time()
        ours = timed(lambda: _python(*command.split()))
        lines: list[Record] = read_lines(Path(out) / study.name)[0]
    first = min(x["time"] - x["seconds"] for x in lines if "seconds" in x) - began
    return {"plain": plain, "ours": ours, "first": first, "start": start["wall"]}


def _python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)  # noqa: S603


def whole_sentence(pairs: list[Record]) -> str:
    """Return the measurements of whole processes in words, from medians."""
    runs = WHOLE_ROW.configs * WHOLE_ROW.repeats
    plain, ours = (statistics.median(p[k]["wall"] for p in pairs) for k in ("plain", "ours"))
    ratios = [runs * p["plain"]["wall"] / p["ours"]["wall"] for p in pairs]
    first, start = (statistics.median(p[k] for p in pairs) for k in ("first", "start"))
    waits = statistics.median(p["first"] / p["start"] for p in pairs)
    return (
        f"Whole process of {WHOLE_ROW.name}, {WHOLE_ROW.images} photographs, {WHOLE_ROW.epochs} "
        f"epochs: {ours:.1f} s, plain {plain:.1f} × {runs} = {plain * runs:,.0f} s, "
        f"**{statistics.median(ratios):.1f}** times ({min(ratios):.1f}–{max(ratios):.1f}; must: "
        f"{WHOLE_ROW.must:g}). The first run trains after {first:.1f} s, {waits:.1f} times the "
        f"{start:.1f} s of importing torch and ray and starting Ray (must: 2). Medians of "
        f"{len(pairs)}."
    )


def line(row: Row, pairs: list[Record]) -> str:
    """Return a line of the table, from medians over pairs."""
    runs = row.configs * row.repeats
    values = {name: [x for p in pairs for x in p["parts"][name]] for name in pairs[0]["parts"]}
    parts = {name: statistics.median(each) for name, each in values.items()}
    least = limit(row, pairs[0]["train"], pairs[0]["val"], parts)
    plain, ours = (
        {unit: statistics.median(p[side][unit] for p in pairs) for unit in ("wall", "cpu")}
        for side in ("plain", "ours")
    )
    ratios = [runs * p["plain"]["wall"] / p["ours"]["wall"] for p in pairs]
    cells = [
        row.name,
        f"{plain['wall']:.1f} × {runs} = {plain['wall'] * runs:,.0f}",
        f"{ours['wall']:.1f}",
        f"**{statistics.median(ratios):.1f}** ({min(ratios):.1f}–{max(ratios):.1f})",
        f"{plain['cpu'] * runs / ours['cpu']:.1f}",
        "" if row.must is None else f"{row.must:g}",
        f"{plain['wall'] * runs / least:.1f}",
        f"{100 * least / ours['wall']:.0f} %",
        f"{len(pairs)}",
    ]
    return f"| {' | '.join(cells)} |"


def table(records: list[Record]) -> str:
    """Return all measurements as Markdown."""
    lines = [
        "| study | plain, s | kdtune, s | speedup (range) | CPU speedup | required | limit | share "
        "| pairs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    by_row: dict[str, list[Record]] = {}
    for record in records:
        by_row.setdefault(record["row"], []).append(record)
    lines += [line(row, by_row[row.name]) for row in ROWS if row.name in by_row]
    machine = {record["machine"] for record in records}
    lines += ["", f"Measured on: {'; '.join(sorted(machine))}."]
    if B0 in by_row:
        wall = by_row[B0][0]["plain"]["wall"]
        lines.append(
            f"A run of the first row with backpropagation through the teacher (B0): {wall:.1f} s."
        )
    if WHOLE in by_row:
        lines.append(whole_sentence(by_row[WHOLE]))
    if DEFAULT in by_row:
        lines.append(sentence(by_row[DEFAULT]))
    return "\n".join(lines)


def machine() -> str:
    """Return a description of this machine."""
    cpu = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpu)
    name = model[1] if model else platform.machine()
    threads, version = torch.get_num_threads(), torch.__version__
    return f"{name}, {threads} threads on both sides, torch {version}, {time.strftime('%Y-%m-%d')}"


def part_of(data: Path, folder: Path, images: int) -> Path:
    """Link `images` training images and a proportional part of val into a folder, by class."""
    share = images / len(load_data(Run(data=str(data))).splits["train"])
    for label in (label for name in ("train", "val") for label in (data / name).iterdir()):
        files = sorted(label.glob("*.jpg"))
        target = folder / label.relative_to(data)
        target.mkdir(parents=True)
        for file in files[: max(1, round(share * len(files)))]:
            os.symlink(file.absolute(), target / file.name)
    return folder


def work(data: Path, folder: Path) -> list[tuple[str, int, Callable[[], Record]]]:
    """Return row name, number of measurements and function of every row of the table."""
    counts = sorted({row.images for row in (*ROWS, WHOLE_ROW)})
    parts = {n: part_of(data, folder / str(n), n) for n in counts}

    def pair(row: Row) -> Callable[[], Record]:
        return lambda: measure(row, parts[row.images])

    def through_teacher() -> Record:
        run = ROWS[0].study(parts[ROWS[0].images]).run
        return {"plain": timed(lambda: plain_run(run, teacher_backward=True))}

    # bf16 without instructions for it is emulated, which takes about 14 times as long as fp32
    measured = [row for row in ROWS if row.precision == "fp32" or has_bf16()]
    rows = [(row.name, row.pairs, pair(row)) for row in measured]
    whole = partial(whole_process, WHOLE_ROW, parts[WHOLE_ROW.images])
    return [
        (DEFAULT, DEFAULT_PAIRS, lambda: asdict(compare())),
        (WHOLE, WHOLE_ROW.pairs, whole),
        (B0, 1, through_teacher),
        *rows,
    ]


def main() -> None:
    """Make the measurements that --out lacks, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of the hymenoptera data set"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("speed.jsonl"), help="file of measurements"
    )
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of torch"
    )
    parser.add_argument(
        "--only", help="only rows whose name contains this: frozen, bf16, default, whole or B0"
    )
    flags = parser.parse_args()
    flags.out.touch()
    records = [json.loads(text) for text in flags.out.read_text().splitlines()]
    with tempfile.TemporaryDirectory() as folder, flags.out.open("a") as file:
        for name, count, make in work(flags.data, Path(folder)):
            wanted = flags.only is None or flags.only in name
            for _ in range(sum(r["row"] == name for r in records), count if wanted else 0):
                torch.set_num_threads(flags.threads)
                records.append({"row": name, "machine": machine(), **make()})
                print(json.dumps(records[-1]), file=file, flush=True)
                print(f"{name}: measured", file=sys.stderr)
    print(table(records))


if __name__ == "__main__":
    main()
