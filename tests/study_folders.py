"""Folders of studies with known results: real records of constructed numbers, without training.

A study is given as the val accuracies at the last epoch of each configuration by repeat, such as
`{0.5: [0.8, 0.81]}`. A key is an alpha or a `Run`. None is a run that has not started.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import kdtune
from kdtune.config.files import PREDICTIONS, PROVENANCE
from kdtune.config.records import Cost, Role, write_costs
from kdtune.config.run import HYPERPARAMETERS, Run
from kdtune.config.study import Study
from kdtune.results.frames import config_label
from kdtune.results.results import Results
from kdtune.storage.records import FinalPair, Records, Round

RUN = Run(data="fashion", epochs=3, lr=0.05)
IMAGES = {"train": 300, "val": 500, "test": 1000}
Last = Mapping[float | Run, Sequence[float | None]]
Fates = Mapping[tuple[float | Run, int], str]


def at(alpha: float, repeat: int = 0, **values: object) -> Run:
    """Return a run with these hyperparameters; the others are those of RUN."""
    return replace(RUN, alpha=alpha, repeat=repeat, **values)  # type: ignore[arg-type]


def metrics(run: Run, acc: float, split: str = "val") -> dict[str, float | int | None]:
    """Return the metrics of version 0.1; all but teacher_acc change with the accuracy."""
    ce, distill = 1.5 - acc, None if run.alpha == 1 else 2.25 - acc
    return {
        **{"n_examples": IMAGES[split], "loss": 2 - acc, "ce": ce, "distill": distill},
        **{"acc": acc, "teacher_acc": 0.9, "logit_diff": 1.2 - acc},
        **{"agreement": 0.05 + 0.9 * acc, "kl": 1.1 - acc},
    }


def write_records(
    folder: Path,
    curves: Mapping[Run, Sequence[float]],
    fates: Mapping[Run, str] | None = None,
    attempt: int = 0,
    error: str = "ValueError: boom",
    phase: str = "search",
) -> None:
    """Write a part of the records from the val accuracies by epoch of each run.

    A run is completed unless `fates` says otherwise; a "running" or "truncated" one has no end.
    The test accuracy is the val accuracy - 0.1.
    """
    with Records(folder) as records:
        for run, accs in curves.items():
            records.start(run, attempt, phase)
            for epoch, acc in enumerate(accs):
                splits = {
                    "train": metrics(run, min(1, acc + 0.05), "train"),
                    "val": metrics(run, acc),
                }
                if epoch == run.epochs - 1:
                    splits["test"] = metrics(run, acc - 0.1, "test")
                records.epoch(run, attempt, {"number": epoch, "seconds": 0.5, "splits": splits})
            fate = (fates or {}).get(run, "completed")
            if fate in ("completed", "failed", "pruned"):
                records.end(run, attempt, fate, error if fate == "failed" else None, "node7")


def edit_json(file: Path, change: Callable[[dict], object]) -> None:
    """Change the values of a JSON file, in place."""
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def edit_records(folder: Path, change: Callable[[dict], None]) -> None:
    """Change lines of the records, in place."""
    for file in (folder / "epochs").glob("*.jsonl"):
        lines = [json.loads(text) for text in file.read_text().splitlines()]
        for line in lines:
            change(line)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def curve(last: float, epochs: int) -> list[float]:
    """Return accuracies that rise linearly to the last."""
    return [last * (epoch + 1) / epochs for epoch in range(epochs)]


def make(
    folder: Path, last: Last, fates: Fates | None = None, error: str = "ValueError: boom", **study
) -> Results:
    """Write and read a study; `study` replaces fields of Study that `last` implies."""
    write_study(folder, last, fates, error, **study)
    return kdtune.load(folder)


def write_study(
    folder: Path, last: Last, fates: Fates | None = None, error: str = "ValueError: boom", **study
) -> Study:
    """Write and return a study as `make` does."""
    runs = {key: key if isinstance(key, Run) else at(key) for key in last}
    names = [n for n in HYPERPARAMETERS if len({getattr(r, n) for r in runs.values()}) > 1]
    space = {n: list(dict.fromkeys(getattr(r, n) for r in runs.values())) for n in names}
    implied = {"name": "made", "run": RUN, "space": space, "repeats": max(map(len, last.values()))}
    folder.mkdir(parents=True, exist_ok=True)
    whole = Study(**implied | study)
    (folder / "study.json").write_text(whole.to_json())
    own = whole.run.study_values
    runs = {key: replace(run, study_values=own) for key, run in runs.items()}
    curves = {
        replace(runs[key], repeat=r): curve(acc, runs[key].epochs)
        for key, accs in last.items()
        for r, acc in enumerate(accs)
        if acc is not None
    }
    ends = {replace(runs[key], repeat=r): fate for (key, r), fate in (fates or {}).items()}
    cut = {run: accs[:1] if ends.get(run) == "truncated" else accs for run, accs in curves.items()}
    write_records(folder, cut, ends, error=error)
    return whole


def make_final(folder: Path, last: Last, final: Last, **study) -> Results:
    """Write and read a study with final repeats of alphas, as a race or "auto" adds them.

    A record fixes the finalists, ranked by their means in `last`.
    """
    written = write_study(folder, last, **study)
    write_round(folder, last, list(final), 2000, written.default.config_id)
    write_final(folder, final)
    return kdtune.load(folder)


def write_round(folder: Path, last: Last, alphas: list[float], first: int, default: str) -> None:
    """Write the record of a round whose finalists are ranked by their means in `last`."""
    means = {alpha: np.mean([acc for acc in last[alpha] if acc is not None]) for alpha in alphas}
    ids = {alpha: at(alpha).config_id for alpha in sorted(alphas, key=lambda a: -means[a])}
    distilled = next((i for alpha, i in ids.items() if alpha != 1), None)
    pair = FinalPair(student=RUN.student, baseline=ids.get(1.0), distilled=distilled)
    with Records(folder) as records:
        records.finalists(Round(0, first, (pair,), tuple(ids.values()), default))


def write_final(folder: Path, final: Last, first: int = 2000) -> None:
    runs = {at(a, first + r): acc for a, accs in final.items() for r, acc in enumerate(accs)}
    write_records(folder, {run: curve(acc, run.epochs) for run, acc in runs.items()}, phase="final")


def trials_of(last: Last) -> pd.DataFrame:
    """Return the completed trials of `make` without a folder; accuracies at the last epoch only."""
    rows = []
    for key, accs in last.items():
        run = key if isinstance(key, Run) else at(key)
        config = {f"config/{name}": value for name, value in run.config.items()}
        for r, acc in enumerate(accs):
            if acc is not None:
                own = {"trial_id": replace(run, repeat=r).trial_id, "config_id": run.config_id}
                own["label"] = config_label(config, ["alpha", "lr"])
                fate = {"repeat": r, "status": "completed", "val/acc@last": acc}
                rows.append(own | config | fate)
    return pd.DataFrame(rows).sort_values(["config_id", "repeat"], ignore_index=True)


def draw(
    effects: Mapping[float | Run, float],
    repeats: int,
    seed: int = 0,
    sd: float = 0.01,
    shared: float = 0.02,
) -> dict[float | Run, list[float]]:
    """Draw normal accuracies 0.7 + effect + shared effect of the repeat + noise.

    Paired differences have the standard deviation sqrt(2) sd; numbers correlate over repeats with
    shared^2 / (shared^2 + sd^2).
    """
    rng = np.random.default_rng(seed)
    both = rng.normal(0.7, shared, repeats)
    noise = rng.normal(0, sd, (len(effects), repeats))
    return {k: list(both + e + noise[i]) for i, (k, e) in enumerate(effects.items())}


def grid(alphas: Sequence[float], **values: Sequence[object]) -> list[Run]:
    """Return the configurations of a grid, without duplicates."""
    return Study(run=RUN, space={"alpha": alphas, **values}).runs()  # type: ignore[arg-type]


def write_predictions(
    results: Results,
    wrong_together: float = 0.0,
    classes: Sequence[str] = (),
    images: int = IMAGES["val"],
    splits: Sequence[str] = ("val",),
    files: str | None = None,
    groups: int = 0,
) -> pd.DataFrame:
    """Write predictions.parquet of the completed runs, as accurate as the records say.

    Args:
        results: of the study.
        wrong_together: SD of the difficulty of images; 0: all are equally difficult.
        classes: names, for predictions with all columns. Image i has the class i mod K, a wrong
            prediction is one of the next two classes, and the first images are the easiest.
        images: of each split.
        splits: val, and perhaps test.
        files: folder of the images; None: images are no files.
        groups: number of the images' groups, the first of which are the smallest; 0: none.
    """
    rng, every, k = np.random.default_rng(0), np.arange(images), max(1, len(classes))
    hard = every / 20 if classes else rng.normal(0, wrong_together, images)
    parts, label = [], every % k
    for _, trial in results.trials[results.trials.status == "completed"].iterrows():
        for split in splits:
            right = round((trial["val/acc@last"] - 0.1 * (split == "test")) * images)
            correct = np.isin(every, np.argsort(hard + rng.normal(size=images))[:right])
            columns = {"trial_id": trial.trial_id, "split": split, "example": every}
            if groups:
                columns["group"] = np.char.mod("g%d", np.sqrt(every / images) * groups)
            if classes:
                wrong = (label + rng.integers(1, min(k, 3), images)) % k
                sure = rng.uniform(1 / k, 1, images)
                columns["file"] = files and [f"{files}/{i}.png" for i in every]
                columns |= {"label": label, "predicted": np.where(correct, label, wrong)}
                columns |= {"p_predicted": sure, "p_label": np.where(correct, sure, (1 - sure) / k)}
                columns["teacher"] = label
            parts.append(pd.DataFrame(columns | {"correct": correct}))
    frame = pd.concat(parts, ignore_index=True)
    frame.to_parquet(results.folder / PREDICTIONS, index=False)
    edit_records(results.folder, lambda x: x.get("split") in splits and x.update(n_examples=images))
    if classes or groups:
        record = {"classes": list(classes), "python": "3.12.1", "versions": {"kdtune": "0.2"}}
        record |= {"data_set": {"groups": dict.fromkeys(splits, groups)}} if groups else {}
        (results.folder / PROVENANCE).write_text(json.dumps(record))
    return frame


def write_small_study(folder: Path) -> Results:
    """Write and read a study of three alphas and four repeats with predictions and costs."""
    made = make(folder, draw({0.1: 0.05, 0.5: 0.03, 1.0: 0.0}, 4, sd=0.006), name=folder.name)
    run = made.study.run
    write_costs(folder, [cost(run.student), cost(run.teacher, "teacher", 24_314, 0.9)])
    write_predictions(made)
    return kdtune.load(folder)


def cost(model: str, role: Role = "student", params: int = 3_724, ms: float = 0.25) -> Cost:
    """Return a cost; other numbers than these follow from them."""
    return Cost(
        **{"role": role, "model": model, "params": params, "bytes": 4 * params + 1_000},
        **{"flops": 200 * params, "latency_ms": ms, "latency_ms_iqr": ms / 20},
        **{"latency32_ms": 8 * ms, "latency32_ms_iqr": None, "threads": 1, "device": "cpu"},
        **{"hardware": "Some CPU", "precision": "fp32", "torch": "2.13.0"},
    )
