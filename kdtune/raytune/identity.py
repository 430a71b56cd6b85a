"""Identity of a study: whether it continues the one in its folder, and whether that is complete.

Imports neither torch nor Ray: a complete study is only read.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from kdtune.config.fields import declarations
from kdtune.config.files import EPOCHS, STUDENT, STUDENTS, STUDY, TRIALS, student_file
from kdtune.config.records import read_students_record
from kdtune.config.run import COMPARED_BY_CONTENT, HYPERPARAMETERS, Run
from kdtune.config.study import OF_FUNCTION, Study
from kdtune.config.task import Range, Values, covers, name_of
from kdtune.config.text import InputError, short
from kdtune.planning.plan import Plan
from kdtune.planning.proposals import FILE as OPTUNA
from kdtune.results.results import Results, load
from kdtune.storage.records import SavedStudy, is_running, list_parts, read_lines, read_saved

# Settings are compared by value; data, weights and models by fingerprint, never by path. So a study
# that was copied, renamed or moved to another machine, with its data elsewhere, can be continued.


FINISHED_FILES = ("epochs.parquet", "trials.parquet", "summary.csv", "summary.md", OPTUNA)
"""Files of a complete study that follow from its records."""


def read_complete(study: Study) -> Results | None:
    """Return the results of a study that its folder holds complete; None if anything is left to do.

    Whatever is not certain from the folder alone is left to the driver: another place of the data,
    an extension, an earlier schema, missing files.

    Raises:
        InputError: The folder holds another study.
    """
    folder = study.folder
    left_to_driver = (study.uri, study.train, study.run.objects, study.notify)
    if any(left_to_driver) or not (folder / STUDY).is_file() or is_running(folder):
        return None
    lines: list[str] = []
    saved = read_saved(folder)
    asked = replace(study, run=study.run.absolute(), tracker=(), notify=None)
    study = merge_with_saved(asked, saved, lines.append)
    if study.to_json(saved.fingerprints) != (folder / STUDY).read_text("utf-8"):
        return None
    if is_moved(study, saved) or not _has_finished_files(folder, study):
        return None
    records, _ = read_lines(folder, study)
    if not Plan(study, records).is_done:
        return None
    for line in lines:
        print(line)
    return load(folder)


def _has_finished_files(folder: Path, study: Study) -> bool:
    """Return whether a folder has all that is written at the end, newer than the records."""
    newest = max((part.stat().st_mtime for part in list_parts(folder / EPOCHS)), default=0.0)
    files = [folder / name for name in FINISHED_FILES]
    if not all(file.is_file() and file.stat().st_mtime >= newest for file in files):
        return False
    if study.keep != "all" and any((folder / TRIALS).glob(f"*/{STUDENT}")):
        return False  # which the end deletes
    try:
        record = read_students_record(folder / STUDENTS) if study.keep != "none" else None
    except InputError:
        return False
    repeats = [student.repeat for student in record.students] if record else []
    return all((folder / STUDENTS / student_file(repeat)).is_file() for repeat in repeats)


KEEPING = ("none", "best", "all")
"""Values of `Study.keep`, from the fewest students kept to the most."""


def read_if_saved(folder: Path) -> SavedStudy | None:
    """Return what an earlier call saved in a study's folder; None if there is no study yet.

    Call it with the study's lock held (`lock_study`, and on a store `hold_lease`): before that,
    another driver may be changing the file.
    """
    return read_saved(folder) if (folder / STUDY).exists() else None


def merge_with_saved(
    study: Study, saved: SavedStudy | None, write: Callable[[str], None] = print
) -> Study:
    """Return the study that continues the saved one: with at least its repeats.

    A study with --repeats auto keeps that: the number of its repeats depends on their results, and
    a test that takes the number for fixed would find too many differences.

    Args:
        study: The study that is asked for.
        saved: What its folder holds, see `read_if_saved`.
        write: Is given a line for each saved value that takes precedence.

    Raises:
        InputError: The saved study is another one. Data and weights are not compared here, but by
            content in `check_same`.
    """
    if saved is None:
        return study
    old = saved.study
    changes = (_changed_task, _changed_space)
    if study.train is None and old.train is None:
        study = replace(study, run=_with_recorded(study.run, old.run))
        changes = (_changed_fields, _changed_space)
    if found := [text for changed in changes for text in changed(old, study)]:
        raise _other_study(study, found)
    if old.until_decided and not study.until_decided:
        write(
            f"{study.folder} was begun with --repeats auto; continuing with --budget {old.budget} "
            f"and --level {old.level:g}"
        )
        study = replace(study, until_decided=True, budget=old.budget, level=old.level)
    if KEEPING.index(old.keep) > KEEPING.index(study.keep):
        write(
            f"{study.folder} was begun with --keep {old.keep}; ignoring --keep {study.keep}, so "
            f"that no students are deleted"
        )
        study = replace(study, keep=old.keep)
    if old.plain_share != study.plain_share and "plain_share" not in study.flags:
        write(
            f"{study.folder} was begun with --plain-share {old.plain_share:g}; continuing with it"
        )
        study = replace(study, plain_share=old.plain_share)
    if old.repeats > study.repeats:
        write(
            f"{study.folder} already has {old.repeats} repeats; ignoring --repeats {study.repeats}"
        )
        study = replace(study, repeats=old.repeats)
    return study


def _with_recorded(run: Run, old: Run) -> Run:
    """Return the run with the recorded values of settings that are not given, see `Setting`."""
    open_fields = [n for n, d in declarations(Run).items() if d.setting.resolved]
    open_fields.append("image_size")  # resolved only in a study of models of several sizes
    recorded = {n: getattr(old, n) for n in open_fields if getattr(run, n) is None}
    return replace(run, **recorded, study_values=old.study_values)


def is_moved(study: Study, saved: SavedStudy | None) -> bool:
    """Return True if data or weights have other paths than in the saved study, or are objects.

    Then `check_same` must compare their contents, even if no trial is left to run.
    """
    if saved is None:
        return False
    if study.run.objects:  # which may be others under the same names
        return True
    return any(getattr(saved.study.run, n) != getattr(study.run, n) for n in COMPARED_BY_CONTENT)


def check_same(
    study: Study,
    saved: SavedStudy | None,
    fingerprints: Mapping[str, str],
    write: Callable[[str], None] = print,
) -> None:
    """Raise InputError if data, teacher or student are not those that the saved study began with.

    Args:
        study: The study that is asked for.
        saved: What its folder holds.
        fingerprints: Of the study that is asked for, see `training.run.check`.
        write: Is given a line if the saved study has nothing to compare with.
    """
    if saved is None:
        return
    run = study.run
    for name, fingerprint in fingerprints.items():
        before = saved.fingerprints.get(name, fingerprint)
        if before != fingerprint:
            has = "have" if name.startswith("extra") else "has"
            raise InputError(
                f"{_describe(name, run)} {has} changed since {study.folder} began (fingerprint "
                f"{before} → {fingerprint}); restore it, or begin another study (--name OTHER); if "
                f'the change cannot affect any number, delete "{name}" from the fingerprints in '
                f"{study.folder / STUDY}"
            )
    begun_with = ("data", "teacher", "student")
    unknown = [n for n in begun_with if n in fingerprints.keys() - saved.fingerprints.keys()]
    if found := list(_changed_kinds_of_weights(saved.study.run, run, unknown)):
        raise _other_study(study, found)
    if unknown:
        write(
            f"{study.folder} has no fingerprint to compare the {' and the '.join(unknown)} with "
            f"(kdtune 0.1 saved none for its own models); make sure that they are unchanged"
        )


def _describe(name: str, run: Run) -> str:
    """Return what a fingerprint is of, in words."""
    role, _, model = name.partition(" ")
    if role == "data":
        return f"the data in {run.data}"
    if role == "extra":
        return f"the images without labels of --extra {run.extra}"
    if role == "train":
        return "the training function (its code)"
    if role in ("teacher", "student"):
        return f"the {role} {model or getattr(run, role)} (its weights or its code)"
    return f"the {name} (its code)"  # an objective of the user's own


def _other_study(study: Study, found: list[str]) -> InputError:
    return InputError(
        f"{study.folder} holds another study ({'; '.join(found)}); restore these settings to "
        f"continue it, or give this one another name (--name OTHER) or folder (--out FOLDER)"
    )


def _changed_fields(old: Study, new: Study) -> Iterator[str]:
    """Yield "NAME: OLD → NEW" for each field that defines a study and differs."""
    for name, begun in old.run.study_values:
        if begun is not None and not covers(values := new.all_values(name), (begun,)):
            yield f"{name}: {begun} → {_shown(values)}"
    left_out = (*HYPERPARAMETERS, *COMPARED_BY_CONTENT, "repeat", "study_values")
    for name, declared in declarations(Run).items():
        if name in left_out or not declared.setting.defines:
            continue
        resolved = "augmentation" if name == "augment" else name  # None is a default
        before, now = getattr(old.run, resolved), getattr(new.run, resolved)
        if before != now and not (declared.setting.resolved and before is None):
            yield f"{name}: {before} → {now}"
    before, now = old.cpus_per_trial or 1, new.cpus_per_trial or 1
    if before != now and not _surely_on_gpus(new):  # the last digits of a CPU depend on it
        yield f"cpus_per_trial: {before} → {now}"


def _surely_on_gpus(study: Study) -> bool:
    """Return True if the study's runs use GPUs; on a cluster only if they are asked for."""
    if study.device == "auto" and study.address is not None:
        return bool(study.gpus)
    from kdtune.streams.views import device_of  # torch, which is needed in this case alone

    return device_of(study).type != "cpu"


def _changed_task(old: Study, new: Study) -> Iterator[str]:
    """Yield what differs in the training function or its declarations: "metric: a → b"."""
    for name in ("train", *OF_FUNCTION):
        before, now = (_comparable(getattr(study, name)) for study in (old, new))
        if before != now:
            yield f"{name}: {before} → {now}"
    if set(old.task.names) != set(new.task.names):
        names = (", ".join(sorted(study.task.names)) for study in (old, new))
        yield f"hyperparameters: {' → '.join(names)}"


def _comparable(value: object) -> object:
    return name_of(value) if callable(value) else value


def _changed_space(old: Study, new: Study) -> Iterator[str]:
    """Yield what the new study's configurations lack of the old ones: "alpha lacks 0.1"."""
    if set(old.task.names) != set(new.task.names) or new.covers(old):
        return
    names = [name for name in old.task.names if old.has_effect(name) or new.has_effect(name)]
    pairs = [(name, old.all_values(name), new.all_values(name)) for name in names]
    differing = [pair for pair in pairs if not covers(pair[2], pair[1])]
    if not differing:
        yield "other configurations"
    for name, before, now in differing:
        if isinstance(before, Range) or isinstance(now, Range) or len(before) == len(now) == 1:
            yield f"{name}: {_shown(before)} → {_shown(now)}"
        else:
            yield f"{name} lacks {_shown(tuple(v for v in before if v not in now))}"


def _shown(values: Values) -> str:
    if isinstance(values, Range):
        return str(values)
    return ", ".join(
        str(value) if isinstance(value, str | None) else short(value, 6) for value in values
    )


def _changed_kinds_of_weights(old: Run, new: Run, names: list[str]) -> Iterator[str]:
    """Yield what differs in the weights of models without a fingerprint; files are not compared."""
    for name in (f"{model}_weights" for model in names if model != "data"):
        before, now = getattr(old, name), getattr(new, name)
        if before != now and {before, now} & {"default", "none"}:
            yield f"{name}: {before} → {now}"
