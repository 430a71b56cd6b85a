"""Print the summary, the comparison with the baseline and the conclusion of a study.

python -m kdtune.analysis runs/fashion [--by alpha] [--metric acc] [--scope last] [--format md]
"""

if __name__ == "__main__":
    from kdtune.config.cli import start

    start("analysis")  # answers bad flags before pandas loads; does not return

import sys

from kdtune.config.cost import Limits
from kdtune.config.flags import AnalysisFlags
from kdtune.results.comparison import (
    Criterion,
    check_baseline,
    parse_baseline,
)
from kdtune.results.study_results import load
from kdtune.results.tables import format_table


def main(flags: AnalysisFlags) -> int:
    """Print results and warnings; return 3 if there are warnings and `--strict`, else 0."""
    limits = Limits(flags.max_ms, flags.max_params)
    criterion = Criterion(flags.metric, flags.scope, parse_baseline(flags.baseline), limits)
    results = load(flags.run)
    check_baseline(criterion, results.study)
    columns = [column.removeprefix("val/") for column in flags.columns]
    if flags.format == "md" and not flags.pooled:
        print(results.text(flags.by, columns, criterion))
    else:
        table = results.summary(flags.by, columns, flags.scope, flags.pooled)
        print(format_table(table, flags.format))
    if flags.format == "md" and flags.pooled:
        print("\npooled over epochs: the SD describes the learning curve, not repeats")
    for warning in results.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 3 if flags.strict and results.warnings else 0
