"""Flags of `kdtune.analysis` for a table of results that was made elsewhere."""

import os
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path

from kdtune.config.errors import InputError
from kdtune.config.fields import check_fields
from kdtune.config.files import describe_missing
from kdtune.config.places import check_place
from kdtune.config.study import Format

_SUFFIXES = ".csv .tsv .txt .parquet .pq .db .sqlite .sqlite3 .log .journal .xlsx .xls .zip"
SUFFIXES = frozenset(_SUFFIXES.split())
"""Endings of the names of tables and Optuna storages."""
SQLITE = "sqlite:///"


@dataclass(frozen=True)
class TableFlags:
    """Compare configurations in a table of results: summary, comparison and conclusion.

    The table has one row per run, or per run and epoch. Formats: csv, parquet, an Optuna storage
    (journal file or SQLite database), and csv exports of Weights & Biases.
    """

    tables: tuple[str, ...]
    """File of the table, or sqlite:///FILE. Several files are read as one table; the column file
    has their names."""
    by: tuple[str, ...] = ()
    """Columns of the hyperparameters that distinguish the configurations."""
    repeat: str | None = None
    """Column of the random seed. Configurations with the same seeds are compared pairwise by seed;
    others as independent samples. If the column only numbers the runs and the runs had no common
    seeds, add --unpaired."""
    metric: str | None = None
    """Column that is compared."""
    epoch: str | None = None
    """Column of the epoch, if there is one row per run and epoch: the last epoch of each run
    counts. "step" are the intermediate values of an Optuna storage."""
    example: str | None = None
    """Column of the image or example, if there is one row per run and example with, for example,
    0 or 1 for correct. Then intervals hold for new repeats and new examples."""
    columns: tuple[str, ...] = ()
    """Columns of other metrics in the summary."""
    baseline: str | None = None
    """Baseline of the comparison: the best configuration with these values,
    NAME=VALUE[,NAME=VALUE...]. None: alpha=1 if the table has it."""
    higher_is_better: bool = False
    """Higher values of the metric are better. By default they are, unless its name has a word such
    as loss, error, nll or ce."""
    lower_is_better: bool = False
    """Lower values of the metric are better."""
    points: bool = False
    """The metric is a share in [0, 1] or [0, 100]: differences are percentage points. By default
    that is so if it is named like an accuracy."""
    unpaired: bool = False
    """The same repeat does not mean the same random seed: compare independent samples (Welch)."""
    pooled: bool = False
    """Mean and SD over all epochs of all runs in the summary, as some papers report them. That SD
    mixes the learning curve with the differences between runs."""
    keep_incomplete: bool = False
    """Runs with fewer epochs than the others count. By default they are named and left out."""
    study: str | None = None
    """Study of an Optuna storage that holds several."""
    format: Format = "md"
    """Format of the tables; md is for reading, csv and json have all columns."""
    strict: bool = False
    """Exit with code 3 if there are warnings."""

    def __post_init__(self) -> None:
        check_fields(self)
        for place in self.tables:
            table_file(place)
        for name, example in (("by", "alpha"), ("repeat", "seed"), ("metric", "acc")):
            if not getattr(self, name):
                raise InputError(
                    f"--{name} must name a column of {self.tables[0]} (such as --{name} {example})"
                )
        if self.higher_is_better and self.lower_is_better:
            raise InputError("--higher-is-better must not be used with --lower-is-better")

    @property
    def direction(self) -> bool | None:
        """Whether higher values are better; None: not given."""
        return True if self.higher_is_better else False if self.lower_is_better else None


def table_file(place: str) -> Path:
    """Return the file of a table, named as a file or as sqlite:///FILE.

    Raises InputError if there is none.
    """
    check_place("tables", place.removeprefix(SQLITE))
    file = Path(place.removeprefix(SQLITE)).expanduser()
    if not file.is_file():
        names = [other.name for other in file.parent.glob("*.*")]
        near = get_close_matches(file.name, names, n=1, cutoff=0.75)
        hint = f"; did you mean {file.parent / near[0]}?" if near else ""
        raise InputError(f"a table of results must be a file, but {describe_missing(file)}{hint}")
    return file


def is_table(word: str) -> bool:
    """Return whether a word of a command line names a table of results, not a study."""
    if word.startswith("-"):
        return False
    if word.startswith("sqlite:"):
        return True
    file = os.path.expanduser(word)  # what cannot be a path is said later, by check_place
    if "://" in word or os.path.isdir(file):
        return False
    suffix = os.path.splitext(file)[1].lower()
    return suffix in SUFFIXES or (os.path.isfile(file) and suffix != ".json")


def put_tables_first(arguments: list[str]) -> list[str]:
    """Return the words of a command line with the tables first.

    So `--by alpha temperature results.csv` does not take the table for a hyperparameter.
    """
    return sorted(arguments, key=lambda word: not is_table(word))


def check_kind(arguments: list[str], own: type, other: type, what: str) -> None:
    """Raise InputError for a flag that is for studies, not tables, or the other way round.

    Args:
        arguments: words of the command line.
        own: the class of flags that are allowed.
        other: the class of flags of the other kind.
        what: what is read, in words.
    """
    allowed = {f.name for f in fields(own)}
    for word in arguments:
        name = word.split("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and name in {f.name for f in fields(other)} - allowed:
            kind = "table of results" if other is TableFlags else "study of kdtune"
            raise InputError(f"{word.split('=')[0]} must be used with a {kind}, but got {what}")
