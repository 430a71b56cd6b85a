"""Print the conclusion, the differences from the baseline and the best configuration of a study.

python -m kdtune.analysis runs/fashion [--verbose] [--metric acc] [--scope last] [--format md]
python -m kdtune.analysis runs/fashion runs/other          studies of the same data, side by side
python -m kdtune.analysis runs                             a list of the studies
python -m kdtune.analysis runs/fashion --against teacher --margin 1    may the student replace it?
python -m kdtune.analysis runs/fashion --drop TRIAL ...    runs that are not to count
python -m kdtune.analysis results.csv --by alpha --repeat seed --metric acc    runs made elsewhere
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any

from kdtune.config.cli import ComparisonFlags, parse_baseline, parse_own_flags, start
from kdtune.config.fields import Positive, Setting, check, check_fields, one_of
from kdtune.config.files import existing_file
from kdtune.config.run import HYPERPARAMETERS
from kdtune.config.study import Format
from kdtune.config.task import METRICS
from kdtune.config.text import printable_lines, wrap_lines

_COLUMN = Setting(metavar="COLUMN")
_OTHERS = (*ComparisonFlags.for_one_study, "against", "margin", "slices")
_TABLES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
"""Endings of the names of tables."""


@dataclass(frozen=True)
class AnalysisFlags(ComparisonFlags):
    """Print the results of a study: conclusion, differences from the baseline, best configuration.

    Several studies of the same data are compared with the first; the studies of a folder are
    listed. A table of results made elsewhere (csv, parquet) has flags of its own:
    python -m kdtune.analysis results.csv --help.
    """

    by: Annotated[tuple[str, ...], Setting(metavar=f"[{one_of(HYPERPARAMETERS)} [...]]")] = ()
    """Hyperparameters that distinguish the rows of the summary, as --verbose prints it. By default
    those that were searched."""
    columns: Annotated[tuple[str, ...], Setting(metavar=f"[{one_of(METRICS)} [...]]")] = ()
    """Metrics of the summary, on val. By default acc, ce, teacher_acc, logit_diff and agreement; of
    a training function all that it reports."""
    format: Format = "md"
    """Format of the table; md is for reading, csv and json have all columns."""
    pooled: bool = False
    """Mean and SD over all epochs of all repeats, as some papers report them. That SD describes the
    learning curve, not the variation between repeats."""
    verbose: bool = False
    """Print also the summary of all configurations, methods, costs and what would help."""
    strict: bool = False
    """Exit with code 3 if a trial is missing, failed or truncated, or the records look wrong."""
    drop: tuple[str, ...] = ()
    """Runs to drop from the study, by trial_id: they stay in the records, count in no table and are
    not run again (unless the search has --rerun-dropped)."""
    restore: tuple[str, ...] = ()
    """Dropped runs that count again, by trial_id."""
    reason: str | None = None
    """Why runs are dropped or restored."""
    against: Annotated[str | None, Setting(path=True, metavar="{teacher,OUTPUTS,STUDY}")] = None
    """Print whether the best students may replace this instead: the teacher, the model whose
    outputs are in a file (docs/teachers.md), or the best configuration of another study. None,
    with --margin: that of the study, else the teacher."""
    margin: Positive | None = None
    """Largest loss with which a student may replace --against: percentage points for shares, else
    in the metric's unit. None: that of the study."""
    slices: Annotated[str | None, Setting(path=True, metavar="FILE")] = None
    """Table (csv, parquet) with the column example (its index in test, or in val without test, or
    its file) and other columns: the difference is also given for each of their values."""
    for_one_study = ("by", "columns", "pooled", "verbose", "drop", "restore", "reason", *_OTHERS)


@dataclass(frozen=True)
class TableFlags:
    """Compare configurations in a table of results: summary, comparison and conclusion.

    The table has one row per run, or per run and epoch. Formats: csv and parquet.
    """

    tables: Annotated[tuple[str, ...], Setting(metavar="TABLE [TABLE ...]")]
    """File of the table. Several files are read as one table; the column file has their names."""
    by: tuple[str, ...] = ()
    """Columns of the hyperparameters that distinguish the configurations."""
    repeat: Annotated[str | None, _COLUMN] = None
    """Column of the random seed. Configurations with the same seeds are compared pairwise by seed;
    others as independent samples. If the column only numbers the runs and the runs had no common
    seeds, add --unpaired."""
    metric: str | None = None
    """Column that is compared."""
    epoch: Annotated[str | None, _COLUMN] = None
    """Column of the epoch, if there is one row per run and epoch: the last epoch of each run
    counts."""
    example: Annotated[str | None, _COLUMN] = None
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
    format: Format = "md"
    """Format of the tables; md is for reading, csv and json have all columns."""
    margin: Positive | None = None
    """Print also whether each configuration may replace the baseline with a loss of at most this:
    percentage points for shares, else in the metric's unit."""
    strict: bool = False
    """Exit with code 3 if there are warnings."""

    def __post_init__(self) -> None:
        check_fields(self)
        for file in self.tables:
            existing_file("a table of results", "tables", file)
        for name, example in (("by", "alpha"), ("repeat", "seed"), ("metric", "acc")):
            columns = f"be a column of {self.tables[0]}, such as --{name} {example}"
            check(self, name, getattr(self, name), columns)
        is_one = not (self.higher_is_better and self.lower_is_better)
        check(self, "lower_is_better", is_one, "be left out with --higher-is-better")


FLAGS = (AnalysisFlags, TableFlags)


def parse(words: Sequence[str]) -> AnalysisFlags | TableFlags:
    """Return what a command line asks for: there are other flags for a table than for a study."""
    named = [word for flag, word in pairwise(["", *words]) if flag not in ("--against", "--slices")]
    if not any(map(is_table, named)):
        return parse_own_flags(AnalysisFlags, "analysis", words)
    # `--by alpha temperature results.csv` must not take the table for a hyperparameter
    words = sorted(words, key=lambda word: not is_table(word))
    return parse_own_flags(TableFlags, "analysis", words)


def is_table(word: str) -> bool:
    """Return whether a word of a command line names a table of results, not a study."""
    file = os.path.expanduser(word)
    if word.startswith("-") or "://" in word or os.path.isdir(file):
        return False
    suffix = os.path.splitext(file)[1].lower()
    return suffix in _TABLES or (os.path.isfile(file) and suffix != ".json")


def main(flags: AnalysisFlags | TableFlags) -> int:
    """Print results and warnings; return 3 if there are warnings and `--strict`, else 0."""
    analyse: Any = _analyse_table if isinstance(flags, TableFlags) else _analyse_studies
    text, warnings = analyse(flags)
    print(printable_lines(text))
    for warning in warnings:
        print(wrap_lines(f"warning: {printable_lines(warning)}", "  "), file=sys.stderr)
    return 3 if flags.strict and warnings else 0


def _analyse_table(flags: TableFlags) -> tuple[str, list[str]]:
    """Return the comparison in a table of results as text, and its warnings."""
    from kdtune.results.tables import compare, read_tables

    same = ("epoch", "example", "columns", "points", "pooled", "unpaired", "keep_incomplete")
    result = compare(
        read_tables(flags.tables),
        flags.by,
        str(flags.repeat),
        str(flags.metric),
        baseline=parse_baseline(flags.baseline),
        higher_is_better=flags.higher_is_better or (False if flags.lower_is_better else None),
        **{name: getattr(flags, name) for name in same},
    )
    if flags.margin is not None:
        result = replace(result, margin=flags.margin / result.criterion.scale)
    return result.text(flags.format), result.warnings


def _analyse_studies(flags: AnalysisFlags) -> tuple[str, list[str]]:
    """Return the results of one study or of several as text, and their warnings."""
    from kdtune.results.formatting import format_table
    from kdtune.results.replacement import recorded_sentences, replaces
    from kdtune.results.results import criterion_of, load
    from kdtune.results.several import is_folder_of_studies
    from kdtune.results.tables import read_table
    from kdtune.results.words import sentence

    run = flags.runs[0]
    if len(flags.runs) > 1 or is_folder_of_studies(run):
        return _analyse_several(flags)
    _mark_trials(run, flags)
    results = load(run)
    criterion = criterion_of(flags, results)
    columns = [column.removeprefix("val/") for column in flags.columns]
    if flags.against or flags.margin or flags.slices:
        check(flags, "format", flags.format != "latex", "be md, csv or json with --against")
        for name in ("by", "columns", "pooled", "baseline"):
            check(flags, name, not getattr(flags, name), "be left out with --against or --margin")
        margin = flags.margin and flags.margin / criterion.scale
        slices = None if flags.slices is None else read_table(flags.slices, "--slices")
        verdict = replaces(results, flags.against, margin, (), criterion, slices)
        return verdict.text(flags.format), results.warnings
    if flags.format == "md" and not flags.pooled:
        brief = not (flags.verbose or flags.by or columns)
        text = results.text(flags.by, columns, criterion, brief=brief)
        text = wrap_lines("\n\n".join([*recorded_sentences(results), text]))
        more = f"\n\n{sentence('more tables', folder=run)}" * brief
        return text + more, results.warnings
    table = results.summary(flags.by, columns, flags.scope, flags.pooled, full=True)
    text = format_table(table, flags.format)
    if flags.format == "md":
        text += "\n\npooled over epochs: the SD describes the learning curve, not repeats"
    return text, results.warnings


def _mark_trials(run: str, flags: AnalysisFlags) -> None:
    """Drop and restore the runs that the flags name, and print which."""
    if not (flags.drop or flags.restore):
        check(flags, "reason", flags.reason is None, "be given with --drop or --restore")
        return
    from kdtune.storage.mirror import mark_trials

    mark_trials(run, flags.drop, flags.restore, flags.reason)
    for word, trials in (("dropped", flags.drop), ("restored", flags.restore)):
        if trials:
            print(f"{word} {', '.join(dict.fromkeys(trials))}", file=sys.stderr)
    print(
        "summary.md, students/ and the parquet files are updated when the study's command is "
        "repeated",
        file=sys.stderr,
    )


def _analyse_several(flags: AnalysisFlags) -> tuple[str, list[str]]:
    """Return studies side by side, or the list of a folder's studies, and their warnings."""
    from kdtune.results.results import criterion_of
    from kdtune.results.several import list_studies, load_several, studies_text, text

    flags.check_for_several()
    check(flags, "format", flags.format != "latex", "be md, csv or json for several studies")
    criterion = criterion_of(flags)
    if len(flags.runs) == 1:
        table = list_studies(flags.runs[0], criterion)
        damaged = table["name"][table.state.str.startswith("damaged")]
        warnings = [f"{name} cannot be read" for name in damaged]
        return studies_text(table, criterion, flags.format), warnings
    side = load_several(flags.runs, criterion)
    warnings = [f"{name}: {w}" for name, results in side.studies.items() for w in results.warnings]
    return text(side, flags.format), warnings


if __name__ == "__main__":
    start("analysis")  # does not return
