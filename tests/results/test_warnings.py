"""Warnings about records, files and teachers: studies with one problem each."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from study_folders import (
    RUN,
    at,
    draw,
    edit_records,
    make,
    write_predictions,
    write_records,
    write_study,
)

import kdtune
from kdtune.config.files import PREDICTIONS, STUDENT
from kdtune.config.records import Accuracy, TeacherAccuracy, write_teacher_accuracy
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.planning.plan import Plan
from kdtune.reporting.sections import teacher_table
from kdtune.results.comparison import Criterion
from kdtune.results.results import Results
from kdtune.results.several import list_studies
from kdtune.results.warnings import Named, check_teachers, find_doubts, find_teacher_faults
from kdtune.storage.records import read_lines

LAST = {0.5: [0.7, 0.8, 0.75], 1.0: [0.6, 0.65, 0.5]}
ID = at(0.5, 1).trial_id


def warnings_of(folder: Path) -> list[str]:
    return kdtune.load(folder).warnings


@pytest.mark.parametrize(
    ("last", "warnings"),
    [
        (LAST, []),
        ({0.5: [None], 1.0: [None]}, ["2 runs have not started"]),
        ({0.5: [0.7, 0.8, 0.75], 1.0: [0.6, None, None]}, ["2 runs have not started"]),
        (
            {0.1: [0.5, 0.61, None], 0.5: [0.71, 0.8, None], 1.0: [None, 0.6, 0.7]},
            ["3 runs have not started", "alpha = 1 has repeats that other configurations lack: 2"],
        ),
        (
            {0.5: [0.7, 0.8, 0.7], 1.0: [0.6, 0.65, 0.5]},  # a seed was not applied
            ["identical learning curves: alpha = 0.5, repeat 0 and alpha = 0.5, repeat 2"],
        ),
    ],
)
def test_the_records_of_a_study(tmp_path: Path, last: dict, warnings: list[str]) -> None:
    assert make(tmp_path, last).warnings == warnings


def test_a_completed_run_with_too_few_epochs_is_truncated(tmp_path: Path) -> None:
    # the starting repository's file of 2 epochs of 25: its end is recorded, its epochs are not
    write_study(tmp_path, LAST)
    file = tmp_path / "epochs" / "00000.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    late = [ID in x and '"kind": "epoch"' in x and '"epoch": 0' not in x for x in lines]
    file.write_text("".join(x for x, is_late in zip(lines, late, strict=True) if not is_late))
    made = kdtune.load(tmp_path)
    assert made.warnings == [f"truncated run excluded: {ID}, alpha = 0.5, repeat 1, 1 of 3 epochs"]
    table = made.summary(metrics=["acc"], full=True).set_index("alpha")
    assert table.loc[0.5, "val/acc/mean"] == pytest.approx((0.7 + 0.75) / 2)
    # and the search takes it up again
    plan = Plan(made.study, read_lines(tmp_path)[0])
    run = plan.next_run()
    assert run is not None and run.trial_id == ID and plan.next_run() is None


@pytest.mark.parametrize(
    ("missing", "of_one"),
    [({"kl": None, "agreement": None}, True), ({"distill": None}, True), ({"nll": 0.5}, False)],
)
def test_a_metric_that_comparable_runs_recorded(tmp_path: Path, missing, of_one: bool) -> None:
    """alpha = 1 has no distillation term, and version 0.1 no nll: that is no problem."""
    write_study(tmp_path, LAST)
    edit_records(tmp_path, lambda x: (x["trial_id"] == ID) == of_one and x.update(missing))
    total = 6
    expected = {f"val {m} missing in 1 of {total} runs: alpha = 0.5, repeat 1" for m in missing}
    assert set(warnings_of(tmp_path)) == expected


@pytest.fixture
def kept(tmp_path: Path) -> Results:
    """A study with a folder per run; no predictions.parquet of the study."""
    made = make(tmp_path / "made", draw({0.5: 0.05, 1.0: 0.0}, 3), keep="all")
    frame = write_predictions(made)
    (made.folder / PREDICTIONS).unlink()
    for name in made.trials.trial_id:
        run = made.folder / "trials" / name
        run.mkdir(parents=True)
        (run / STUDENT).touch()
        frame[frame.trial_id == name].to_parquet(run / PREDICTIONS, index=False)
    return made


def test_files_deleted_by_hand(kept: Results) -> None:
    folder = kept.folder
    assert warnings_of(folder) == []
    gone = sorted(at(0.5, r).trial_id for r in (0, 2))
    files = [folder / "trials" / name / PREDICTIONS for name in gone]
    of_study = pd.concat(map(pd.read_parquet, files))
    for name in gone:
        shutil.rmtree(folder / "trials" / name)
    students, predictions = (
        f"the folders of 2 of 6 completed runs are gone ({', '.join(gone)}): their students are no "
        "longer available",
        "the predictions of {} of 6 completed runs are gone ({}): comparisons that need them hold "
        "for this val split only",
    )
    assert warnings_of(folder) == [students, predictions.format(2, ", ".join(gone))]
    of_study[of_study.trial_id == gone[0]].to_parquet(folder / PREDICTIONS)
    assert warnings_of(folder) == [students, predictions.format(1, gone[1])]
    of_study.to_parquet(folder / PREDICTIONS)
    assert warnings_of(folder) == [students]
    (folder / "trials" / ID / PREDICTIONS).unlink()
    assert warnings_of(folder) == [students, predictions.format(1, ID)]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (None, "has the val accuracy {acc}, but the records say 0.1"),
        (
            lambda own, other: own.assign(correct=True),
            "has the val accuracy 1, but the records say",
        ),
        (lambda own, other: own[::2], "has 250 examples of val, but the records say 500"),
        (lambda own, other: other, f"is that of the run {at(1.0, 1).trial_id}"),
    ],
    ids=["record", "all correct", "half of the rows", "swapped"],
)
def test_predictions_that_contradict_the_records(kept: Results, change, fault: str) -> None:
    """The run counts nowhere, since nobody can tell which of the two is right."""
    file, other = (kept.folder / "trials" / at(a, 1).trial_id / PREDICTIONS for a in (0.5, 1.0))
    frame = pd.read_parquet(file)
    if change is None:
        edit_records(
            kept.folder, lambda x: x["trial_id"] == ID and "acc" in x and x.update(acc=0.1)
        )
    else:
        change(frame, pd.read_parquet(other)).to_parquet(file)
    (warning,) = (made := kdtune.load(kept.folder)).warnings
    assert warning.startswith(f"inconsistent run excluded: {ID}, alpha = 0.5, repeat 1, 3 of 3 epo")
    assert f"(trials/{ID}/{PREDICTIONS} {fault.format(acc=frame.correct.mean())}" in warning
    assert made.status == "complete: 5 runs, 1 inconsistent"
    assert made.compare().n.tolist() == [2] and ID not in set(made.predictions().trial_id)
    file.unlink()  # the records are right
    assert "inconsistent" not in set(kdtune.load(kept.folder).trials.status)


GOOD = TeacherAccuracy(
    teacher="big",
    epochs=5,
    weights="runs/x/teacher/teacher.safetensors",
    classes=10,
    splits={"train": Accuracy(300, 297, 30, of=2_000), "val": Accuracy(500, 450, 50)},
    fingerprint="f",
    acc_before=0.85,
    acc_after=0.9,
)
WORDS = "big (5 epochs): 99.0% on train (n = 300 of 2,000), 90.0% on val (n = 500)."


def of_val(correct: int, largest: int = 50) -> TeacherAccuracy:
    return replace(GOOD, splits={"val": Accuracy(500, correct, largest)})


def of_splits(train: int, val: int, test: int = 900) -> TeacherAccuracy:
    counts = {"train": (300, train, 30), "val": (500, val, 50), "test": (1000, test, 100)}
    return replace(GOOD, splits={name: Accuracy(*numbers) for name, numbers in counts.items()})


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (GOOD, ""),
        # 11 % of ten classes, 55 of 500: P(X >= 55) = 0.25 for X ~ Bin(500, 0.1)
        (of_val(55), "the teacher big (5 epochs) is no better than chance on val (55 of 500 are "),
        (of_val(55), "binomial p = 0.25"),
        (of_val(55), "its weights, the labels of train and its learning rate (--teacher-lr)."),
        (of_val(70), ""),  # p = 0.002
        (of_val(450, largest=460), "always naming one class gives 92.0%"),
        (replace(GOOD, acc_before=0.934, acc_after=0.81), "(81.0% on val) than before (93.4%)"),
        (replace(GOOD, acc_before=0.9), ""),  # as good
        (replace(GOOD, acc_before=None), ""),  # a new head
        # labels of train: 30 of 300 are chance, 240 are 10 points below val
        (
            of_splits(30, 450),
            "labels of train may be wrong: the teacher big (5 epochs) is right on",
        ),
        (of_splits(235, 450), "but on only 78.3% of train (235 of 300), without augmentation."),
        (of_splits(245, 450), ""),
        # val that the teacher was trained on
        (of_splits(300, 500, 920), "val may be among the images that the teacher big (5 epochs)"),
        (of_splits(300, 500, 970), "on 100.0% of val, as on train (100.0%), but on 97.0% of test"),
        (of_splits(300, 500, 972), ""),
        (of_splits(300, 480, 850), ""),  # train is above val: test has other images
        (replace(of_splits(300, 500, 920), acc_before=None), ""),  # kdtune made its head
        (replace(of_splits(300, 500, 920), acc_before=None, epochs=0), "big was trained on"),
    ],
)
def test_faults_of_a_teacher(record: TeacherAccuracy, fault: str) -> None:
    faults = list(find_teacher_faults([record]))
    assert len(faults) == bool(fault) and all(fault in text for text in faults)


def test_the_least_accuracy_of_a_teacher(tmp_path: Path) -> None:
    write_teacher_accuracy(tmp_path, [GOOD])
    lines: list[str] = []
    check_teachers(tmp_path, [GOOD.key], lambda recorded: [], 0.9, lines.append)
    assert lines == [f"Accuracy of the teacher {WORDS}"]
    words = r"at least 0.95 on val .* but has 0.9000 \(450 of 500\) .* runs/x/teacher/teacher"
    with pytest.raises(InputError, match=words):
        check_teachers(tmp_path, [GOOD.key], lambda recorded: [], 0.95, lines.append)


def test_a_teacher_that_is_worse_than_a_student_without_it(tmp_path: Path) -> None:
    """The baseline has 0.92 and 0.90, so 0.91; the teacher 0.90. Distilled runs do not count."""
    accs = {at(1.0): 0.92, at(1.0, 1): 0.90, at(0.5): 0.99}
    write_records(tmp_path, {run: [0.1, 0.2, acc] for run, acc in accs.items()})
    study = Study(name="s", run=at(0.5), space={"alpha": (0.5, 1.0)}, repeats=2)
    (tmp_path / "study.json").write_text(study.to_json())
    assert not any("teacher" in line for line in warnings_of(tmp_path))
    write_teacher_accuracy(tmp_path, [GOOD])
    results = kdtune.load(tmp_path)
    words = "the teacher big (5 epochs) is less accurate on val (90.0%) than the student resnet18"
    assert results.warnings[0] == f"{words} trained without it (mean 91.0%)."
    assert "is less accurate on val (90.0%)" in results.verdict()
    table = teacher_table(results)
    assert table is not None
    assert table.rows[0][0] == "big (5 epochs)" and table.rows[0][-1] == "85.0%"
    write_teacher_accuracy(tmp_path, [of_val(460)])
    assert not any("teacher" in line for line in warnings_of(tmp_path))


def test_students_at_chance_are_not_compared(tmp_path: Path) -> None:
    """Of 500 val images 55 are as likely by chance of 0.1 (p = 0.25), 70 are not (p = 0.002)."""
    for acc, learned in ((0.11, False), (0.14, True)):
        folder = tmp_path / str(acc)
        make(folder, {0.5: [0.1, acc, 2 * acc - 0.1], 1.0: [0.12, 0.09, 0.1]})
        write_teacher_accuracy(folder, [GOOD])
        results = kdtune.load(folder)
        assert ("no student learned" in str(results.warnings)) != learned
        assert results.verdict().startswith("No student learned: no comparison.") != learned
        words = list_studies(tmp_path).set_index("name").verdict[str(acc)]
        assert (words == "no student learned") != learned


def flat(share: np.ndarray) -> np.ndarray:
    return 1 - np.exp(-10 * share)


def annealed(share: np.ndarray) -> np.ndarray:
    """As slow as with a learning rate that falls to 0 by half a cosine."""
    return flat(np.cumsum(1 + np.cos(np.pi * share)) / len(share) / 4)


@pytest.mark.parametrize(
    ("shape", "epochs", "alarms"),
    [
        (flat, 25, (0, 0.03)),
        (annealed, 60, (0, 0.03)),
        (lambda share: share, 25, (0.97, 1)),
        (lambda share: share, 5, (0, 0)),  # no end
    ],
)
def test_curves_that_still_rise(shape, epochs: int, alarms: tuple[float, float]) -> None:
    """40 studies of 8 repeats are simulated: curves over 30 points, epochs with an sd of 1."""
    rng, count, ids = np.random.default_rng(0), 40, [f"{c}{r}" for c in "ab" for r in range(8)]
    trials = pd.DataFrame({"trial_id": ids, "config_id": [i[0] for i in ids]})
    trials = trials.assign(status="completed", label="", repeat=[int(i[1]) for i in ids])
    row, share = pd.Series({"config_id": "a", "baseline": "b"}), np.arange(1, epochs + 1) / epochs
    found = 0
    for _ in range(count):
        accs = 0.5 + 0.3 * shape(share) + rng.normal(0, 0.01, (len(ids), epochs))
        val = pd.DataFrame(accs, index=pd.Index(ids, name="trial_id"))
        val = val.melt(var_name="epoch", value_name="acc", ignore_index=False)
        search = trials.assign(**{"val/acc@last": 0.7})
        tables = trials, search, val.reset_index().assign(split="val", loss=1.0, config_id="")
        named = Named(row, "worse", ("a", "b"), (), Criterion(), *tables, ())
        found += "not converged" in find_doubts(named)
    assert alarms[0] <= found / count <= alarms[1]


def test_a_conclusion_says_what_it_depends_on(tmp_path: Path) -> None:
    write_study(tmp_path, draw({0.1: 0.06, 0.5: 0.03, 1.0: 0.0}, 8))
    verdict = kdtune.load(tmp_path).verdict()
    assert verdict.endswith("searched: alpha = 0.1 (lowest). The best may lie beyond.")
    best = at(0.1).config_id
    edit_records(tmp_path, lambda x: x["trial_id"].startswith(best) and x.update(ce=1.405))
    results = kdtune.load(tmp_path)
    words = r"beyond. But cross-entropy worsened, from 0.\d+ to 1.405 n"
    assert re.search(words, results.verdict()) and results.warnings == []
    assert "calibration" not in results.verdict(results.criterion("ce"))


def test_a_conclusion_names_curves_that_still_rise(tmp_path: Path) -> None:
    """The curves of `make` rise by a tenth of the last accuracy in each of 10 epochs."""
    run = replace(RUN, epochs=10)
    last = draw({0.5: 0.05, 1.0: 0.0}, 4)
    results = make(tmp_path, {replace(run, alpha=a): accs for a, accs in last.items()}, run=run)
    (warning,) = results.warnings
    assert re.match(r"not converged: .* still rose by 7.\d points \(alpha = 0.5\) and 7", warning)
    assert warning[1:] in results.verdict()


VIEWS = replace(RUN, teacher="big", teacher_epochs=5, augment="resized-crop")


@pytest.mark.parametrize(
    ("acc", "record", "values", "is_named"),
    [
        (0.57, GOOD, {}, True),
        (0.72, GOOD, {}, False),
        (0.57, of_splits(180, 450), {}, False),  # train itself, by its labels
        (0.57, replace(GOOD, teacher="other"), {}, False),
        (0.57, GOOD, {"augment": "none"}, False),
        (0.57, GOOD, {"mixup": 0.2}, False),
    ],
)
def test_a_teacher_that_is_wrong_on_the_training_views(
    tmp_path: Path, acc: float, record: TeacherAccuracy, values: dict, is_named: bool
) -> None:
    run = replace(VIEWS, **values)
    last = {replace(run, alpha=a): accs for a, accs in draw({0.5: -0.08, 1.0: 0.0}, 4).items()}
    write_study(tmp_path, last, run=run)
    edit_records(tmp_path, lambda x: x.get("split") == "train" and x.update(teacher_acc=acc))
    write_teacher_accuracy(tmp_path, [record])
    results = kdtune.load(tmp_path)
    warnings = [text for text in results.warnings if "training views" in text]
    assert len(warnings) == is_named
    words = "The teacher big (5 epochs) is right on only 57.0% of the training views (--augment r"
    assert (words in results.verdict()) == is_named
    assert all("but on 90.0% of val without augmentation" in text for text in warnings)


def test_repeats_whose_training_failed(tmp_path: Path) -> None:
    """The curves of `make` rise, and so their losses fall."""
    last = draw({0.5: 0.05, 1.0: 0.0}, 8)
    last[0.5][5] = 0.12  # at chance, unlike the others
    write_study(tmp_path, last)
    write_teacher_accuracy(tmp_path, [GOOD])
    lost = at(0.5, 3).trial_id

    def explode(x: dict) -> None:
        if x["trial_id"] == lost and x.get("epoch") == 2:
            x.update({"acc": 0.15, "loss": 40.0})

    edit_records(tmp_path, explode)
    results = kdtune.load(tmp_path)
    words = "the training failed in 2 of 8 repeats of alpha = 0.5: the loss rose"
    assert sum(text.startswith(words) for text in results.warnings) == 1
    assert words[1:] in results.verdict()
    edit_records(tmp_path, lambda x: x["trial_id"] == lost and x.update(loss=1.0))
    # 75 of 500 are significantly more than chance
    assert "failed in 1 of 8 repeats of alpha" in kdtune.load(tmp_path).verdict()
    folder = tmp_path / "weak"  # all have hardly learned
    make(folder, {0.5: [0.13, 0.21, 0.26, 0.18], 1.0: [0.12, 0.11, 0.26, 0.28]})
    write_teacher_accuracy(folder, [GOOD])
    assert "failed" not in kdtune.load(folder).verdict()
