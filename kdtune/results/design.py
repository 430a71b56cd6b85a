"""Design of a study: what its repeats vary, and what its intervals therefore hold for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdtune.config.study import Study
from kdtune.results.significance import p_text
from kdtune.statistics.crossed import Estimate, crossed, over_repeats
from kdtune.statistics.resampling import TeacherShare, corrected_resampled, teacher_share

MIN_TEACHERS = 3
"""With fewer teachers conclusions are about these teachers, since two say little about others."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """What the repeats of a study vary besides the seeds."""

    teachers: int = 1
    """Number of teachers N of one recipe; repeat r learns from teacher r mod N."""
    folds: int | None = None
    """Number of folds N; each repeat has its own train, val and teacher. None: the same for all."""
    fine_tuned: bool = True
    """Whether teachers are fine-tuned; if not, all repeats have the same even with folds."""
    adaptive: bool = False
    """Whether the number of repeats depends on the results (--repeats auto)."""
    several_recipes: bool = False
    """Whether there are teachers of several models or epochs, because the study searches them."""
    has_teacher: bool = True
    """Whether there are teachers at all; a training function of the user's own has none."""
    examples: str = "images"
    """What the splits consist of, in words."""

    @staticmethod
    def of(study: Study) -> "Design":
        """Return the design of a study."""
        run, task = study.run, study.task
        if not task.is_distillation:
            auto = study.until_decided
            return Design(adaptive=auto, has_teacher=False, examples=task.examples)
        searched = bool({"teacher", "teacher_epochs"}.intersection(study.searched))
        tuned = run.teacher_epochs != 0
        return Design(run.teachers, run.folds, tuned, study.until_decided, searched)

    @property
    def by_teacher(self) -> bool:
        """Whether teachers are the independent units: their repeats share a teacher.

        With --repeats auto repeats remain the units, since its test looks at each new one.
        """
        return self.teachers >= MIN_TEACHERS and not self.adaptive

    def units(self, repeats: Sequence[int]) -> NDArray[np.int64]:
        """Return for each repeat its unit, (R,); rows of different units are independent."""
        own = np.asarray(repeats, dtype=np.int64)
        return own % self.teachers if self.by_teacher else own

    def unit_means(self, table: Values, repeats: Sequence[int]) -> Values:
        """Return the means of the rows of each unit.

        Args:
            table: One row per repeat, [R, ...].
            repeats: Number of the repeat of each row, (R,).
        """
        if not self.by_teacher:
            return table
        units = self.units(repeats)
        return np.stack([table[units == unit].mean(0) for unit in np.unique(units)])

    def here(self, differences: Values, repeats: Sequence[int]) -> Estimate:
        """Return the mean difference over units alone, for these images.

        Without an interval where each repeat has other images in val.
        """
        if self.folds is not None:
            return Estimate(float(differences.mean()), math.nan, math.nan)
        return over_repeats(self.unit_means(differences, repeats))

    def estimate(
        self, differences: Values, table: Values | None, repeats: Sequence[int]
    ) -> Estimate:
        """Return the mean difference with the standard error that the design asks for.

        Args:
            differences: One per repeat, (R,).
            table: Differences of each example, [R, N]; None: only repeats vary.
            repeats: Number of each repeat, (R,).
        """
        if self.folds is not None:
            return corrected_resampled(differences, 1 / (self.folds - 1))
        if table is None:
            return over_repeats(self.unit_means(differences, repeats))
        return crossed(self.unit_means(table, repeats))

    def teacher_share(self, values: Values, repeats: Sequence[int]) -> TeacherShare | None:
        """Return the share of the teachers in the variance of a value over repeats, (R,).

        None with one teacher, with folds, or without two repeats of a teacher.
        """
        if self.teachers == 1 or self.folds is not None:
            return None
        return teacher_share(values, [repeat % self.teachers for repeat in repeats])

    # -- words ---------------------------------------------------------------------------------

    @property
    def new_units(self) -> str:
        """What conclusions are about, besides images: e.g. "new repeats with this teacher".

        With folds new splits have new images, too.
        """
        if self.folds is not None:
            own = "teachers" if self.several_recipes else "a teacher"
            teacher = f"{own} for each" if self.fine_tuned else self._these_teachers
            return f"new train/val splits of data like these, with {teacher}"
        if self.by_teacher:
            recipe = "these recipes" if self.several_recipes else "this recipe"
            return f"new repeats with new teachers of {recipe}"
        with_teacher = f" with {self._these_teachers}" * self.has_teacher
        return f"new repeats{with_teacher}"

    def holds_for(self, split: str, new_images: bool) -> str:
        """Return what conclusions are about, with images: e.g. "... and new images like those ...".

        Args:
            split: Whose images were predicted.
            new_images: Whether the standard error includes the choice of these images.
        """
        if self.folds is not None:
            return self.new_units
        if not new_images:
            return f"{self.new_units} on these {split} {self.examples}"
        return f"{self.new_units} and new {self.examples} like those of {split}"

    @property
    def _these_teachers(self) -> str:
        if self.several_recipes:
            return "these teachers"
        return "this teacher" if self.teachers == 1 else f"these {self.teachers} teachers"

    @property
    def single_interval(self) -> str:
        """What t intervals of single configurations are computed over, and hold for."""
        if self.folds is not None:
            return "over repeats, not corrected for overlapping train sets"
        teachers = " and these teachers" * (self.teachers > 1)
        return f"over repeats, for these {self.examples}{teachers}"

    @property
    def units_phrase(self) -> str:
        """What t intervals and t tests are computed over."""
        if self.folds is not None:
            return "repeats, corrected for overlapping train sets (Nadeau and Bengio, 2003)"
        return f"the means of {self.teachers} teachers" if self.by_teacher else "repeats"

    @property
    def constant(self) -> str:
        """What is the same in all repeats, and what conclusions depend on, as sentences."""
        if self.folds is not None:
            own = "each repeat has its own train and val, drawn from both together"
            plural = "s" * self.several_recipes
            own += f", and its own teacher{plural}, fine-tuned on its train" * self.fine_tuned
            same = "Test is" if self.fine_tuned else f"The teacher{plural} and test are"
            return (
                f"{same} the same in all repeats; {own}. Val is one of {self.folds} stratified "
                f"folds. Conclusions are about {self.new_units}."
            )
        if self.teachers > 1:
            recipe = "these recipes" if self.several_recipes else "this recipe"
            own = recipe if self.by_teacher else "these teachers"
            of = "each recipe" if self.several_recipes else "one recipe"
            return (
                f"The split into train, val and test is the same in all repeats. They use "
                f"{self.teachers} teachers of {of} in turn. Conclusions are conditional on "
                f"{own} and this data set."
            )
        if not self.has_teacher:
            return (
                "What the training function does not derive from the number of the repeat, such as "
                "its data and their split, is the same in all repeats. Conclusions are conditional "
                "on it."
            )
        return (
            f"The teacher{'s' * self.several_recipes} and the split into train, val and test are "
            f"the same in all repeats. Conclusions are conditional on {self._these_teachers} and "
            f"this data set."
        )


def stricter(one: Design, other: Design) -> Design:
    """Return the design that decides a comparison of two studies: folds, then fewer teachers."""
    for design in (one, other):
        if design.folds is not None:
            return design
    with_units = [design for design in (one, other) if design.by_teacher]
    return min(with_units, key=lambda design: design.teachers, default=one)


def describe_teacher_share(share: TeacherShare | None) -> str:
    """Return how much the teachers matter as a sentence; "" if that is not known."""
    if share is None:
        return ""
    return (
        f"Teachers explain {100 * share.share:.0f}% of the variance of the difference over repeats "
        f"(one-way random effects, {share.teachers} teachers, {share.n} repeats, F = "
        f"{share.f:.3g}, {p_text(share.p)})."
    )


ONE_TEACHER = Design()
"""The usual design: the same teacher, train and val in all repeats."""
