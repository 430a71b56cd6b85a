"""Run a study: every configuration in every repeat; print the results.

python -m kdtune.search [EXPERIMENT.py] [--flags]
"""

if __name__ == "__main__":
    from kdtune.config.cli import start

    start("search")  # refuses wrong flags before torch and Ray are loaded; does not return

from kdtune.config.study import Study
from kdtune.config.text import printable_lines
from kdtune.raytune.folder import read_complete


def main(study: Study) -> int:
    """Run the study or resume it; print the table and the verdict. A complete one is only read.

    Returns:
        The exit code: 0 if a run completed, 1 if none did.

    Raises:
        UserError: As `kdtune.run` does.
    """
    results = read_complete(study)
    if results is None:
        from kdtune.raytune.driver import run  # loads torch and Ray

        results = run(study)
    place = study.uri or results.folder
    students = ", students/" * results.task.is_distillation
    print(f"\nResults are in {place}: trials.parquet, epochs.parquet, summary.csv{students}, ...")
    print(f"For figures and one page of all results: python -m kdtune.report {place}")
    for warning in results.warnings:
        print(f"warning: {printable_lines(warning)}")
    print(f"\n{printable_lines((results.folder / 'summary.md').read_text('utf-8'))}")
    return 0 if "completed" in set(results.trials.status) else 1
