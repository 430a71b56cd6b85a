"""Write the report of a study: one HTML page and its figures as files.

python -m kdtune.report runs/fashion [--metric acc] [--out FOLDER]
"""

if __name__ == "__main__":
    import atexit
    import gc

    from kdtune.config.cli import start

    # garbage collection would take a fifth of the time of this short process, half of it at exit
    gc.disable()
    atexit.register(gc.freeze)
    start("report")  # reports invalid flags before pandas and matplotlib load; does not return

from pathlib import Path

from kdtune.config.cost import Limits
from kdtune.config.errors import InputError
from kdtune.config.flags import ReportFlags
from kdtune.reporting.build import write
from kdtune.results.comparison import Criterion, check_baseline, parse_baseline
from kdtune.results.study_results import load


def main(flags: ReportFlags) -> int:
    """Write the report, print the path of its page and return the exit code."""
    limits = Limits(flags.max_ms, flags.max_params)
    criterion = Criterion(flags.metric, flags.scope, parse_baseline(flags.baseline), limits)
    if flags.out is None and "://" in flags.run:
        raise InputError(
            f"--out must be given for a study on a store, {flags.run}. Add --out FOLDER."
        )
    if "://" in (flags.out or ""):
        raise InputError(f"--out must be a local folder, but got {flags.out}.")
    results = load(flags.run)
    check_baseline(criterion, results.study)
    print(write(results, criterion, Path(flags.out or flags.run)))
    return 0
