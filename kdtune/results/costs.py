"""What the students cost, beside what they achieve."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from kdtune.config.fields import is_output_file
from kdtune.config.files import COSTS
from kdtune.config.records import Cost, Limits
from kdtune.config.study import Study
from kdtune.config.task import ends_of
from kdtune.results.comparison import Criterion, best_config, completed, students_of
from kdtune.results.formatting import cell, decimals, markdown, without_empty
from kdtune.results.frames import config_label
from kdtune.results.words import sentence
from kdtune.statistics.intervals import mean_interval
from kdtune.storage.records import Round

_OF_STUDENT = ("params", "bytes", "flops", "latency_ms", "latency32_ms")
"""Columns of `cost_frame` that dataframes of trials have as student/<column>."""
MAX_RELATIVE_IQR = 0.25
"""Interquartile range as a share of the median, above which a latency is said to be unreliable."""
COST_AXES: Mapping[str, str] = {
    "latency_ms": "latency at batch size 1 (ms)",
    "params": "parameters",
}
"""Costs that a frontier is drawn over, in words."""


def cost_frame(costs: Sequence[Cost]) -> pd.DataFrame:
    """Return one row per model with the fields of `records.Cost`; unknown numbers are NaN."""
    names = [field.name for field in fields(Cost)]
    frame = pd.DataFrame([asdict(cost) for cost in costs], columns=names)
    unknown = {name: float for name in names if name in _OF_STUDENT or name.endswith("_iqr")}
    return frame.astype({k: v for k, v in unknown.items() if frame[k].isna().any()})


def with_student_costs(frame: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with config/* and the cost of its students, student/<column> of `_OF_STUDENT`.

    Without costs the frame is returned as it is.

    Args:
        frame: of trials or configurations.
        costs: of `cost_frame`.
    """
    of_student = _students(costs)
    if not len(of_student):
        return frame
    students = frame["config/student"]
    columns = {f"student/{name}": students.map(of_student[name]) for name in _OF_STUDENT}
    return frame.assign(**columns)


def frontier(
    trials: pd.DataFrame, costs: pd.DataFrame, criterion: Criterion, by: Sequence[str]
) -> pd.DataFrame:
    """Return each student's best configurations with and without distillation, with its cost.

    Args:
        trials: rows of `Frames.trials`; completed ones count.
        costs: of `cost_frame`.
        criterion: selects the best configurations.
        by: hyperparameters of the label.

    Returns:
        One row per student and arm, cheapest student first: student, arm ("distilled" or "plain"),
        config_id, label (without the student if others differ), mean, low, high (95 % t interval
        over repeats, of the criterion's metric on val), n, the cost as `COST_AXES`, and
        efficient/<cost>: whether no other row is cheaper and at least as good, or as cheap and
        better. Students without a cost are left out.
    """
    students = _students(costs).sort_values("latency_ms")
    trials = completed(trials)
    if not len(students):
        return pd.DataFrame()
    trials = trials.assign(undistilled=criterion.is_baseline(trials))
    values = criterion.by_repeat(trials).dropna(axis=1, how="all")
    configs = trials.drop_duplicates("config_id").set_index("config_id").loc[list(values)]
    arms = configs.groupby(["config/student", "undistilled"]).groups
    rows = []
    for (name, cost), undistilled in product(students.iterrows(), (False, True)):
        if (name, undistilled) not in arms:
            continue
        best = best_config(values[list(arms[name, undistilled])], criterion.sign)
        interval = mean_interval(values[best].dropna())
        others = [n for n in by if n != "student" and not pd.isna(configs[f"config/{n}"][best])]
        row = {
            "student": name,
            "arm": "plain" if undistilled else "distilled",
            "config_id": best,
            "label": config_label(configs.loc[best], others or list(by)),
            "mean": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "n": interval.n,
        }
        rows.append(row | {axis: cost[axis] for axis in COST_AXES})
    frame = pd.DataFrame(rows)
    for axis in COST_AXES if rows else ():
        frame[f"efficient/{axis}"] = pareto(frame[axis], criterion.sign * frame["mean"])
    return frame


def _students(costs: pd.DataFrame) -> pd.DataFrame:
    """Return the costs of the students, by their names."""
    return costs[costs.role == "student"].set_index("model")


def pareto(costs: Sequence[float], values: Sequence[float]) -> np.ndarray:
    """Return which points [N] are on the Pareto frontier of low costs and high values.

    A point is not if another one is as good in both and better in one.
    """
    c, v = np.asarray(costs, dtype=float), np.asarray(values, dtype=float)
    as_good = (c[:, None] <= c) & (v[:, None] >= v)  # [other, point]
    better = (c[:, None] < c) | (v[:, None] > v)
    return np.logical_not((as_good & better).any(axis=0))


def cost_text(costs: pd.DataFrame, files: Sequence[str]) -> list[str]:
    """Return heading, Markdown table and note of the models' costs; [] if there are none.

    Args:
        costs: of `cost_frame`.
        files: of `teacher_files`.
    """
    if not len(costs):
        return []
    return ["Cost of the models:", markdown(*cost_rows(costs, files)), cost_note(costs)]


def teacher_files(study: Study) -> list[str]:
    """Return the teachers of a study that are files of outputs, whose cost is not known."""
    if study.train is not None:
        return []
    return [name for name in map(str, ends_of(study.values("teacher"))) if is_output_file(name)]


def cost_note(costs: pd.DataFrame) -> str:
    """Return what the numbers of `cost_rows` are, and where they were measured."""
    return sentence(
        "cost note",
        machines=list(dict.fromkeys(_machines(costs))),
        is_partial=0 < costs.latency32_ms.isna().sum() < len(costs),
        is_busy=bool((costs.latency_ms_iqr > MAX_RELATIVE_IQR * costs.latency_ms).any()),
        limit=MAX_RELATIVE_IQR,
        file=COSTS,
    )


def cost_rows(costs: pd.DataFrame, files: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of costs as text.

    Args:
        costs: of `cost_frame`.
        files: of `teacher_files`; each has a row of unknown numbers.
    """
    head = ["model", "role", "parameters", "size", "FLOPs"]
    head += ["latency, batch 1 (ms)", "latency, batch 32 (ms)", "measured on"]
    machines = _machines(costs)
    if len(set(machines)) < 2:  # the note says it
        machines = ["-"] * len(machines)
    rows = [
        [
            row.model,
            row.role,
            f"{row.params:,.0f}",
            with_prefix(row.bytes, "B"),
            "-" if pd.isna(row.flops) else with_prefix(row.flops),
            with_iqr(row.latency_ms, row.latency_ms_iqr),
            with_iqr(row.latency32_ms, row.latency32_ms_iqr),
            machine,
        ]
        for (_, row), machine in zip(costs.iterrows(), machines, strict=True)
    ]
    rows += [[name, "teacher", *["-"] * (len(head) - 2)] for name in files]
    return without_empty(head, rows)


def _machines(costs: pd.DataFrame) -> list[str]:
    """Return where each model was measured, e.g. "1 thread of AMD EPYC, fp32, PyTorch 2.13.0"."""
    return [f"{_device(row)}, {row.precision}, PyTorch {row.torch}" for _, row in costs.iterrows()]


def _device(cost: pd.Series) -> str:
    """Return the device of a row of `cost_frame`, e.g. "1 thread of AMD EPYC"."""
    threads = f"{cost.threads} thread{'' if cost.threads == 1 else 's'}"
    return f"{threads} of {cost.hardware}" if cost.device == "cpu" else f"{cost.hardware}"


def with_iqr(median: float, iqr: float) -> str:
    """Return a median and its interquartile range, e.g. "0.264 (IQR 0.013)"; "-" without one."""
    if pd.isna(iqr):
        return "-" if pd.isna(median) else f"{median:.3g}"
    digits = decimals(iqr, median)
    return f"{median:.{digits}f} (IQR {iqr:.{digits}f})"


def with_prefix(value: float, unit: str = "") -> str:
    """Return a number with three significant digits and an SI prefix, e.g. "16.7 kB"."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            return f"{float(f'{value / factor:.3g}'):g} {prefix}{unit}"
    return f"{cell(value)} {unit}".rstrip()


# The best student within limits on its cost, in words.


def best_within(
    phases: Sequence[pd.DataFrame],
    costs: pd.DataFrame,
    criterion: Criterion,
    limits: Limits,
    by: Sequence[str],
    round_: Round | None = None,
) -> str:
    """Return the best configuration of the students within the limits, and who is excluded.

    Args:
        phases: trials that the criterion is judged by, and those of the search; the first with a
            completed trial of a student within the limits count.
        costs: of `cost_frame`.
        criterion: selects the best configuration.
        limits: on the cost of a student.
        by: hyperparameters of the configuration's name.
        round_: whose ranking selects instead of the final trials that the criterion is judged by.
    """
    students = _students(costs)
    if not len(students):
        return sentence("costs not measured")
    near = (students.latency_ms - (limits.max_ms or math.inf)).abs() < students.latency_ms_iqr
    students = students.assign(
        is_near=near,  # the limit is within the spread of the latency
        is_slow=students.latency_ms > (limits.max_ms or math.inf),
        is_large=students.params > (limits.max_params or math.inf),
    )
    is_excluded = students.is_slow | students.is_large
    names = pd.concat(phases)["config/student"].unique()
    facts: dict[str, Any] = {
        "limits": limits,
        "machine": _device(students.iloc[0]),
        "allowed": list(students.index[~is_excluded]),
        "excluded": [cost for _, cost in students[is_excluded].iterrows()],
        "not_measured": [name for name in names if name not in students.index],
        "metrics": [],
    }
    inside = (t[t["config/student"].isin(facts["allowed"])] for t in map(completed, phases))
    if (trials := next((phase for phase in inside if len(phase)), None)) is not None:
        values = criterion.by_repeat(trials)
        best = round_.best(set(values)) if round_ is not None else None
        best = best or best_config(values, criterion.sign, students_of(trials))
        trials = trials[trials.config_id == best]
        held_out = round_ is not None and bool((trials.phase == "final").all())
        facts["student"] = students.loc[trials["config/student"].iloc[0]]
        facts["label"] = config_label(trials.iloc[0], [n for n in by if n != "student"])
        facts["metrics"] = list(_metrics(trials, criterion, held_out))
    return sentence("within limits", **facts)


def _metrics(trials: pd.DataFrame, criterion: Criterion, held_out: bool) -> Iterator[str]:
    """Yield mean, 95 % t interval and number of repeats of a configuration on val and test."""
    note = "held-out repeats" if held_out else "optimistic: used for the selection"
    on_test = criterion.label.replace("validation", "test")
    unit = "%" * criterion.in_points
    for split, label, notes in (("val", criterion.label, [note]), ("test", on_test, [])):
        sample = criterion.by_repeat(trials, split).iloc[:, 0].dropna()
        if split == "test" and not len(sample):
            continue
        interval = mean_interval(criterion.scale * sample)
        parts, form = [f"n = {interval.n}", *notes], ".1f" if criterion.in_points else ".4g"
        half = (interval.high - interval.low) / 2
        if math.isfinite(half):
            form = f".{decimals(half, interval.mean) if half > 0 else 1}f"
            parts.insert(0, f"95% CI {interval.low:{form}} to {interval.high:{form}}")
        yield f"{label} {interval.mean:{form}}{unit} ({', '.join(parts)})"
