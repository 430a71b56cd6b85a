"""Teachers of other studies that may have trained on what is now val.

Where val is cut from train, another seed or share cuts other examples. With --folds every example
of train and val is in val in some repeat.
"""

from pathlib import Path

from kdtune.config.names import is_output_file
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.data.dataset import Data
from kdtune.data.extra import with_extra
from kdtune.data.overlap import find_copies
from kdtune.data.sources import load_data
from kdtune.models.finished import FinishedTeacher, read_finished
from kdtune.models.outputs import OutputsRecord
from kdtune.training.output_teacher import load_output_teacher
from kdtune.training.recipe import teachers


def find_faults(study: Study) -> list[str]:
    """Return a sentence for each fault of the data that makes results wrong or too good.

    Training may have seen what val or test measure, or copies may be in several classes.

    Args:
        study: See `find_other_cuts`.

    Raises:
        InputError: The data do not exist.
    """
    data = with_extra(load_data(study.run), study.run)
    return [*find_copies(data), *find_other_cuts(study)]


def _recorded(run: Run, data: Data) -> FinishedTeacher | OutputsRecord | None:
    """Return what the file of the run's teacher says of its data; None if these are unrelated."""
    if is_output_file(run.teacher):
        return load_output_teacher(run).record
    finished = read_finished(Path(run.weights_of("teacher")).expanduser())
    return finished if finished is not None and finished.classes == data.classes else None


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
        if (finished := _recorded(run, data)) is None or finished.data is None:
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
