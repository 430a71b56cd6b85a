"""Write the report of a study: one HTML page, and the figures as files.

python -m kdtune.report runs/fashion [--metric acc] [--out FOLDER]
"""

if __name__ == "__main__":
    from kdtune.config.cli import start

    start("report")  # refuses wrong flags before pandas is loaded; does not return

from pathlib import Path

from kdtune.config.errors import InputError
from kdtune.config.flags import ReportFlags
from kdtune.reporting.build import write
from kdtune.results.comparison import Criterion, check_baseline, parse_baseline
from kdtune.results.study_results import load


def main(flags: ReportFlags) -> int:
    """Write the report and print its path; return the exit code.

    Raises InputError if there is no study, or the report cannot be written.
    """
    criterion = Criterion(flags.metric, flags.scope, parse_baseline(flags.baseline))
    if flags.out is None and "://" in flags.run:
        raise InputError(f"--out FOLDER must be given for a study on a store, {flags.run}")
    if "://" in (flags.out or ""):
        raise InputError(f"out must be a folder on this machine, but got out={flags.out}")
    results = load(flags.run)
    check_baseline(criterion, results.study)
    print(write(results, criterion, Path(flags.out or flags.run)))
    return 0
