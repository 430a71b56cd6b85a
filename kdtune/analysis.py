"""Print the summary, the comparison with the baseline and the conclusion of a study.

python -m kdtune.analysis runs/fashion [--by alpha] [--metric acc] [--scope last] [--format md]
python -m kdtune.analysis runs/fashion runs/other          studies of the same data, side by side
python -m kdtune.analysis runs                             a list of the studies
python -m kdtune.analysis runs/fashion --drop TRIAL ...    runs that are not to count
python -m kdtune.analysis results.csv --by alpha --repeat seed --metric acc    runs made elsewhere
"""

if __name__ == "__main__":
    from kdtune.config.cli import start

    start("analysis")  # answers bad flags before pandas loads; does not return

import sys
from collections.abc import Iterable

from kdtune.config.cli import AnalysisFlags, TableFlags
from kdtune.config.text import InputError, printable_lines
from kdtune.results.comparison import format_table
from kdtune.results.results import check_baseline, criterion_of, load, parse_baseline
from kdtune.results.several import (
    is_folder_of_studies,
    list_studies,
    load_several,
    studies_text,
    text,
)
from kdtune.results.sources import read_tables
from kdtune.results.tables import compare


def main(flags: AnalysisFlags | TableFlags) -> int:
    """Print results and warnings; return 3 if there are warnings and `--strict`, else 0."""
    warnings = _print_table(flags) if isinstance(flags, TableFlags) else _print_studies(flags)
    for warning in warnings:
        print(f"warning: {printable_lines(warning)}", file=sys.stderr)
    return 3 if flags.strict and warnings else 0


def _print_table(flags: TableFlags) -> list[str]:
    """Print the comparison in a table of results; return its warnings."""
    result = compare(
        read_tables(flags.tables),
        flags.by,
        str(flags.repeat),
        str(flags.metric),
        epoch=flags.epoch,
        example=flags.example,
        columns=flags.columns,
        baseline=None if flags.baseline is None else parse_baseline(flags.baseline, flags.by),
        higher_is_better=flags.direction,
        points=flags.points,
        pooled=flags.pooled,
        unpaired=flags.unpaired,
        keep_incomplete=flags.keep_incomplete,
    )
    _print(result.text(flags.format))
    return result.warnings


def _print_studies(flags: AnalysisFlags) -> list[str]:
    """Print the results of one study or several; return their warnings."""
    if len(flags.runs) == 1 and not is_folder_of_studies(flags.runs[0]):
        return _print_study(flags.runs[0], flags)
    _check_for_several(flags)
    return _print_several(flags)


def _print_study(place: str, flags: AnalysisFlags) -> list[str]:
    """Print the results of one study; return its warnings."""
    _mark(place, flags)
    results = load(place)
    criterion = criterion_of(flags, results)
    columns = [column.removeprefix("val/") for column in flags.columns]
    if flags.format == "md" and not flags.pooled:
        _print(results.text(flags.by, columns, criterion))
    else:
        table = results.summary(flags.by, columns, flags.scope, flags.pooled, full=True)
        _print(format_table(table, flags.format))
    if flags.format == "md" and flags.pooled:
        print("\npooled over epochs: the SD describes the learning curve, not repeats")
    return results.warnings


def _print(text: str) -> None:
    """Print a text in which names and errors of others may stand."""
    print(printable_lines(text))


def _mark(place: str, flags: AnalysisFlags) -> None:
    """Drop and restore the runs that the flags name, and say so."""
    if not (flags.drop or flags.restore):
        if flags.reason is not None:
            raise InputError("--reason must be given with --drop or --restore")
        return
    from kdtune.storage.mirror import mark_trials

    mark_trials(place, flags.drop, flags.restore, flags.reason)
    for word, trials in (("dropped", flags.drop), ("restored", flags.restore)):
        if trials:
            print(f"{word} {', '.join(dict.fromkeys(trials))}", file=sys.stderr)
    print(
        "summary.md, students/ and the parquet files are updated when the study's command is "
        "repeated",
        file=sys.stderr,
    )


def _check_for_several(flags: AnalysisFlags) -> None:
    """Raise InputError for flags that are for one study only."""
    given = {
        "--by": flags.by,
        "--columns": flags.columns,
        "--pooled": flags.pooled,
        "--drop": flags.drop,
        "--restore": flags.restore,
        "--reason": flags.reason,
        "--max-ms": flags.max_ms is not None,
        "--max-params": flags.max_params is not None,
        "--format latex": flags.format == "latex",
    }
    if wrong := [name for name, value in given.items() if value]:
        raise InputError(
            f"{wrong[0]} must be used with one study, but got {' '.join(flags.runs)}; name one, or "
            f"leave the flag out"
        )


def _print_several(flags: AnalysisFlags) -> list[str]:
    """Print studies side by side, or the list of a folder's studies; return their warnings."""
    criterion = criterion_of(flags)
    if len(flags.runs) == 1:
        table = list_studies(flags.runs[0], criterion)
        _print(studies_text(table, criterion, flags.format))
        return _damaged(table["name"][table.state.str.startswith("damaged")])
    side = load_several(flags.runs, criterion)
    for results in side.results:
        check_baseline(criterion, results.study)
    _print(text(side, flags.format))
    return [f"{name}: {w}" for name, results in side.studies.items() for w in results.warnings]


def _damaged(names: Iterable[str]) -> list[str]:
    return [f"{name} cannot be read" for name in names]
