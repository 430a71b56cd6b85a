"""Run a study: every configuration in every repeat; print the results.

python -m kdtune.search [EXPERIMENT.py] [--flags] [--check] [--verbose]

What Python has of a study is here, too: `kdtune.run`, `kdtune.load` and results with figures, which
joins results and reporting. matplotlib is loaded when a figure is drawn, torch and Ray when a study
runs.
"""

if __name__ == "__main__":
    from kdtune.config.cli import start

    start("search")  # refuses wrong flags before torch and Ray are loaded; does not return

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtune.config.fields import check
from kdtune.config.study import Study, check_new_study
from kdtune.config.text import InputError, printable_lines, shown, wrap_lines
from kdtune.results import results
from kdtune.results.replacement import recorded_sentences
from kdtune.results.words import sentence

if TYPE_CHECKING:
    from pandas import DataFrame

    from kdtune.reporting.build import Plots


class Results(results.Results):
    """A study, its records and what follows from them, with figures. Needs neither torch nor Ray.

        >>> results = kdtune.load("runs/small")
        >>> results.status
        'complete: 12 runs'
        >>> results.trials[["label", "repeat", "val/acc@last"]].head(2)
                 label  repeat  val/acc@last
        0  alpha = 0.5       0      0.728292
        1  alpha = 0.5       1      0.719765

    A notebook shows conclusion, comparison and figure of a study whose name is the last line of a
    cell. `by`, `metrics` and `columns` are names of hyperparameters and of metrics; methods raise
    InputError for unknown ones. An empty dataframe means that too few runs have completed.
    """

    def _repr_html_(self) -> str:
        from kdtune.reporting.build import study_html

        return study_html(self)

    @property
    def plot(self) -> "Plots":
        """Matplotlib figures: `plot.curves()`, `.differences()`, `.repeats()`, `.frontier()`.

        >>> results.plot.curves().savefig("curves.svg")
        """
        from kdtune.reporting.build import Plots

        return Plots(self)

    def replaces(
        self, against: str | None = None, margin: float | None = None, configs: Sequence[str] = ()
    ) -> "DataFrame":
        """Return whether students may replace the teacher, or another model.

        One row per configuration and kind: "recipe" is about new repeats and new images, "file"
        about the student that `load_student` takes and new images. It is on test, else on val,
        which has also chosen the student. The columns:

        - config_id, label, kind, split, n, n_images (repeats, and images or groups)
        - student, reference: mean of the study's metric
        - diff, low, high: student minus reference with its 95 % interval; margin
        - outcome: "non-inferior", "inferior" or "undecided", see `tests.non_inferiority`
        - images_needed: images in all that decide it with 80 % power, if the true difference is
          diff; infinite: no number does with n repeats
        - negative_flips, positive_flips (and _low, _high): shares of the images on which the
          reference alone is right, or the student alone
        - worst_class, worst_diff, worst_p: the class with the largest loss; p by Holm's method
        - latency_ratio, size_ratio: student / reference, where both were measured

        Args:
            against: "teacher", a file of a model's outputs (docs/teachers.md), or the folder of a
                study, whose best configuration is meant. None: that of the study, else "teacher".
            margin: largest loss that is accepted, > 0; 0.01 is one percentage point. None: that of
                the study.
            configs: config_id of each configuration. Default: the best of each student.

        Raises:
            InputError: There is no such reference or no margin, or predictions are missing.
        """
        from kdtune.results.replacement import replaces

        return replaces(self, against, margin, configs).table


def load(folder: str | Path) -> Results:
    """Read a study, finished or not, from a folder or an object store (s3://BUCKET/PREFIX/NAME).

        >>> kdtune.load("runs/small").best()
        'cffe5327'

    Raises:
        InputError: if there is no study.
    """
    if not isinstance(folder, str | Path):
        raise InputError(f"folder must be the path of a study, but got {shown(folder)}")
    return _with_figures(results.load(folder))


def run(study: Study, ray_init: dict[str, Any] | None = None) -> Results:
    """Run every configuration of the study in every repeat, or resume where an earlier call ended.

        >>> study = kdtune.Study(
        ...     name="small",
        ...     run=kdtune.Run(data="fashion", lr=0.05, epochs=3),
        ...     space={"alpha": (0.1, 0.5, 1.0)},
        ...     repeats=4,
        ... )
        >>> results = kdtune.run(study)  # a complete study is only read
        >>> results.status
        'complete: 12 runs'

    Args:
        study: The study.
        ray_init: Arguments of `ray.init` in place of those that the study asks for.

    Returns:
        The results, as `kdtune.load` reads them.

    Raises:
        InputError: The study cannot run as asked; raised before any work.
        NodeMismatchError: A machine of the cluster cannot run the study's trials.
        FolderUnusableError: The study's folder, or Ray's, is full, read-only, gone or fails.
        RayLostError: Ray itself has ended; the same call resumes the study.
        LeaseLostError: Another driver has taken over the study on its object store.
        DataChangedError: Images were changed or removed while the study ran.
        Interrupted: Ctrl-C, or the store no longer answers; the same call resumes the study.
    """
    if not isinstance(study, Study):
        raise InputError(f"study must be a kdtune.Study, but got {shown(study)}")
    check(study, "check", not study.check, "be left out (python -m kdtune.search --check)")
    check_new_study(study)
    from kdtune.raytune import driver

    return _with_figures(driver.run(study, ray_init))


def _with_figures(read: results.Results) -> Results:
    return Results(read.folder, read.study, read.frames, read.costs)


def main(study: Study) -> int:
    """Run the study or resume it; print what it has found. A complete one is only read.

    With --check only look for what would be wrong.

    Returns:
        The exit code: 0 if a run completed, 1 if none did; of a check 1 if it has found something.

    Raises:
        UserError: As `kdtune.run` does.
    """
    from kdtune.raytune.folder import merge_with_saved, read_complete, read_if_saved

    if study.check:
        from kdtune.check import check_recipe  # loads torch, but not Ray

        saved = read_if_saved(study.folder)
        merged = study if saved is None else merge_with_saved(study, saved)
        return check_recipe(study, merged, None if saved is None else saved.study)
    complete = read_complete(study)
    if complete is None:
        complete = run(study)  # loads torch and Ray
    text = "\n\n".join([*recorded_sentences(complete), complete.text(brief=not study.verbose)])
    print(f"\n{wrap_lines(printable_lines(text))}\n")
    for warning in complete.warnings:
        print(wrap_lines(f"warning: {printable_lines(warning)}", "  "))
    print(sentence("results are in", results=complete, folder=study.uri or complete.folder))
    return 0 if "completed" in set(complete.trials.status) else 1
