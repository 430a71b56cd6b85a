"""Make the stored studies of the goldens anew: tiny studies under a real Ray, then stripped.

    python tests/goldens/make_studies.py [NAME ...]

Their numbers then change (latencies, dates), so write the goldens anew, too. Run it only to add a
study, or when the format of the records has changed.
"""

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TESTS = HERE.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])  # of Ray's workers
os.environ.setdefault("RAY_enable_metrics_collection", "0")

import numpy as np  # noqa: E402 - found through the path above
import pandas as pd  # noqa: E402
from study_folders import RUN, cost, draw, grid, make, write_predictions  # noqa: E402
from tiny_run import TINY  # noqa: E402

import kdtune  # noqa: E402
from kdtune import Range, Run, Study  # noqa: E402
from kdtune import teacher as teacher_command  # noqa: E402
from kdtune.config.records import write_costs  # noqa: E402
from kdtune.raytune.session import ray_session  # noqa: E402

STUDIES = HERE / "studies"
SMALL = "factories:tiny_student"
OTHER = "factories:dropout_student"
RUNS = "runs"
OF_RUN = {field.name for field in fields(Run)}
KEPT = ("study.json", "provenance.json", "costs.json", "predictions.parquet")
"""Files of a study that its analysis reads, beside the records and those of `strip`."""
WITH_STUDENTS = ("schema_4",)
"""Studies whose students' weights are kept, for the model card."""
MACHINE = {"system": "Linux 6.1", "processor": "Some CPU", "cores": 2}


def study(name: str, space: dict[str, Any], **own: Any) -> Study:
    """Return a study of the tiny run; fields of `Run` may be given among the others."""
    of_run = {n: own.pop(n) for n in list(own) if n in OF_RUN}
    run = replace(TINY, **{"epochs": 2, "train_images": 200, "teacher_epochs": 2} | of_run)
    return Study(**{"name": name, "out": RUNS, "cache": "cache", "run": run, "space": space} | own)


def studies() -> Iterator[Study]:
    """Yield the studies that Ray runs."""
    # five configurations with a few repeats, and their students
    space: dict[str, Any] = {"alpha": (0.1, 0.5, 1.0), "temperature": (1.0, 4.0)}
    yield study("schema_4", space, repeats=3, epochs=4, train_images=300)
    two = {"alpha": (0.2, 1.0)}
    yield study("folds", two, folds=3, repeats=3)
    yield study("teachers", two, teachers=3, repeats=6)
    space = {"student": (SMALL, OTHER), "alpha": (0.1, 0.6, 1.0)}
    yield study("race", space, policy="race", repeats=3, confirm=1)
    yield study("auto", two, repeats=2, until_decided=True, budget="12runs")
    space = {"student": (SMALL, OTHER), "alpha": (0.2, 1.0), "lr": (3e-3, 3e-2)}
    yield study("students", space, repeats=2, max_params=1000)
    # ranges, some of whose runs are pruned or diverge
    space = {"alpha": Range(0.01, 0.9), "lr": Range(1e-5, 10, log=True), "loss": ("kl", "mse")}
    yield study("tpe", space, search="tpe", samples=10, repeats=2, stop_early=True, epochs=4)
    space = {"alpha": (0.5, 0.75, 1.0), "depth": (1, 2)}
    own: dict[str, Any] = {"baseline": {"alpha": 1.0}, "unless": {"depth": {"alpha": 1.0}}}
    own |= {"name": "own_function", "out": RUNS, "repeats": 3, "epochs": 3}
    yield Study(train="own_functions:wave", space=space, **own)
    # a network and the file of its outputs as teachers
    base = study("dump", {}, augment="none", teacher_epochs=0)
    assert teacher_command.main(replace(base, dump="outputs.parquet")) == 0
    space = {"teacher": (TINY.teacher, "outputs.parquet"), "alpha": (0.2, 1.0)}
    yield replace(base, name="file_teacher", space=space, repeats=2)
    # token ids, which are no images
    own = {"data": "own_data:text", "train_images": None, "teacher": "own_data:encoder"}
    yield study("text", two, **own, student="own_data:small_reader", repeats=3)
    yield study("killed", {"alpha": (0.1, 0.5, 1.0)}, repeats=3)


def kill(folder: Path) -> None:
    """Cut the records as a kill does: runs without an end, a part of a line, a failed run."""
    (file,) = (folder / "epochs").glob("*.jsonl")
    lines = file.read_text().splitlines()
    ends = [k for k, line in enumerate(lines) if json.loads(line)["kind"] == "end"]
    failed = json.loads(lines[ends[2]]) | {"status": "failed", "error": "ValueError: boom"}
    lines[ends[2]] = json.dumps(failed)
    del lines[ends[1]]  # the driver died before it wrote this one
    cut = ends[5] + 2
    file.write_text("\n".join(lines[:cut]) + "\n" + lines[cut][:40])
    for name in ("predictions.parquet", "students"):
        place = folder / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()


def decided() -> None:
    """Make a study with clear differences: eight repeats, costs and correctness per image."""
    runs = grid((0.1, 0.5, 1.0), temperature=(1.0, 4.0))
    effects = {run: 0.05 * (run.alpha == 0.1) + 0.02 * (run.alpha == 0.5) for run in runs}
    made = make(Path(RUNS) / "decided", draw(effects, 8, sd=0.006), name="decided", out=RUNS)
    costs = [cost(RUN.student), cost(RUN.teacher, "teacher", 24_314, 0.9)]
    write_costs(made.folder, costs)
    write_predictions(made, wrong_together=0.5)


def strip(folder: Path, target: Path) -> None:
    """Copy what the analysis of a study reads; files whose content it does not read are empty."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in KEPT:
        if (folder / name).exists():
            shutil.copy(folder / name, target / name)
    for name in ("epochs", "thumbnails"):
        if (folder / name).exists():
            shutil.copytree(folder / name, target / name)
    for file in folder.glob("teacher/**/*.json"):
        _put(target / file.relative_to(folder), file)
    for file in folder.glob("students/*"):
        whole = file.suffix == ".json" or folder.name in WITH_STUDENTS
        _put(target / file.relative_to(folder), file if whole else None)
    for trial in folder.glob("trials/*"):
        _put(target / trial.relative_to(folder) / ".gitkeep")
    if (predictions := target / "predictions.parquet").exists():
        _pack(predictions)
    _anonymise(target)


def _put(place: Path, source: Path | None = None) -> None:
    """Copy a file to a place; without one the file there is empty."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(source.read_bytes() if source else b"")


def _pack(file: Path) -> None:
    """Write a file of predictions as small as possible, with numbers of 7 binary digits."""
    frame = pd.read_parquet(file)
    # an export compares the predictions of students with their own, to all digits
    for name in frame.select_dtypes("floating") if file.parent.name not in WITH_STUDENTS else ():
        mantissa, exponent = np.frexp(frame[name].to_numpy())
        frame[name] = np.ldexp(np.round(mantissa * 128) / 128, exponent).astype(frame[name].dtype)
    frame.to_parquet(file, index=False, compression="zstd", compression_level=19)


def _anonymise(target: Path) -> None:
    """Replace what names this machine: its folders, its processor, itself."""
    for file in (f for f in target.rglob("*") if f.suffix in (".json", ".jsonl")):
        text = file.read_text()
        for place in (Path.cwd(), TESTS.parent):
            text = text.replace(f"{place}/", "")
        text = re.sub(r'"node": "[^"]*"', '"node": "node1"', text)
        file.write_text(re.sub(r'"hardware": "[^"]*"', '"hardware": "Some CPU"', text))
    provenance = target / "provenance.json"
    if provenance.exists():
        values = json.loads(provenance.read_text()) | {"machine": MACHINE}
        values["command"] = ["python", "-m", "kdtune.search", f"{target.name}.py"]
        provenance.write_text(json.dumps(values, indent=1))


def main(names: list[str]) -> None:
    """Make the studies of these names; all without names."""
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        init = {"num_cpus": 2, "include_dashboard": False}
        with ray_session(Study(gpus=0), init):
            for asked in studies():
                if not names or asked.name in names:
                    kdtune.run(replace(asked, gpus=0))
                    if asked.name == "killed":
                        kill(asked.folder)
                    strip(asked.folder, STUDIES / asked.name)
        if not names or "decided" in names:
            decided()
            strip(Path(RUNS) / "decided", STUDIES / "decided")


if __name__ == "__main__":
    main(sys.argv[1:])
