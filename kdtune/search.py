"""Run a study: every configuration in every repeat; print the results.

python -m kdtune.search [EXPERIMENT.py] [--flags]
"""

if __name__ == "__main__":
    from kdtune.config.cli import start

    start("search")  # refuses wrong flags before torch and Ray are loaded; does not return

from kdtune.config.study import Study
from kdtune.raytune.driver import run


def main(study: Study) -> int:
    """Run the study, or the rest of it, and print the results; return the exit code.

    Raises InputError as `driver.run` does.
    """
    results = run(study)
    place = study.uri or results.folder
    print(f"\n{place}: trials.parquet, epochs.parquet, summary.csv, students/, optuna.db")
    print(f"python -m kdtune.report {place}: writes the report, one page with figures")
    for warning in results.warnings:
        print(f"warning: {warning}")
    print(f"\n{(results.folder / 'summary.md').read_text()}")
    return 0 if "completed" in set(results.trials.status) else 1
