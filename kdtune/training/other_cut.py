"""Teachers of other studies that may have trained on what is now val.

Where val is cut from train, another seed or share cuts other examples. With --folds every example
of train and val is in val in some repeat.
"""

from pathlib import Path

from kdtune.config.study import Study
from kdtune.data.overlap import find_shared
from kdtune.data.sources import load_data
from kdtune.models.finished import read_finished
from kdtune.training.recipe import teachers


def find_leaks(study: Study) -> list[str]:
    """Return a sentence for each way in which training may have seen what val or test measure.

    Args:
        study: See `find_other_cuts`.

    Raises:
        InputError: The data do not exist.
    """
    return [*find_shared(load_data(study.run)), *find_other_cuts(study)]


def find_other_cuts(study: Study) -> list[str]:
    """Return a sentence for each finished teacher that may have trained on the study's val.

    Its data had the same classes but were others or cut otherwise, and val was cut from train there
    or is here; or the study has --folds. Nothing is known, and so nothing said, of files without a
    record of their data.

    Args:
        study: The study, with files of weights in place of folders (`with_weights_of_studies`).

    Raises:
        InputError: The data do not exist.
    """
    data, found = load_data(study.run), {}
    for run in teachers(study):
        weights = run.weights_of("teacher")
        finished = read_finished(Path(weights).expanduser())
        if finished is None or finished.classes != data.classes:
            continue
        if finished.data is None:
            continue
        if data.fold is not None:
            found[weights] = (
                f"the teacher {run.teacher} ({weights}) was fine-tuned before train and val were "
                f"pooled (--folds), so it may have been trained on examples of val in every "
                f"repeat, and metrics on val may be optimistic; fine-tune a teacher for each "
                f"repeat from weights that have not seen these data"
            )
            continue
        if finished.data == data.fingerprint:
            continue
        if finished.has_cut_val or data.cut is not None:
            found[weights] = (
                f"the teacher {run.teacher} ({weights}) was fine-tuned with another val than this "
                f"study's, and one of the two is cut from train, so it may have been trained on "
                f"examples of val, and its accuracy on val may be optimistic; use the --seed and "
                f"--val-share of the study that fine-tuned it, or data with a val folder"
            )
    return list(found.values())
