"""A small complete study for examples and notebooks: folders of records, no training."""

from pathlib import Path

from study_folders import cost, draw, make, write_predictions

import kdtune
from kdtune.config.records import write_costs
from kdtune.results.results import Results


def write_small_study(folder: Path) -> Results:
    """Write and read a study of three alphas and four repeats with predictions and costs."""
    effects = {0.1: 0.05, 0.5: 0.03, 1.0: 0.0}
    made = make(folder, draw(effects, 4, sd=0.006), name=folder.name)
    run = made.study.run
    write_costs(folder, [cost(run.student), cost(run.teacher, "teacher", 24_314, 0.9)])
    write_predictions(made)
    return kdtune.load(folder)
