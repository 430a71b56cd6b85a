"""Run a study: every configuration in every repeat; print the table and the verdict.

python -m kdtune.search [EXPERIMENT.py] [--flags]
"""

if __name__ == "__main__":
    from kdtune.config.cli import start

    start("search")  # answers bad flags before torch and Ray load; does not return

from kdtune.config.study import Study
from kdtune.raytune.driver import run


def main(study: Study) -> int:
    """Run the study, or what is left of it; print the table and the verdict."""
    results = run(study)
    place = study.uri or results.folder
    print(f"\n{place}: trials.parquet, epochs.parquet, summary.csv, students/, optuna.db")
    print(f"python -m kdtune.report {place}: the same with figures, as one page")
    for warning in results.warnings:
        print(f"warning: {warning}")
    print(f"\n{(results.folder / 'summary.md').read_text()}")
    return 0 if "completed" in set(results.trials.status) else 1
