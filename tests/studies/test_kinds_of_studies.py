"""Studies in this process: folds, several teachers, text, objects, --extra; and what is refused.

The reference is the plain loop, which is given the teacher and the split of each repeat. A study of
objects equals, number for number, that of the factories with the same names. Studies of older
schemas open, go on and are extended without running anything again: tests/data has the folders that
kdtune 0.1 and the last versions of schema 2 and 3 left of the command below, without Ray's files.
That of schema 3 has --policy race, and its finalists were not recorded before their final repeats.
"""

import itertools
import json
import shutil
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories
import own_data
import pandas as pd
import pytest
import small_students
import torch
from filelock import FileLock, Timeout
from play import play
from reference import plain_loop
from safetensors.torch import load_file
from simulated_runs import curve
from tiny_run import TINY
from torch import nn
from torch.utils.data import TensorDataset

import kdtune
from kdtune.config.cli import parse
from kdtune.config.objects import Objects
from kdtune.config.records import read_teacher_accuracy
from kdtune.config.run import SCHEMA, Run
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.sources import StudyData, load_data
from kdtune.models.weights import RECORD, WEIGHTS
from kdtune.raytune.folder import merge_with_saved
from kdtune.raytune.objects import freeze_objects
from kdtune.reporting.sections import provenance, study_facts
from kdtune.results.comparison import Criterion
from kdtune.results.words import holds_for
from kdtune.storage.records import Round, read_lines, read_saved
from kdtune.streams.views import Resources
from kdtune.training.recipe import resolve, resolve_study
from kdtune.training.run import check_study, distill
from kdtune.training.teachers import fine_tune, missing_teachers

in_one_process = pytest.mark.usefixtures("in_this_process", "without_texts")


def check_trial(results: kdtune.Results, run: Run, teacher: Path) -> None:
    """Compare a trial of a study with the plain loop, which knows neither stream nor cache."""
    *_, (_, means) = plain_loop(resolve(run), teacher)
    row = results.trials.set_index("trial_id").loc[run.trial_id]
    for split in ("val", "test"):
        for name in ("loss", "acc", "teacher_acc", "logit_diff"):
            want = pytest.approx(means[split][name], rel=1e-5)
            assert row[f"{split}/{name}@last"] == want, (run.repeat, split, name)


@in_one_process
def test_each_repeat_has_its_fold_and_a_teacher_that_has_not_seen_its_val(study: Study) -> None:
    run = replace(study.run, folds=2, epochs=1)
    study = replace(study, run=run, space={"alpha": (0.0,)}, plain_share=0, repeats=1)
    assert len(kdtune.run(study).trials) == 1
    first = {file: file.read_bytes() for file in study.folder.glob(f"teacher/**/{WEIGHTS}")}
    assert len(first) == 1
    results = kdtune.run(replace(study, repeats=2))  # a further repeat needs a further teacher
    assert list(results.trials.status) == ["completed"] * 2
    assert all(file.read_bytes() == content for file, content in first.items())

    frame = pd.read_parquet(study.folder / "predictions.parquet")
    vals = []
    for repeat in range(2):
        own = replace(run, repeat=repeat, alpha=0.0)
        data = load_data(own)
        folder = study.folder / "teacher" / ("" if repeat == 0 else f"number-{repeat}")
        record = json.loads((folder / RECORD).read_text())
        assert record["data"] == data.fingerprint and record["run"]["repeat"] == -1 - repeat
        check_trial(results, own, folder)
        shown = frame[(frame.trial_id == own.trial_id) & (frame.split == "val")]
        assert shown.example.tolist() == data.numbers("val").tolist()
        vals += shown.example.tolist()
    assert sorted(vals) == list(range(200 + 48))  # each image of the pool is in val once
    accuracies = [one.name for one in read_teacher_accuracy(study.folder)]
    assert [name.rpartition(", ")[2] for name in accuracies] == ["repeat 0", "repeat 1"]
    with pytest.raises(InputError, match="folds: 2 → 4"):
        kdtune.run(replace(study, run=replace(run, folds=4)))


@in_one_process
def test_repeats_use_the_teachers_in_turn(study: Study, tmp_path: Path) -> None:
    run = replace(study.run, teachers=2, epochs=1)
    study = replace(study, run=run, space={"alpha": (0.0,)}, plain_share=0, repeats=3)
    results = kdtune.run(study)
    root = study.folder / "teacher"
    weights = [load_file(root / folder / WEIGHTS) for folder in ("", "number-1")]
    # number 0 is that of a study with one teacher
    list(fine_tune(replace(run, teachers=1), tmp_path / "one", Resources()))
    usual = load_file(tmp_path / "one" / WEIGHTS)
    assert all(torch.equal(weights[0][name], values) for name, values in usual.items())
    assert not all(torch.equal(weights[1][name], values) for name, values in usual.items())
    for repeat, folder in ((1, "number-1"), (2, "")):
        check_trial(results, replace(run, repeat=repeat, alpha=0.0), root / folder)
    (root / "number-1" / WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"the teacher in .*number-1 is damaged"):
        kdtune.run(replace(study, repeats=4))


@in_one_process
def test_each_size_and_repeat_has_a_teacher_of_the_images_of_its_students(study: Study) -> None:
    run = replace(study.run, teacher_train_images="same", epochs=1, budget_per="epochs")
    space = {"train_images": (60, 90), "alpha": (0.0,)}
    results = kdtune.run(replace(study, run=run, space=space, plain_share=0, repeats=2))
    subsets = set()
    for size, repeat in itertools.product((60, 90), (0, 1)):
        one = results.study.run.sample(train_images=size, alpha=0.0, repeat=repeat)
        folder = study.folder / "teacher" / f"{'number-1-' * repeat}images-{size}"
        check_trial(results, one, folder)
        recorded, data = Run(**json.loads((folder / RECORD).read_text())["run"]), load_data(one)
        assert torch.equal(data.subset(recorded), data.subset(one))
        assert recorded.repeat == -1 - repeat  # another order and other views than its students'
        subsets.add(tuple(data.subset(one).tolist()))
    assert len(subsets) == 4
    names = [one.name for one in read_teacher_accuracy(study.folder)]
    assert names[0].endswith("60 images), repeat 0") and len(set(names)) == 4
    drawn = "(each draws up to 90 of the 200 training images, from which its teacher learns, too)"
    assert f"{drawn} and" in holds_for(results.design, "val", new_images=True)
    by_steps = replace(one, train_images=60, budget_per="steps")  # as many as 90 images take
    epochs = list(fine_tune(by_steps, study.folder.parent / "steps", Resources()))
    assert {epoch.splits["train"]["n_examples"] for epoch in epochs} == {90}


TEXT = replace(
    small_students.TEXT,
    teacher_trainable="head",  # a frozen encoder
    **{"teacher_epochs": 2, "alpha": 0.3, "lr": 0.02, "schedule": "cosine", "epochs": 3},
)


@in_one_process
def test_a_study_of_text_equals_the_plain_loop(study: Study, tmp_path: Path) -> None:
    space = {"alpha": (0.3,), "trainable": ("all", "head")}
    own = {"space": space, "plain_share": 0.0, "keep": "all", "repeats": 1}
    study = replace(study, run=replace(TEXT, allow_random_backbone=True), **own)
    results = kdtune.run(study)
    assert list(results.trials.status) == ["completed"] * 2
    assert results.study.run.augment == "none"
    arrays, folder = own_data.text(), study.folder
    teacher = own_data.encoder(4).eval()
    teacher.load_state_dict(load_file(folder / "teacher" / "teacher.safetensors"))
    predictions = pd.read_parquet(folder / "predictions.parquet").set_index(["trial_id", "split"])
    for one in results.study.runs():
        *_, (plain, _) = plain_loop(one, folder / "teacher")
        student = plain.net.eval()
        ours = load_file(folder / "trials" / one.trial_id / "student.safetensors")
        for name, value in student.state_dict().items():
            assert (ours[name] - value).abs().max() <= 1e-6 * value.abs().max().clamp(min=1), name
        for split in ("val", "test"):
            x, own = torch.tensor(arrays[split][0]), predictions.loc[(one.trial_id, split)]
            assert [sorted({*arrays[split][1]})[k] for k in own.label] == arrays[split][1].tolist()
            assert own.predicted.tolist() == student(x).argmax(1).tolist()
            assert own.teacher.tolist() == teacher(x).argmax(1).tolist() and own.file.isna().all()
    # features of the frozen backbone are cached, the data themselves are not
    cached = (tmp_path / "cache").rglob("*.safetensors")
    assert {path.parents[1].name for path in cached} == {"features", "logits"}
    facts = provenance(results)["versions"]
    assert facts["examples in train"].startswith(str(len(arrays["train"][0])))


def test_settings_of_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"of shape .12., and got --augment crop; leave it out"):
        resolve(replace(TEXT, augment="crop"))
    with pytest.raises(InputError, match=r"and got --student-mean 0.5 0.4; leave it out"):
        resolve(replace(TEXT, student_mean=(0.5, 0.4)))
    assert resolve(replace(TEXT, augment="none")) == resolve(TEXT)


@pytest.mark.slow  # its numbers: tests/streams/test_stream.py
@in_one_process
def test_a_study_with_images_without_labels(taught: Study) -> None:
    run = replace(taught.run, extra="rest", extra_share=0.5, epochs=1)
    results = kdtune.run(replace(taught, run=run, space={"alpha": (0.2, 1.0)}, repeats=1))
    share = results.trials.set_index("config/alpha")["config/extra_share"]
    assert share[0.2] == 0.5 and share.isna()[1.0]  # plain training has none
    counts = results.epochs.groupby("split").n_examples.unique()
    assert counts["train"].tolist() == [run.train_images]
    study = json.loads((taught.folder / "study.json").read_text())
    assert set(study["fingerprints"]) == {"data", "extra images", "teacher", "student"}
    assert "images without labels (rest)" in study_facts(results, Criterion())["data"]


IMAGES = own_data.clothes()


def objects(width: int = 2) -> dict[str, Any]:
    """The objects of a study: as equal as another session can make them."""

    def make_student(num_classes: int) -> nn.Module:
        return factories.small_cnn(num_classes, width=width)

    torch.manual_seed(5)
    teacher = factories.tiny_teacher(10)
    data = {**IMAGES, "train": TensorDataset(*IMAGES["train"])}
    data["val"] = tuple(part.numpy() for part in IMAGES["val"])
    return {"data": data, "teacher": teacher, "student": make_student, "augment": "crop"}


@in_one_process
def test_objects_equal_factories(study: Study, tmp_path: Path) -> None:
    weights = {"teacher_epochs": None, "teacher_weights": "default", "student_weights": "default"}
    run = replace(study.run, **weights)  # type: ignore[arg-type]
    own = objects()
    net, before = own["teacher"].train(), [p.clone() for p in own["teacher"].state_dict().values()]
    study = replace(study, run=replace(run, **own), space={"alpha": (0.2, 1.0)}, repeats=1)
    results = kdtune.run(study)

    torch.save(net.state_dict(), tmp_path / "teacher.pt")
    named = replace(run, teacher_epochs=0, teacher_weights=str(tmp_path / "teacher.pt"))
    named = replace(named, student_weights="none")
    for alpha in (0.2, 1.0):
        *_, last = distill(replace(named, alpha=alpha), tmp_path, Resources())
        trial = results.trials.set_index("config/alpha").loc[alpha]
        for split in ("val", "test"):
            for metric in ("acc", "ce", "loss", "logit_diff", "teacher_acc"):
                assert trial[f"{split}/{metric}@last"] == last.splits[split][metric], metric

    after = net.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(m.training for m in net.modules()) and all(p.requires_grad for p in net.parameters())
    record = json.loads((study.folder / "study.json").read_text())
    assert record["run"]["student"] == "object:make_student"
    assert (study.folder / "thumbnails").exists()  # the report's images, from the data passed
    assert len(list((study.folder / "students").glob("*.safetensors"))) == 1
    with pytest.raises(InputError, match=r"load_student\(..., module=make_student\)"):
        kdtune.load_student(study.folder)
    trained = kdtune.load_student(study.folder, module=own["student"])
    saved = load_file(study.folder / "students" / "repeat-00.safetensors")
    assert all(torch.equal(v, saved[k]) for k, v in trained.net.state_dict().items() if k in saved)

    # a complete study is compared with equal, with other and with no objects
    names = replace(study.run, objects=Objects())  # as in another session
    again = replace(study, run=replace(names, **objects()))
    assert len(kdtune.run(again).trials) == 2
    other = replace(study, run=replace(names, **objects(width=3)))
    with pytest.raises(InputError, match=r"student object:make_student.* has changed since"):
        kdtune.run(other)
    read = kdtune.load(study.folder).study
    assert len(kdtune.run(read).trials) == 2  # nothing is left to train
    with pytest.raises(InputError, match=r"kdtune.Run\(data=data, teacher=\w+, student=make_stu"):
        kdtune.run(replace(read, repeats=3))


DOCS = Path(__file__).parents[2] / "docs" / "extending.md"


def test_the_example_passes_all_checks() -> None:
    pytest.importorskip("sklearn")
    _, _, rest = DOCS.read_text("utf-8").partition("    # digits.py\n")
    code = textwrap.dedent(rest.partition("\n- **A function")[0])
    scope: dict[str, Any] = {"__name__": "example"}
    exec(code, scope)
    study = freeze_objects(scope["study"])
    assert study.run.student == "object:make_student" and study.run.data == "object:data"
    made_of = check_study(resolve_study(study, StudyData(study.run)), load_data(study.run))
    assert set(made_of) == {"data", "teacher", "student"}


def test_a_driver_locks_before_it_reads(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two drivers that start at once could each write over the other's study.json."""
    study.folder.mkdir(parents=True)

    def read(folder: Path) -> None:
        with pytest.raises(Timeout):
            FileLock(folder / ".lock").acquire(timeout=0)
        raise InputError("read")

    monkeypatch.setattr("kdtune.raytune.folder.read_if_saved", read)
    with pytest.raises(InputError, match="read"):
        kdtune.run(study)
    in_use = pytest.raises(InputError, match="is in use by another process")
    with FileLock(study.folder / ".lock"), in_use:
        kdtune.run(study)
    assert study.folder.exists()  # it was there before


def test_a_place_that_cannot_be_written_or_reached_is_refused(study: Study, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/tiny cannot be written .*--out FOLDER"):
        kdtune.run(replace(study, name="tiny", out=str(tmp_path / "file")))
    with pytest.raises(InputError, match=r"got --gpus 4. Use --gpus 0, which runs on the CPUs"):
        kdtune.run(replace(study, gpus=4), ray_init={"num_gpus": 0})
    with pytest.raises(InputError, match=r"no Ray cluster answers at 127.0.0.1:9 .*refused"):
        kdtune.run(replace(study, address="127.0.0.1:9"))
    assert not study.folder.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_images": 5000}, "train_images=5000"),
        ({"teacher": "resnet51"}, "did you mean .*resnet50"),
        ({"student": "squeezenet1_0", "trainable": "head"}, "is not its last operation"),
    ],
)
def test_bad_input_is_said_before_any_work(study: Study, change: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        kdtune.run(replace(study, run=replace(study.run, **change)))
    assert not study.folder.exists()


DATA = Path(__file__).parents[1] / "data"
COMMAND = (
    "--name old --alpha 0.5 1 --temperature 1 --loss kl mse --epochs 2 --train-images 100 "
    "--teacher-epochs 1 --repeats 2"
)
RACE = f"{COMMAND} --policy race"
OF_MODELS = {"teacher": "1b654f66ca8f404d", "student": "2cd01973b56dac91"}
FINGERPRINTS = {
    "study_v0_1": {"data": "f45b9b1eab74d838"},
    "study_schema_2": {"data": "f45b9b1eab74d838", **OF_MODELS},
    "study_schema_3": {"data": "f45b9b1eab74d838", **OF_MODELS},
}
"""What the study of each folder is compared by; version 0.1 saved none for its own models."""


@pytest.fixture(params=list(FINGERPRINTS))
def saved(request: pytest.FixtureRequest) -> Path:
    """The folder of an older study."""
    return DATA / str(request.param)


@pytest.fixture
def older(saved: Path, tmp_path: Path) -> Study:
    """The study of the command, in a copy of the folder."""
    shutil.copytree(saved, tmp_path / "runs" / "old")
    asked = parse("search", (RACE if saved.name == "study_schema_3" else COMMAND).split())
    return replace(asked, out=str(tmp_path / "runs"), cache=str(tmp_path / "cache"))


@pytest.mark.usefixtures("without_texts")
def test_it_opens_with_the_same_numbers_and_the_same_command_runs_nothing(
    older: Study, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = pd.read_parquet(saved / "trials.parquet")
    pd.testing.assert_frame_equal(kdtune.load(older.folder).trials[written.columns], written)
    assert {run.config_id for run in older.runs()} == set(written.config_id)
    assert read_saved(older.folder).fingerprints == FINGERPRINTS[saved.name]
    data = StudyData(older.run)
    run = resolve_study(older, data).run
    assert missing_teachers(run, [run], older.folder / "teacher", data) == []  # it is ready

    monkeypatch.setattr("kdtune.raytune.driver.ray_session", None)  # Ray is not even started
    lines = read_lines(older.folder)[0]
    results = kdtune.run(older)
    assert read_lines(older.folder)[0] == lines
    # earlier versions drew the training images once; new studies draw them in each repeat
    assert (results.study.run.train_draw, run.train_draw) == ("study", "repeat")
    is_race = saved.name == "study_schema_3"
    assert list(results.trials.status) == ["completed"] * (10 if is_race else 6)
    kept = len(list(older.folder.glob("trials/*/student.safetensors")))
    assert kept == (0 if is_race else 6)  # as the earlier version kept them
    assert json.loads((older.folder / "study.json").read_text())["schema"] == SCHEMA


def test_a_race_without_recorded_finalists_says_so_and_its_extension_records_them() -> None:
    """The finals of schema 3 stay repeats 2000 and 2001, those of the new round begin at 2002."""
    results, lines = kdtune.load(DATA / "study_schema_3"), read_lines(DATA / "study_schema_3")[0]
    assert "held-out" not in results.text() and len(results.final_trials) == 4
    assert "did not record the finalists" in results.context().sentence("baseline")
    new = play(replace(results.study, repeats=3), curve, lines=lines)[len(lines) :]
    (round_,) = (Round.from_line(line) for line in new if line["kind"] == "finalists")
    assert (round_.number, round_.first_repeat, len(round_.finalists)) == (1, 2002, 2)
    final = {line["repeat"] for line in new if line["kind"] == "start" and line["repeat"] >= 2000}
    assert final == {2002, 2003, 2004}


@pytest.mark.parametrize("saved", ["study_v0_1", "study_schema_2"], indirect=True)
@in_one_process
def test_it_is_extended(older: Study, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_lines(older.folder)[0]
    more = replace(older, space={**older.space, "alpha": (0.0, 0.5, 1.0)})
    results = kdtune.run(more)
    assert results.study.run.train_draw == "study"
    assert list(results.trials.status) == ["completed"] * 5 * 2
    lines = read_lines(older.folder)[0]
    assert lines[: len(before)] == before
    old = {line["trial_id"] for line in before}
    assert old.isdisjoint(line["trial_id"] for line in lines[len(before) :])
    assert set(read_saved(older.folder).fingerprints) == {"data", "teacher", "student"}
    said = capsys.readouterr().out
    assert "Training the teacher" not in said  # the saved one is used
    unknown = "no fingerprint to compare the teacher and the student with" in said
    assert unknown == (saved.name == "study_v0_1")


@pytest.mark.parametrize("left_out", [set(), {"batch_norm"}])
def test_a_head_alone_keeps_the_batch_norm_of_its_study(left_out: set[str], tmp_path: Path) -> None:
    """Until schema 4 it was in train mode unless a flag said otherwise; new studies have eval."""
    asked = Study(run=replace(TINY, trainable="head"), out=str(tmp_path))
    old = replace(asked, run=replace(asked.run, batch_norm="train"))
    values = json.loads(old.to_json()) | {"schema": 4}
    values["run"] = {name: v for name, v in values["run"].items() if name not in left_out}
    asked.folder.mkdir()
    (asked.folder / "study.json").write_text(json.dumps(values))
    data, merged = StudyData(TINY), merge_with_saved(asked, read_saved(asked.folder))
    resumed, new = resolve_study(merged, data, begun=True), resolve_study(asked, data)
    assert (resumed.run.batch_norm, new.run.batch_norm) == ("train", "eval")
    assert [run.config_id for run in resumed.runs()] == [run.config_id for run in old.runs()]
    both = resolve_study(replace(asked, space={"trainable": ("all", "head")}), data)
    modes = {run.trainable: run.config["batch_norm"] for run in both.runs()}
    assert modes == {"all": "train", "head": "eval"}
