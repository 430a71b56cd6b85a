r"""Measure the tools of this folder on the same work, and write docs/benchmarks.md.

    python experiments/benchmarks/run.py --torchdistill-python VENV/bin/python
    python experiments/benchmarks/run.py --study ants --data hymenoptera_data --weights WEIGHTS \
        --torchdistill-python VENV/bin/python
    python experiments/benchmarks/run.py --page

torchdistill is in an environment of its own: `pip install torchdistill timm`. Each tool runs as a
process of its own, in turn, on an otherwise idle machine (--busy says that it was not). The rows of
a study in results.csv are replaced when all of its tools have run. All must have trained the same
number of epochs, with a baseline near that of the others.
"""

import argparse
import csv
import io
import json
import os
import platform
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tokenize
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from task import WEIGHTS, Task, make_task

import kdtune

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS, PAGE = HERE / "results.csv", ROOT / "docs" / "benchmarks.md"
FILES = {
    "kdtune": [],
    "plain loop": ["plain.py", "loop.py"],
    "Ray Tune": ["with_ray.py", "loop.py"],
    "Optuna": ["with_optuna.py", "loop.py"],
    "torchdistill": ["torchdistill_run.py", "torchdistill.yaml"],
}
"""What the user of each tool writes beyond data and networks, which are in task.py; for kdtune
it is a command. The first file is run."""
NOISE = 0.08
"""Largest difference of a tool's baseline from the median of all tools, as a share of val.
Of a quick try, with fewer epochs, it is not checked: students that learned little vary."""
COLUMNS = ["study", "tool", "round", "seconds", "lines", "printed", "memory_mb", "runs", "epochs"]
COLUMNS += ["baseline", "best", "best_accuracy", "busy", "machine", "date", "versions"]
Row = dict[str, Any]


def command(
    tool: str, task: Task, folder: Path, other_python: str | None, epochs: int | None
) -> list[str]:
    """Return the command of a tool."""
    if tool != "kdtune":
        python = other_python if tool == "torchdistill" else sys.executable
        given: Row = {"study": task.study, "repeats": task.repeats}
        given |= {"result": folder / "result.json"}
        if epochs is not None:
            given["epochs"] = epochs
        if task.data is not None:
            given |= {"data": task.data, "weights": task.weights}
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        return [str(python), str(HERE / FILES[tool][0]), *words]
    flags = f"--name bench --repeats {task.repeats} --out {folder} --cache {folder}/cache --gpus 0"
    flags += f" --epochs {task.epochs} --teacher-epochs {task.teacher_epochs}"
    if task.data is not None:
        alphas = " ".join(str(alpha) for alpha, _ in task.settings)
        recipe = f"lr {task.lr} weight-decay 0.01 schedule onecycle optimizer adamw trainable head"
        recipe += f" batch-size {task.batch_size}"
        pairs = [*zip(recipe.split()[::2], recipe.split()[1::2], strict=True)]
        pairs += [(f"teacher-{name}", value) for name, value in pairs]
        for role, name in WEIGHTS.items():
            pairs += [(role, f"timm/{name}")]
            pairs += [(f"{role}-weights", f"{task.weights}/{name}.safetensors")]
        flags += f" --data {task.data} --image-size 160 --alpha {alphas} --temperature 4"
        flags += " --eval-crop 0.875 --eval-interpolation bilinear"
        flags += "".join(f" --{name} {value}" for name, value in pairs)
    return [sys.executable, "-m", "kdtune.search", *flags.split()]


def measure(tool: str, task: Task, other_python: str | None, epochs: int | None) -> Row:
    """Run a tool as a process of its own and return what was measured."""
    # Ray writes a token into the home folder unless it is given one
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with tempfile.TemporaryDirectory() as name:
        folder, began = Path(name), time.perf_counter()
        with (folder / "printed").open("wb") as printed:
            words = command(tool, task, folder, other_python, epochs)
            process = subprocess.Popen(  # noqa: S603
                words, cwd=folder, env=environment, stdout=printed, stderr=subprocess.STDOUT
            )
            ended = threading.Event()
            peaks = [0.0]
            watch = threading.Thread(target=watch_memory, args=(process.pid, ended, peaks))
            watch.start()
            code = process.wait()
            seconds = time.perf_counter() - began
            ended.set()
            watch.join()
        text = (folder / "printed").read_text("utf-8", "replace")
        if code:
            sys.exit(f"{tool} ended with exit code {code}:\n{text[-3000:]}")
        runs = outcomes(tool, folder)
    by_setting: dict[tuple[float, float], list[float]] = {}
    for alpha, temperature, _, scores in runs:
        key = (alpha, temperature if alpha < 1 else 1.0)
        by_setting.setdefault(key, []).append(scores[-1])
    means = {key: statistics.mean(last) for key, last in by_setting.items()}
    alpha, temperature = max((key for key in means if key[0] < 1), key=lambda key: means[key])
    return {
        "study": task.study,
        "tool": tool,
        "seconds": f"{seconds:.1f}",
        "lines": sum(code_lines(HERE / file) for file in FILES[tool]) or 1,
        "printed": len(text.splitlines()),
        "memory_mb": round(peaks[0] / 1e6),
        "runs": len(runs),
        "epochs": sum(len(scores) for *_, scores in runs),
        "baseline": f"{means[1.0, 1.0]:.4f}",
        "best": f"alpha {alpha:g}, T {temperature:g}",
        "best_accuracy": f"{means[alpha, temperature]:.4f}",
    }


def watch_memory(pid: int, ended: threading.Event, peaks: list[float]) -> None:
    """Note the largest memory of a process and its descendants, shared pages counted once."""
    while not ended.wait(1):
        total = 0
        try:
            family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        except psutil.Error:
            continue
        for process in family:
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
        peaks[0] = max(peaks[0], total)


def outcomes(tool: str, folder: Path) -> list[tuple[float, float, int, list[float]]]:
    """Return alpha, temperature, repeat and accuracies on val of each student."""
    if tool != "kdtune":
        found = json.loads((folder / "result.json").read_text())
        return [(x["alpha"], x["temperature"], x["repeat"], x["accuracies"]) for x in found]
    epochs = kdtune.load(str(folder / "bench")).epochs
    epochs = epochs[epochs["split"] == "val"].sort_values("epoch")
    return [
        (of_it["config/alpha"].iloc[0], of_it["config/temperature"].iloc[0], r, [*of_it["acc"]])
        for (_, r), of_it in epochs.groupby(["trial_id", "repeat"])
    ]


def code_lines(file: Path) -> int:
    """Return the number of lines of code, without comments, docstrings and blank lines."""
    text = file.read_text("utf-8")
    if file.suffix != ".py":
        return sum(1 for x in text.splitlines() if x.strip() and not x.strip().startswith("#"))
    lines: set[int] = set()
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    quiet |= {tokenize.ENDMARKER, tokenize.ENCODING}
    begins = True
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in quiet and not (token.type == tokenize.STRING and begins):
            lines.update(range(token.start[0], token.end[0] + 1))
        begins = token.type in quiet
    return len(lines)


def check(rows: list[Row], task: Task) -> None:
    """Exit with a message unless all tools have done the same work."""
    runs = len(task.settings) * task.repeats
    middle = statistics.median(float(row["baseline"]) for row in rows)
    for row in rows:
        done = (int(row["runs"]), int(row["epochs"]))
        if done != (runs, runs * task.epochs):
            sys.exit(f"{row['tool']}: {done} runs and epochs, must be {runs, runs * task.epochs}")
        is_quick = task.epochs < make_task(task.study, 2, task.result, None, None).epochs
        if abs(float(row["baseline"]) - middle) > NOISE and not is_quick:
            sys.exit(f"{row['tool']}: baseline {row['baseline']}, of all tools {middle}")


def names(rows: list[Row]) -> set[tuple[str, str]]:
    """Return study and tool of each row."""
    return {(row["study"], row["tool"]) for row in rows}


def read() -> list[Row]:
    """Return the rows of results.csv."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(rows: list[Row]) -> None:
    """Write results.csv."""
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def machine() -> str:
    """Return processor and number of cores."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cores = len(os.sched_getaffinity(0))
    return f"{cpu[1] if cpu else platform.machine()}, {cores} cores"


def versions(other_python: str | None) -> str:
    """Return the versions of the tools."""
    found = {"kdtune": kdtune.__version__, "torch": torch.__version__}
    found |= {name: version(name) for name in ("ray", "optuna")}
    if other_python:
        ask = "from importlib.metadata import version; print(version('torchdistill'))"
        words = [other_python, "-c", ask]
        text = subprocess.run(words, check=True, capture_output=True, text=True).stdout  # noqa: S603
        found["torchdistill"] = text.strip()
    return ", ".join(f"{name} {number}" for name, number in found.items())


def main() -> None:
    """Measure a study, or write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--study", choices=["default", "ants"], default="default")
    parser.add_argument("--data", type=Path, help="folder of ants and bees")
    parser.add_argument("--weights", type=Path, help="folder of the two files of weights")
    parser.add_argument(
        "--only", nargs="+", choices=FILES, help="tools, whose rows are replaced; by default all"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of students and teacher, for a quick try")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each tool")
    parser.add_argument("--torchdistill-python", help="Python of an environment with torchdistill")
    parser.add_argument("--busy", action="store_true", help="the machine does other work, too")
    parser.add_argument("--page", action="store_true", help="write the page and measure nothing")
    args = parser.parse_args()
    if not args.page:
        data, weights = (p and p.absolute() for p in (args.data, args.weights))
        result = Path("result.json")
        task = make_task(args.study, args.repeats, result, data, weights, args.epochs)
        common = {"busy": "yes" if args.busy else "no", "machine": machine()}
        common |= {
            "date": time.strftime("%Y-%m-%d"),
            "versions": versions(args.torchdistill_python),
        }
        tools = [x for x in args.only or FILES if x != "torchdistill" or args.torchdistill_python]
        rows: list[Row] = []
        for number in range(args.rounds):
            for tool in tools:
                row = measure(tool, task, args.torchdistill_python, args.epochs)
                rows.append(row | common)
                rows[-1]["round"] = number
                print({name: rows[-1][name] for name in COLUMNS[1:12]}, flush=True)
        others = [row for row in read() if (row["study"], row["tool"]) not in names(rows)]
        check([*(row for row in others if row["study"] == args.study), *rows], task)
        write(sorted([*others, *rows], key=lambda row: (row["study"], [*FILES].index(row["tool"]))))
    from page import page

    PAGE.write_text(page(read()), "utf-8")


if __name__ == "__main__":
    main()
