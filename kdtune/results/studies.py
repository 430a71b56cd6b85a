"""List of the studies in a folder: state, data, best configuration, conclusion, date."""

import math
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

import pandas as pd

from kdtune.config.errors import InputError, first_line
from kdtune.config.files import STUDY
from kdtune.config.function_run import name_of
from kdtune.config.study import Format, Study
from kdtune.results.comparison import DEFAULT, Criterion, by_repeat
from kdtune.results.study_results import Results, load
from kdtune.results.tables import format_table, markdown, plus_minus
from kdtune.results.wording import short_verdict
from kdtune.statistics.intervals import mean_interval

COLUMNS = ["name", "state", "data", "best", "mean", "std", "n", "verdict", "last_record", "metric"]
MAX_STATE = 80
"""Characters of a state in the printed list."""


def is_folder_of_studies(place: str) -> bool:
    """Return whether a place is a folder that is no study, but holds studies."""
    folder = Path(place).expanduser()
    if "://" in place or (folder / STUDY).exists() or not folder.is_dir():
        return False
    return any(True for _ in folder.glob(f"*/{STUDY}"))


def list_studies(folder: str | Path, criterion: Criterion = DEFAULT) -> pd.DataFrame:
    """Return one row per study in a folder, those with the latest records first.

    Columns: name (of its folder), state, data, best (label of the best configuration), mean, std
    and n (of its metric on val over repeats), verdict (in a few words), last_record (time of the
    last record, UTC), metric. A study that cannot be read has the reason as its state.

    Args:
        folder: of the studies.
        criterion: of distillation studies; that of a training function has its own.
    """
    files = sorted(Path(folder).expanduser().glob(f"*/{STUDY}"))
    table = pd.DataFrame([_row(file.parent, criterion) for file in files], columns=COLUMNS)
    return table.sort_values("last_record", ascending=False, na_position="last", kind="stable")


def _row(folder: Path, criterion: Criterion) -> dict[str, Any]:
    try:
        return {"name": folder.name} | _describe(load(folder), criterion)
    except InputError as error:
        # a list is of one line each: of the reason the first part, without the path
        return {"name": folder.name, "state": f"damaged: {_reason(str(error), folder)}"}
    except Exception as error:  # whatever damaged records raise, the other studies are listed
        return {"name": folder.name, "state": f"damaged: {first_line(error)}"}


def _describe(results: Results, criterion: Criterion) -> dict[str, Any]:
    if results.task is not criterion.task:
        criterion = results.default_criterion
    row: dict[str, Any] = {
        "state": results.status.partition("; last record")[0],
        "data": data_name(results.study),
        "metric": criterion.metric,
    }
    if (time := results.frames.last_record_time) is not None:
        row["last_record"] = f"{datetime.fromtimestamp(time, UTC):%F %T}"
    if incomplete := len(results.frames.incomplete):
        row["state"] += f", {incomplete} damaged record{'s' * (incomplete > 1)}"
    best = results.best(criterion)
    if best is None:
        return row
    values = by_repeat(results.trials_for(criterion), criterion.metric, criterion.scope)
    interval = mean_interval(values[best].dropna())
    row |= {"best": results.label(best), "mean": interval.mean, "std": interval.sd}
    table = results.compare(criterion)
    if len(results.compared_students(criterion)) > 1:  # the best one's student against itself
        table = table[criterion.groups(table) == results.student(best)]
    row["verdict"] = short_verdict(table, criterion, results.context(criterion))
    return row | {"n": interval.n}


def data_name(study: Study) -> str:
    """Return the name of a study's data, or of its training function."""
    if study.train is not None:
        return name_of(study.train)
    return str(study.run.data).rstrip("/").rpartition("/")[2]


def _reason(message: str, folder: Path) -> str:
    return message.replace(f"{folder}/", "").replace(str(folder), "it")


def studies_text(table: pd.DataFrame, criterion: Criterion, format: Format = "md") -> str:
    """Return the table of `list_studies` as text; csv and json have all digits."""
    if format in ("csv", "json"):
        return format_table(table, format)
    percent = " (%)" * criterion.in_points
    head = ["study", "state", "data", "best configuration", f"val {criterion.metric}{percent}"]
    head += ["n", "distillation", "last record (UTC)"]
    if not criterion.has_plain_baseline:
        head[6] = "against the baseline"
    rows = []
    for _, row in table.iterrows():
        scale, n = criterion.scale, "-" if math.isnan(row.n) else f"{row.n:.0f}"
        value = plus_minus(scale * row["mean"], scale * row["std"])
        if isinstance(row.metric, str) and row.metric != criterion.metric:
            value = f"{plus_minus(row['mean'], row['std'])} ({row.metric})"
        texts = ["-" if pd.isna(row[c]) else str(row[c]) for c in ("data", "best", "verdict")]
        last = "-" if pd.isna(row.last_record) else str(row.last_record)[:16]
        state = shorten(row.state, MAX_STATE, placeholder=" ...")
        rows.append([row["name"], state, *texts[:2], value, n, texts[2], last])
    return markdown(head, rows)
