"""Accuracy of the teachers in words: what it is, and what is wrong with it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from kdtune.config.errors import InputError
from kdtune.config.names import is_output_file
from kdtune.config.teacher_accuracy import (
    TeacherAccuracy,
    TeacherKey,
    read_teacher_accuracy,
    write_teacher_accuracy,
)
from kdtune.results.comparison import SIGNIFICANCE_LEVEL, completed
from kdtune.results.significance import p_text
from kdtune.statistics.chance import binomial_p, chance_level


def describe_accuracy(record: TeacherAccuracy) -> str:
    """Return the accuracy of a teacher as a sentence."""
    parts = [f"{value} on {split} (n = {value.n:,})" for split, value in record.splits.items()]
    return f"Accuracy of the teacher {record.name}: {', '.join(parts)}."


def find_teacher_faults(records: Sequence[TeacherAccuracy]) -> list[str]:
    """Return what is wrong with teachers by their accuracy alone, one sentence each."""
    return [fault for record in records for fault in _faults(record)]


def _faults(record: TeacherAccuracy) -> Iterator[str]:
    by_chance = []
    for split, value in record.splits.items():
        chance = chance_level(value.largest_class, value.n, record.classes)
        p = binomial_p(value.correct, value.n, chance)
        if p > SIGNIFICANCE_LEVEL:
            by_chance.append(
                f"{split} ({value.correct} of {value.n} are correct, {value}; always naming one "
                f"class gives {100 * chance:.1f}%; binomial {p_text(p)})"
            )
    if by_chance:
        yield (
            f"the teacher {record.name} is no better than chance on {', '.join(by_chance)}. "
            f"Students can learn nothing from it. {_advice(record)}"
        )
    before, after = record.acc_before, record.acc_after
    if before is not None and after is not None and after < before:
        yield (
            f"the teacher {record.name} is worse after its fine-tuning ({100 * after:.1f}% on val) "
            f"than before ({100 * before:.1f}%); use its weights as they are (--teacher-epochs 0) "
            f"or train it otherwise (--teacher-lr, --teacher-trainable head, --teacher-keep best)."
        )


def _advice(record: TeacherAccuracy) -> str:
    """Return what to check of a teacher that is no better than chance."""
    if is_output_file(record.teacher):
        return (
            "Check that each row of the file has the outputs for its example, and that the classes "
            "are in the order of the data (or named in the file as `classes`)."
        )
    return (
        "Check its preprocessing (--teacher-mean, --teacher-std, --teacher-size), its weights and "
        "its learning rate (--teacher-lr)."
    )


def check_teachers(
    folder: Path,
    keys: Sequence[TeacherKey],
    measure: Callable[[list[TeacherAccuracy]], list[TeacherAccuracy]],
    least: float | None,
    say: Callable[[str], None],
) -> None:
    """Print the accuracy of a study's teachers and what is wrong with it; measure it if needed.

    Args:
        folder: Of the study, whose record is completed.
        keys: Of each teacher.
        measure: Returns the accuracy of the teachers that are not yet in the records it is given.
        least: Value of --teacher-min-acc.
        say: Is given each line.

    Raises:
        InputError: A teacher is less accurate than `least`.
    """
    known = read_teacher_accuracy(folder)
    records = {one.key: one for one in known}
    if measured := measure(known):
        records |= {one.key: one for one in measured}
        write_teacher_accuracy(folder, list(records.values()))
    own = [records[key] for key in keys]
    for record in own:
        say(describe_accuracy(record))
    for fault in find_teacher_faults(own):
        say(f"warning: {fault}")
    _check_least(own, least)


def _check_least(records: Sequence[TeacherAccuracy], least: float | None) -> None:
    """Raise InputError if a teacher is less accurate on val than --teacher-min-acc, if given."""
    for record in records:
        value = record.splits.get("val")
        if least is not None and value is not None and value.share < least:
            is_file = is_output_file(record.teacher)
            source = f"in {record.weights}" if is_file else f"with the weights {record.weights}"
            others = "Give another file (--teacher)"
            if not is_file:
                others = (
                    "Give other weights (--teacher-weights), train it otherwise under another "
                    "--name (--teacher-epochs, --teacher-lr)"
                )
            raise InputError(
                f"the teacher {record.name} must have an accuracy of at least {least:g} on val "
                f"(--teacher-min-acc), but has {value.share:.4f} ({value.correct} of {value.n}) "
                f"{source}. {others}, or lower --teacher-min-acc."
            )


def teacher_warnings(folder: Path, trials: pd.DataFrame) -> list[str]:
    """Return what is wrong with the teachers of the study in a folder; `trials` of its search."""
    records = read_teacher_accuracy(folder)
    return [*find_teacher_faults(records), *find_weak_teachers(records, trials)]


def weak_teachers_text(folder: Path, trials: pd.DataFrame) -> str:
    """Return the sentences of `find_weak_teachers` on the study in a folder, one a line."""
    weak = find_weak_teachers(read_teacher_accuracy(folder), trials)
    return "\n".join(sentence[:1].upper() + sentence[1:] for sentence in weak)


def find_weak_teachers(records: Sequence[TeacherAccuracy], trials: pd.DataFrame) -> list[str]:
    """Return a sentence for each teacher that is less accurate than students trained without it.

    Accuracies are on val. Those of a student are the mean of its best configuration without
    distillation over the completed repeats.

    Args:
        records: accuracy of the teachers.
        trials: of the search, see `frames.Frames`.
    """
    plain = completed(trials)[lambda t: t["config/alpha"] == 1]
    names = plain["config/student"]
    means = plain["val/acc@last"].groupby([names, plain.config_id], dropna=False).mean()
    found = []
    for student, acc in means.groupby(level=0).max().items():
        for name, shares in _shares_on_val(records).items():
            if (share := sum(shares) / len(shares)) < acc:
                mean = f"mean of {len(shares)}: " * (len(shares) > 1)
                found.append(
                    f"the teacher {name} is less accurate on val ({mean}{100 * share:.1f}%) than "
                    f"the student {student} trained without it (mean {100 * acc:.1f}%)."
                )
    return found


def _shares_on_val(records: Sequence[TeacherAccuracy]) -> dict[str, list[float]]:
    """Return the accuracies on val of the teachers of each recipe, in [0, 1]."""
    shares: dict[str, list[float]] = {}
    for record in records:
        if (value := record.splits.get("val")) is not None:
            shares.setdefault(record.recipe_name, []).append(value.share)
    return shares
