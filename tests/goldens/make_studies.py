"""Make the stored studies of the goldens anew: tiny studies under a real Ray, then stripped.

    python tests/goldens/make_studies.py [NAME ...]

Their numbers then change (latencies, dates), so write the goldens anew, too. Run it only to add a
study, or when the format of the records has changed.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
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
KEPT += ("epochs", "thumbnails")
"""Files and folders of a study that its analysis reads, beside those that `strip` names."""
WITH_STUDENTS = ("schema_4",)
"""Studies whose students' weights are kept, for the model card."""
MACHINE = {"system": "Linux 6.1", "processor": "Some CPU", "cores": 2}


def study(name: str, space: dict[str, Any], **own: Any) -> Study:
    """Return a study of the tiny run; fields of `Run` may be given among the others."""
    of_run = {n: own.pop(n) for n in list(own) if n in OF_RUN}
    run = replace(TINY, **{"epochs": 2, "train_images": 200, "teacher_epochs": 2} | of_run)
    return Study(**{"name": name, "out": RUNS, "cache": "cache", "run": run, "space": space} | own)


def file_teacher() -> Study:
    """Return a study with a network and the file of its outputs as teachers."""
    base = study("dump", {}, augment="none", teacher_epochs=0)
    assert teacher_command.main(replace(base, dump="outputs.parquet")) == 0
    space = {"teacher": (TINY.teacher, "outputs.parquet"), "alpha": (0.2, 1.0)}
    return replace(base, name="file_teacher", space=space, repeats=2)


def own_function() -> Study:
    """Return a study of a training function."""
    space = {"alpha": (0.5, 0.75, 1.0), "depth": (1, 2)}
    own = {"baseline": {"alpha": 1.0}, "unless": {"depth": {"alpha": 1.0}}, "epochs": 3}
    names = {"train": "own_functions:wave", "name": "own_function", "out": RUNS}
    return Study(space=space, repeats=3, **names, **own)


TWO = {"alpha": (0.2, 1.0)}
BOTH = (SMALL, OTHER)
TOKENS = {"data": "own_data:text", "train_images": None, "teacher": "own_data:encoder"}
RANGES = {"alpha": Range(0.01, 0.9), "lr": Range(1e-5, 10, log=True), "loss": ("kl", "mse")}
"""Some runs are pruned or diverge."""
SPACES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "schema_4": (
        {"alpha": (0.1, 0.5, 1.0), "temperature": (1.0, 4.0)},
        {"repeats": 3, "epochs": 4, "train_images": 300},
    ),
    "folds": (TWO, {"folds": 3, "repeats": 3}),
    "teachers": (TWO, {"teachers": 3, "repeats": 6}),
    "race": (
        {"student": BOTH, "alpha": (0.1, 0.6, 1.0)},
        {"policy": "race", "repeats": 3, "confirm": 1},
    ),
    "auto": (TWO, {"repeats": 2, "until_decided": True, "budget": "12runs"}),
    "students": (
        {"student": BOTH, "alpha": (0.2, 1.0), "lr": (3e-3, 3e-2)},
        {"repeats": 2, "max_params": 1000},
    ),
    "tpe": (
        RANGES,
        {"search": "tpe", "samples": 10, "repeats": 2, "stop_early": True, "epochs": 4},
    ),
    "text": (TWO, TOKENS | {"student": "own_data:small_reader", "repeats": 3}),
    "killed": ({"alpha": (0.1, 0.5, 1.0)}, {"repeats": 3}),
}
"""Space and other fields of the studies that Ray runs, by name."""
MAKERS: dict[str, Callable[[], Study]] = {
    "own_function": own_function,
    "file_teacher": file_teacher,
}
MAKERS |= {name: partial(study, name, space, **own) for name, (space, own) in SPACES.items()}


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
    for file in (file for file in folder.rglob("*") if file.is_file()):
        first, *rest = file.relative_to(folder).parts
        place, is_json = target / first / Path(*rest), file.suffix == ".json"
        if first == "trials":
            place, is_needed = target / first / rest[0] / ".gitkeep", False
        elif first == "students":
            is_needed = is_json or folder.name in WITH_STUDENTS
        elif first in KEPT or (first == "teacher" and is_json):
            is_needed = True
        else:
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place) if is_needed else place.touch()
    _pack(target / "predictions.parquet", exact=folder.name in WITH_STUDENTS)
    _anonymise(target, {f"{Path.cwd()}/": "", f"{TESTS.parent}/": ""})


def _pack(file: Path, exact: bool) -> None:
    """Write a file of predictions as small as possible.

    Args:
        file: Of the predictions.
        exact: Whether all digits are kept, which an export compares with the student's; else 7
            binary ones.
    """
    if not file.exists():
        return
    frame = pd.read_parquet(file)
    for name in frame.select_dtypes("floating") if not exact else ():
        mantissa, exponent = np.frexp(frame[name].to_numpy())
        coarse = np.ldexp(np.round(mantissa * 128) / 128, exponent)
        frame[name] = coarse.astype(frame[name].dtype)
    frame.to_parquet(file, index=False, compression="zstd", compression_level=19)


def _anonymise(target: Path, places: dict[str, str]) -> None:
    """Replace what names this machine: its folders, its processor, itself."""
    for file in (f for f in target.rglob("*") if f.suffix in (".json", ".jsonl")):
        text = file.read_text()
        for old, new in places.items():
            text = text.replace(old, new)
        file.write_text(text)
    provenance = target / "provenance.json"
    if provenance.exists():
        values = json.loads(provenance.read_text()) | {"machine": MACHINE}
        values["command"] = ["python", "-m", "kdtune.search", f"{target.name}.py"]
        provenance.write_text(json.dumps(values, indent=1))
    for file in target.glob("epochs/*.jsonl"):
        whole = file.read_text()
        lines = [_without_node(line) for line in whole.splitlines()]
        file.write_text("\n".join(lines) + "\n" * whole.endswith("\n"))
    if (costs := target / "costs.json").exists():
        values = json.loads(costs.read_text())
        models = [one | {"hardware": "Some CPU"} for one in values["models"]]
        costs.write_text(json.dumps(values | {"models": models}, indent=1))


def _without_node(line: str) -> str:
    try:
        values = json.loads(line)
    except ValueError:  # of a line that was cut
        return line
    if values.get("node") is None:
        return line
    return json.dumps(values | {"node": "node1"})


def main(names: list[str]) -> None:
    """Make the studies of these names; all without names."""
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        init = {"num_cpus": 2, "include_dashboard": False}
        with ray_session(Study(gpus=0), init):
            for name, make_study in MAKERS.items():
                if names and name not in names:
                    continue
                asked = make_study()
                kdtune.run(replace(asked, gpus=0))
                if name == "killed":
                    kill(asked.folder)
                strip(asked.folder, STUDIES / asked.name)
        if not names or "decided" in names:
            decided()
            strip(Path(RUNS) / "decided", STUDIES / "decided")


if __name__ == "__main__":
    main(sys.argv[1:])
