"""A trial of distillation or of a training function, its teachers and costs, without Ray.

The reports to Tune are caught.
"""

import linecache
import runpy
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, Mock

import factories
import own_functions
import pandas as pd
import pytest
import ray
import torch
from own_functions import study_of
from photos import save_photos
from ray import cloudpickle
from s3_service import S3
from tiny_run import TINY
from torch import nn

from kdtune.config.files import CHECKPOINT, STUDY, TEACHER_ACCURACY
from kdtune.config.records import read_costs, read_teacher_accuracy, write_costs
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.checks import Contents
from kdtune.data.sources import StudyData, load_data
from kdtune.raytune import distillation
from kdtune.raytune.distillation import TeacherPreparation, distillation_epochs
from kdtune.raytune.function import function_epochs, run_trial
from kdtune.raytune.machines import TrialResources, fingerprints_of
from kdtune.raytune.objects import freeze, freeze_objects, share_objects, thaw
from kdtune.storage.mirror import Mirror, fetch
from kdtune.storage.records import unpack_correct
from kdtune.storage.store import Store
from kdtune.training.loop import Checkpoint
from kdtune.training.recipe import resolve_study
from kdtune.training.run import make_student
from kdtune.training.teachers import RECORD, WEIGHTS, initial_teacher


@pytest.fixture
def stored(s3: S3, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study on a store that has its teacher."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    made = Study(name="t", out=f"s3://kdtune/{tmp_path.name}", run=TINY, cache_gb=0, gpus=0)
    made = resolve_study(made, StudyData(TINY))
    shutil.copytree(teacher_folder, made.folder / "teacher")
    (made.folder / STUDY).write_text(made.to_json())
    Mirror(made).push(STUDY, "teacher")
    return made


Reports = list[dict[str, Any]]


def epochs_of(reports: Reports) -> list[dict[str, Any]]:
    return [epoch for report in reports for epoch in report["epochs"]]


def run_here(study: Study, reports: Reports) -> Reports:
    """Run the trial of the study's run, as a worker of this driver does; return its epochs."""
    reports.clear()
    contents = Contents.of(StudyData(study.run))
    run_trial(partial(distillation_epochs, contents=contents), {}, study)
    return epochs_of(reports)


def test_a_damaged_teacher_is_fetched_again(
    stored: Study, teacher_folder: Path, reports: Reports
) -> None:
    """One that is damaged there, too, is said."""
    for name in (RECORD, WEIGHTS):
        here = stored.folder / "teacher" / name
        here.write_bytes(here.read_bytes()[:100])
    assert len(run_here(stored, reports)) == TINY.epochs
    assert reports[-1]["error"] is None
    assert here.read_bytes() == (teacher_folder / WEIGHTS).read_bytes()
    here.write_bytes(here.read_bytes()[:100])
    Mirror(stored).push("teacher")
    run_here(replace(stored, run=replace(stored.run, repeat=1)), reports)
    error = reports[-1]["error"]
    assert error.startswith("InputError: the teacher in ") and "is damaged" in error


def test_a_store_has_the_last_state_and_a_damaged_one_is_said(
    stored: Study, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last epoch reports which images of val are correct, also when it is reported again."""
    monkeypatch.setattr(Checkpoint, "MAX_AGE_SECONDS", 0.0)  # saves after every epoch
    folder = f"trials/{stored.run.trial_id}"
    last = stored.folder / folder / CHECKPOINT
    epochs = [run_here(stored, reports)]
    mirror = Mirror(stored)
    assert mirror.store is not None
    names = mirror.store.names(folder)
    assert f"{folder}/{last.name}" in names
    mirror.pull(f"{folder}/predictions.parquet")
    frame = pd.read_parquet(stored.folder / folder / "predictions.parquet")
    epochs.append(run_here(stored, reports))  # from the state
    mirror.pull(f"{folder}/{last.name}")
    last.write_bytes(last.read_bytes()[:100])
    Mirror(stored).push(folder)
    epochs.append(run_here(stored, reports))  # from the beginning
    assert reports[-1]["error"] is None
    (warning,) = [warning for report in reports for warning in report["warnings"]]
    assert warning == f"{last} cannot be used (File is not a zip file), so the run begins again"
    times = [{epoch["seconds"] for epoch in attempt} for attempt in epochs]
    assert times[0] == times[1] and not times[0] & times[2]
    for attempt in epochs:
        assert [epoch["splits"] for epoch in attempt] == [epoch["splits"] for epoch in epochs[0]]
        assert [epoch for epoch in attempt if "correct" in epoch] == attempt[-1:]
        val = attempt[-1]["splits"]["val"]
        correct = unpack_correct({**val, "correct": attempt[-1]["correct"]})
        assert correct is not None and correct.mean() == pytest.approx(val["acc"])
        assert correct.tolist() == frame.correct[frame.split == "val"].tolist()


def test_the_last_epoch_reports_a_number_of_each_group(tmp_path: Path, reports: Reports) -> None:
    save_photos(tmp_path / "photos", 3)
    run = replace(TINY, data=str(tmp_path / "photos"), groups="(.).png", train_images=None)
    net = "cifar_resnet20"
    run = replace(run, teacher=net, student=net, teacher_epochs=0, epochs=1)
    study = resolve_study(Study(run=run, out=str(tmp_path), cache_gb=0, gpus=0), StudyData(run))
    (epoch,) = run_here(study, reports)
    values = unpack_correct({"correct": epoch["correct"]})
    file = study.folder / "trials" / study.run.trial_id / "predictions.parquet"
    val = pd.read_parquet(file).query("split == 'val'")
    assert values is not None and values == pytest.approx(val.groupby("group").correct.mean())


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Measures teachers, and has its calls."""
    made = Mock(wraps=distillation.measure_teachers)
    monkeypatch.setattr(distillation, "measure_teachers", made)
    return made


def check(study: Study) -> list[str]:
    """Start the study's gate as the driver does; return what it says."""
    lines, mirror, core = list[str](), Mirror(study), TrialResources(1, 0)
    mirror.pull(TEACHER_ACCURACY)
    preparation = TeacherPreparation(study, StudyData(study.run), mirror, core, lines.append)
    preparation.report_teacher_accuracy()
    return lines


def test_the_record_travels_with_the_study(
    stored: Study, tmp_path: Path, measure: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, *lines = check(stored)
    assert measure.call_count == len(lines) == 1 and said == "Measuring the accuracy of 1 teacher."
    assert lines[0].startswith("Accuracy of the teacher factories:tiny_teacher (1 epoch): ")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "there"))  # another machine
    assert check(stored) == lines and measure.call_count == 1
    assert len(read_teacher_accuracy(fetch(str(stored.uri))[0])) == 1
    Mirror(stored).delete(TEACHER_ACCURACY)
    assert check(stored) == [said, *lines] and measure.call_count == 2

    strict = replace(stored, run=replace(stored.run, teacher_min_acc=0.999))
    with pytest.raises(InputError, match=r"at least 0.999 on val .* or lower --teacher-min-acc"):
        check(strict)
    assert measure.call_count == 2


ENSEMBLE = f"{TINY.teacher}+{TINY.student}"


def test_teachers_and_ensembles_have_a_line_each(tmp_path: Path, measure: Mock) -> None:
    """Random weights: no teacher is better than chance."""
    run = replace(TINY, teacher_epochs=0)
    space = {"teacher": (TINY.teacher, ENSEMBLE), "alpha": (0.5, 1.0)}
    study = Study(name="t", out=str(tmp_path), run=run, space=space, cache_gb=0, gpus=0)
    lines = check(resolve_study(study, StudyData(run)))
    names = [run.teacher for call in measure.call_args_list for run in call.args[1]]
    assert names == [TINY.teacher, TINY.student, ENSEMBLE]
    accuracies = [line for line in lines if line.startswith("Accuracy of the teacher ")]
    assert len(accuracies) == 3 and f" {ENSEMBLE}: " in accuracies[2]
    assert any("is no better than chance on" in line for line in lines)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study(name="tiny", out=str(tmp_path), run=TINY, gpus=0, cpus_per_trial=2)
    made.folder.mkdir(parents=True)
    return made


def measure_costs(study: Study) -> list[str]:
    lines, measure = list[str](), partial(distillation.measure_all, study, data=StudyData(TINY))
    distillation.add_costs(study, Mirror(study), lines.append, measure)
    return lines


def test_each_model_is_measured_once(study: Study) -> None:
    first = [f"Measuring parameters, FLOPs and latency of {TINY.student}, {TINY.teacher}."]
    assert measure_costs(study) == first
    student, teacher = read_costs(study.folder)
    assert (student.role, student.model) == ("student", TINY.student)
    assert (teacher.role, teacher.model) == ("teacher", TINY.teacher)
    assert 0 < student.params < teacher.params and student.threads == 2
    assert student.flops and teacher.flops and student.device == "cpu"

    marked = [replace(student, latency_ms=123.0), teacher]
    write_costs(study.folder, marked)
    space = {"teacher": (TINY.teacher, ENSEMBLE), "student": (TINY.student,)}
    other = replace(study, space=space)  # one more teacher
    assert len(measure_costs(other)) == 1
    *before, third = read_costs(study.folder)
    assert before == marked and (third.role, third.model) == ("teacher", ENSEMBLE)
    assert third.params == teacher.params + student.params
    assert measure_costs(other) == []


def test_a_model_that_cannot_be_measured(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [DEFAULT, RuntimeError("out of memory\nand more")]  # of the student, of the teacher
    measure = Mock(wraps=distillation.measure_cost, side_effect=errors)
    monkeypatch.setattr(distillation, "measure_cost", measure)
    reason = f"the cost of the teacher {TINY.teacher} cannot be measured (out of memory)"
    assert measure_costs(study)[1:] == [f"warning: {reason}"]
    assert [cost.role for cost in read_costs(study.folder)] == ["student"]


def test_an_array_is_its_mean_and_kept_per_example(tmp_path: Path, reports: Reports) -> None:
    study = study_of(own_functions.wave, tmp_path, epochs=3)
    run_trial(function_epochs, {"alpha": 0.5, "repeat": 1}, study)
    assert reports[-1]["error"] is None
    found = epochs_of(reports)
    assert [e["splits"]["val"]["acc"] for e in found] == [5 / 8, 6 / 8, 7 / 8]
    assert [e["splits"]["val"]["n_examples"] for e in found] == [8] * 3
    assert found[0]["splits"]["test"] == {"n_examples": None, "acc": 0.5}
    run = study.base_run.sample(alpha=0.5, repeat=1)
    frame = pd.read_parquet(study.folder / "trials" / run.trial_id / "predictions.parquet")
    assert frame.acc.tolist() == [1.0] * 7 + [0.0] and set(frame.split) == {"val"}
    assert "correct" not in found[1]
    right = unpack_correct({**found[2]["splits"]["val"], "correct": found[2]["correct"]})
    assert right is not None and right.tolist() == [True] * 7 + [False]


def test_generators_are_seeded_by_the_repeat(tmp_path: Path, reports: Reports) -> None:
    """Here without a plan of epochs: the trial ends when its function does."""
    study, noise = study_of(own_functions.wave, tmp_path), []
    for alpha, repeat in ((0.5, 1), (1.0, 1), (0.5, 2), (0.5, 1)):
        run_trial(function_epochs, {"alpha": alpha, "repeat": repeat}, study)
        noise.append(epochs_of(reports)[-1]["splits"]["val"]["noise"])
    assert noise[0] == noise[1] == noise[3] != noise[2]
    assert reports[-1]["error"] is None and len(epochs_of(reports)) == 4 * 3


ONLY = 'InputError: metric must be "val/NAME" with a NAME of letters, digits and _, '


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("raises", "RuntimeError: no more data"),
        ("nothing", "ValueError: train yielded nothing, but must yield a dict of metrics"),
        ("nan", "Diverged: val/acc is nan in epoch 0"),
        ("no score", "ValueError: train must yield val/acc in each epoch, but yielded ['val/loss"),
        ("no split", ONLY),
        ("lengths", "ValueError: arrays of val must have one value per example each"),
        ("percent", "ValueError: val/acc must be a share in [0, 1], as kdtune's acc is, but is 81"),
        ("reserved", ONLY),
        ("exits", "InputError: train ended: it calls sys.exit(0) ("),
        ("control", ONLY),
        ("short", "ValueError: train yielded 1 epochs, but there are 3"),
        ("soft", "ValueError: val/acc must be 0 or 1 for each example"),  # for the test of auto
    ],
)
def test_what_a_function_does_wrong_is_said(
    tmp_path: Path, reports: Reports, kind: str, message: str
) -> None:
    own = {"epochs": 3, "space": {"kind": (kind,)}, "baseline": {}}
    study = study_of(own_functions.failing, tmp_path, **own)
    if kind == "soft":
        auto = {"until_decided": True, "budget": "9runs", "policy": "race", "epochs": 1}
        study = study_of(own_functions.soft, tmp_path, **auto)
    run_trial(function_epochs, {"kind": kind, "alpha": 0.5, "repeat": 0}, study)
    assert reports[-1]["error"].startswith(message) and len(reports[-1]["error"]) < 5000
    assert list(study.folder.glob("trials/*/error.txt"))


@pytest.mark.parametrize("name", ["state", "done"])
def test_files_of_epochs_that_were_never_heard_of_are_deleted(
    tmp_path: Path, reports: Reports, name: str
) -> None:
    """A state that is ahead of its epochs, or of a trial that was complete and then dropped."""
    study = study_of(own_functions.saves_too_early, tmp_path, epochs=2)
    run = study.base_run.sample(alpha=0.5, repeat=0)
    folder = study.folder / "trials" / run.trial_id / "files"
    folder.mkdir(parents=True)
    (folder / name).touch()
    run_trial(function_epochs, {"alpha": 0.5, "repeat": 0}, study)
    assert reports[-1]["error"] is None
    assert [epoch["number"] for epoch in epochs_of(reports)] == [0, 1]
    assert not folder.exists()  # nothing of the user's is in it


def test_the_files_of_a_trial_travel_through_the_store(
    s3: S3, tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one machine has written is there on another one; the log of epochs is not kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    study = study_of(own_functions.stops_once, f"s3://kdtune/{tmp_path.name}", epochs=3)
    sample = {"alpha": 0.5, "repeat": 0}
    run_trial(function_epochs, sample, study)
    assert reports[-1]["error"] == "RuntimeError: once" and len(epochs_of(reports)) == 2
    shutil.rmtree(study.folder)  # another machine
    reports.clear()
    run_trial(function_epochs, sample, study)
    assert reports[-1]["error"] is None
    assert [e["splits"]["val"]["began"] for e in epochs_of(reports)] == [0, 0, 2]
    place = f"trials/{study.base_run.sample(**sample).trial_id}"
    kept = Store(str(study.uri)).names(place)
    assert f"{place}/files/state.json" in kept and not any("kdtune-epochs" in n for n in kept)


def test_the_fingerprint_of_a_script_is_of_all_that_its_function_needs(tmp_path: Path) -> None:
    def of(helper: str, comment: str = "") -> str:
        text = (
            f"{comment}\ndef helper(x):\n    return {helper}\n"
            "def train(config, repeat):\n    yield {'val/acc': helper(config['alpha'])}\n"
        )
        (tmp_path / "script.py").write_text(text)
        linecache.clearcache()
        train = runpy.run_path(str(tmp_path / "script.py"))["train"]
        return fingerprints_of(study_of(train, tmp_path), None)

    assert of("x") == of("x", "# a comment elsewhere") != of("x / 2")


IMAGES = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
LABELS = torch.arange(40) % 10


def study_with(teacher: Any, student: Any, **values: Any) -> Study:
    data = {"train": (IMAGES, LABELS), "val": (IMAGES[:20].numpy(), LABELS[:20].tolist())}
    return Study(run=Run(data=data, teacher=teacher, student=student), **values)


def test_a_copy_is_the_module_bit_for_bit() -> None:
    net = factories.dropout_student(10).to(memory_format=torch.channels_last)
    net.tied = nn.Parameter(net[-1].weight.data)  # two parameters of one memory
    net.low = nn.Parameter(torch.randn(3).bfloat16(), requires_grad=False)
    net.register_buffer("part", torch.arange(6)[2:4])
    net.register_buffer("none", torch.empty(0, 2))
    net[1].eval()
    copy = thaw(freeze(net))
    own = net.state_dict()
    assert copy.state_dict().keys() == own.keys()
    for name, value in copy.state_dict().items():
        assert torch.equal(value, own[name]) and value.dtype == own[name].dtype
        assert value.stride() == own[name].stride()
        assert value.data_ptr() != own[name].data_ptr() or not value.numel()
    assert copy.tied.data_ptr() == copy[-1].weight.data_ptr()
    assert not copy.low.requires_grad and isinstance(copy.low, nn.Parameter)
    assert copy.training and not copy[1].training
    assert copy.preprocessing == net.preprocessing


def closing_over(value: Any) -> Callable[[int], nn.Module]:
    return lambda classes: value if isinstance(value, nn.Module) else nn.Linear(2, classes)


def test_copies_are_new_each_time_and_as_the_objects_were_at_the_beginning() -> None:
    net = factories.tiny_student(10)
    study = freeze_objects(study_with(closing_over(net), closing_over(net)))
    first, second = (make_student(study.run, load_data(study.run)) for _ in range(2))
    assert first.fingerprint() == second.fingerprint()
    first.freeze()
    with torch.no_grad():
        first.head.weight.zero_()
    assert second.head.weight.requires_grad and second.head.weight.any()
    assert all(p.requires_grad and p.any() for p in net.parameters() if p.dim() > 1)
    net = factories.tiny_teacher(10)
    study = freeze_objects(study_with(net, factories.tiny_student))
    before = initial_teacher(study.run, load_data(study.run)).fingerprint()
    with torch.no_grad():
        next(net.parameters()).add_(1)
    assert initial_teacher(study.run, load_data(study.run)).fingerprint() == before
    again = freeze_objects(replace(study, run=replace(study.run, teacher=net)))
    assert initial_teacher(again.run, load_data(again.run)).fingerprint() != before


NOTEBOOK = """
class Net(nn.Linear):
    def forward(self, x):
        return SCALE * super().forward(x)

def make(classes):
    return Net(784, classes)
"""


def test_copies_leave_the_classes_of_the_user_alone() -> None:
    """A notebook's class must go on reading the notebook's values."""
    scope: dict[str, Any] = {"__name__": "__main__", "nn": nn, "SCALE": 1.0}
    exec(NOTEBOOK, scope)
    forward, ones = scope["Net"].forward, torch.ones(1, 784)
    for value in (scope["make"], scope["Net"](784, 10)):
        content = freeze(value)
        scope["SCALE"] = 2.0
        copies = [thaw(content) for _ in range(2)]
        net, other = (copy if isinstance(copy, nn.Module) else copy(10) for copy in copies)
        assert type(net) is not type(other) and type(net).__name__ == "Net"
        want = nn.functional.linear(ones, net.weight, net.bias)
        assert torch.equal(net(ones), want)  # as it was: 1.0
        scope["SCALE"] = 1.0
    assert scope["Net"].forward is forward


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_what_cannot_be_copied_is_refused_in_one_sentence(role: str) -> None:
    net = factories.tiny_teacher(10)
    net.lock = threading.Lock()
    for value in (net, closing_over(threading.Lock())):
        study = Study(run=Run(**{role: value}))
        with pytest.raises(InputError, match=rf"{role}=\w+ cannot be copied for Ray's.*lock") as e:
            freeze_objects(study)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("values", "ray_init", "words"),
    [
        ({"address": "10.0.0.1:6379"}, None, "--address 10.0.0.1:6379"),
        ({}, {"address": "auto"}, "--address auto"),
        ({"out": "s3://bucket/runs"}, None, "--out s3://bucket/runs"),
    ],
)
def test_other_machines_need_names(values: Any, ray_init: Any, words: str) -> None:
    study = study_with(factories.tiny_teacher(10), factories.tiny_student, **values)
    with pytest.raises(InputError, match=words) as refused:
        freeze_objects(study, ray_init)
    assert str(refused.value).endswith('and give its name: data="my_module:my_function"')
    only_model = replace(study, run=replace(study.run, data="fashion"))
    with pytest.raises(InputError, match=r"teacher=\w+; .*teacher=\"my_module:my_function\""):
        freeze_objects(only_model, ray_init)


@pytest.mark.slow  # without the store: studies/test_kinds_of_studies.py
@pytest.mark.usefixtures("shared_ray")
def test_workers_have_the_same_objects_once() -> None:
    big = nn.Sequential(nn.Flatten(), nn.Linear(64, 5000), nn.Linear(5000, 10))  # 1.5 MB
    study = freeze_objects(study_with(big, closing_over(nn.Linear(8, 10))))
    fingerprints, look = worker_functions()
    want = fingerprints(study)
    shared = share_objects(study)
    assert fingerprints(shared) == want
    assert len(cloudpickle.dumps(shared)) < 10_000
    in_worker, is_same, again = ray.get(ray.remote(num_cpus=1)(look).remote(shared))
    assert in_worker == want and is_same
    assert fingerprints(again) == want  # also back in the driver


def worker_functions() -> Any:
    """Functions that a worker has by value, since it cannot import this file."""

    def fingerprints(study: Study) -> list[str]:
        data, run = load_data(study.run), study.run
        models = make_student(run, load_data(run)), initial_teacher(run, load_data(run))
        return [data.fingerprint, *(model.fingerprint() for model in models)]

    def look(study: Study) -> tuple[list[str], bool, Study]:
        is_same = load_data(study.run) is load_data(replace(study.run, repeat=3))
        return fingerprints(study), is_same, study

    return fingerprints, look
