"""The job of a study of distillation: data, teachers, students."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from kdtune.config.space import flags_without_effect
from kdtune.config.study import Study
from kdtune.config.study_objects import check_objects, describe_fixed_students
from kdtune.data.balance import data_record, describe_data
from kdtune.data.changes import Contents, find_changes, forget_changed_data
from kdtune.data.extra import with_extra
from kdtune.data.sources import load_data
from kdtune.raytune.costs import measure_before_ray, measure_with_ray
from kdtune.raytune.job import Job, Say
from kdtune.raytune.machines import TrialResources
from kdtune.raytune.teachers import check_teachers, train_teachers
from kdtune.raytune.trial import run_trial, teacher_files
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import SavedStudy
from kdtune.streams.cache import Cache
from kdtune.streams.working_set import cache_warning
from kdtune.training.dump import find_other_views
from kdtune.training.other_cut import find_faults
from kdtune.training.recipe import numbered, resolve_study, teachers, with_weights_of_studies
from kdtune.training.recipe_table import RecipeRow, format_recipe, recipe_rows
from kdtune.training.run import check_objectives, check_study, make_student
from kdtune.training.teacher import initial_teacher, missing_teachers
from kdtune.training.transforms import transforms_of


class DistillationJob(Job):
    """Trials are distillation runs: a teacher is trained first, streams are shared."""

    def begin(self, study: Study) -> Study:
        """Return the study with absolute paths, and the weights of other studies by file."""
        return replace(study, run=with_weights_of_studies(study.run.absolute()))

    def resolve(self, study: Study, begun: bool) -> Study:
        """Return the study with its whole recipe."""
        check_objects(study)
        forget_changed_data(study.run)
        return resolve_study(study, begun=begun)

    def files(self, study: Study) -> list[str]:
        """Return the names of the teachers' files."""
        return teacher_files(study)

    def fingerprints(self, study: Study) -> dict[str, str]:
        """Return the fingerprints of data, models and the user's own objectives."""
        own_objectives = check_objectives(study)
        return check_study(study) | own_objectives

    def check(self, study: Study) -> None:
        """Raise InputError if a finished teacher is damaged, or others may write the cache."""
        Cache(study.cache, study.cache_gb).check()
        every = numbered(study, teachers(study))
        missing_teachers(study.run, every, study.folder / "teacher")

    def provenance(self, asked: Study, study: Study, saved: SavedStudy | None) -> Mapping[str, Any]:
        """Return classes, data, recipe and transforms."""
        rows = recipe_rows(asked, study, saved.study if saved else None)
        transforms, data = transforms_of(study), with_extra(load_data(study.run), study.run)
        return {
            "classes": data.classes,
            "data_set": data_record(data),
            "recipe": [row._asdict() for row in rows],
            "views": transforms.views,
            "models": transforms.models,
            "input": transforms.input,
            "sources": transforms.sources,
            "warnings": transforms.warnings,
        }

    def describe(self, provenance: Mapping[str, Any]) -> Sequence[str]:
        """Return the recipe: all settings, and where they came from."""
        return format_recipe([RecipeRow(**row) for row in provenance["recipe"]])

    def prepare_before_ray(self, study: Study, mirror: Mirror) -> None:
        """Measure the cost of the models while the machine is idle."""
        measure_before_ray(study, mirror)

    def about_data(self, study: Study) -> Sequence[str]:
        """Return the counts of images by class, and what is suspicious about them."""
        return list(describe_data(with_extra(load_data(study.run), study.run)))

    def warnings(self, study: Study, count: int) -> Iterator[str]:
        """Yield a sentence for what makes the study slower or less useful."""
        yield from flags_without_effect(study)
        yield from with_extra(load_data(study.run), study.run).warnings
        yield from find_faults(study)
        yield from find_other_views(study)
        yield from describe_fixed_students(study)
        cache = Cache(study.cache, study.cache_gb)
        student, own_teachers = make_student(study.run), teachers(study)
        if strangers := cache.strangers():
            yield strangers
        if fault := cache.fault():
            yield fault
        elif too_small := cache_warning(
            study, count, student, [initial_teacher(run) for run in own_teachers]
        ):
            yield too_small
        count_used = len({run.teacher_number for run in numbered(study, own_teachers)})
        if count_used < study.run.teachers:
            yield (
                f"--repeats {study.repeats} uses only {count_used} of --teachers "
                f"{study.run.teachers}"
            )
        if not study.has_plain:
            yield (
                "the study has no baseline without distillation (alpha = 1), so there will be no "
                "verdict"
            )

    def prepare(
        self, study: Study, mirror: Mirror, trial: TrialResources, say: Say, say_epoch: Say
    ) -> None:
        """Measure the models on the device of the trials, train and check the teachers."""
        measure_with_ray(study, mirror, trial, say)
        train_teachers(study, trial, say, say_epoch)
        check_teachers(study, mirror, trial, say)

    def trainable(self, study: Study) -> Callable[..., None]:
        """Return the function of a distillation run on the data as this process has read them."""
        return partial(run_trial, contents=Contents.of(study.run))

    def find_changes(self, study: Study) -> str:
        """Return a sentence on image files that have changed while the study ran; "" if none."""
        return find_changes(study.run)
