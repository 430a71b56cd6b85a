"""Write the report of a study: one HTML page and its figures as files.

python -m kdtune.report runs/fashion [--metric acc] [--out FOLDER]
python -m kdtune.report runs/fashion runs/other [--out FILE.html]      one page, side by side
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from kdtune.config.cli import ComparisonFlags, start
from kdtune.config.fields import Setting, check


@dataclass(frozen=True)
class ReportFlags(ComparisonFlags):
    """Write report.html and figures/ into a study's folder: one page that works offline.

    Of several studies of the same data it is one page that compares them.
    """

    out: Annotated[str | None, Setting(path=True)] = None
    """Folder for report.html and figures/. None: the study's own. With several studies the file of
    the page; None: comparison-NAME-NAME.html."""


FLAGS = (ReportFlags,)


def main(flags: ReportFlags) -> int:
    """Write the report, print the path of its page and return the exit code."""
    from kdtune.reporting.build import output_file, write, write_comparison
    from kdtune.results.results import criterion_of, load
    from kdtune.results.several import load_several

    check(flags, "out", "://" not in (flags.out or ""), "be on this machine")
    if len(flags.runs) > 1:
        flags.check_for_several()
        criterion = criterion_of(flags)
        file = None if flags.out is None else output_file(flags.out)
        side = load_several(flags.runs, criterion)
        print(write_comparison(side, file or output_file(side.default_file)))
        return 0
    run = flags.runs[0]
    check(flags, "out", flags.out or "://" not in run, "be given for a study on a store, a folder")
    results = load(run)
    print(write(results, criterion_of(flags, results), Path(flags.out or run)))
    return 0


if __name__ == "__main__":
    start("report")  # does not return
