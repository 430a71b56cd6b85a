"""Records of trials that Ray gives up, hang or have no memory; of the others: test_search.py."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from simulated_runs import LISTS, make

from kdtune.config.records import Accuracy, TeacherAccuracy, write_teacher_accuracy
from kdtune.config.text import FolderUnusableError
from kdtune.planning.plan import Plan
from kdtune.raytune import recorder as module
from kdtune.raytune.driver import RepeatSearcher
from kdtune.raytune.machines import Capacity, TrialResources
from kdtune.raytune.progress import ProgressDisplay
from kdtune.raytune.recorder import MAX_LOST_MACHINES, Recorder, SilenceWatch
from kdtune.storage.folder import MARK
from kdtune.storage.mirror import Mirror, RecordsUploader
from kdtune.storage.records import Records, read_lines
from kdtune.streams.cache import Cache


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    study = replace(make("grid", LISTS, "all"), out=str(tmp_path), name="s")
    plan = Plan(study)
    display = ProgressDisplay(plan, Cache(str(tmp_path / "cache"), 1.0))
    with Records(study.folder) as records:
        uploader = RecordsUploader(Mirror(study), records)
        monitor: Any = None  # of machines, which needs Ray
        capacity: Any = Capacity.__new__(Capacity)  # its machines are Ray's, too
        capacity._concurrent, capacity._counted, capacity._limits = 8, math.inf, []
        capacity.trial = TrialResources(cpu=1, gpu=0.25)
        yield Recorder(display, uploader, monitor, capacity)


def tune_trial(config: Any, error_file: str | None = None) -> Any:
    """What Tune's callbacks get of a trial."""
    metadata = SimpleNamespace(num_failures=1)
    return SimpleNamespace(
        trial_id=uuid4().hex, config=config, error_file=error_file, run_metadata=metadata
    )


LOST = "Failure # 1\nThe actor died because its node has died. Node Id: 04"
DIED = "Failure # 1\nThe actor died because of an out-of-memory error"
GPU = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
HOST = "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"


def begin(
    recorder: Recorder, searcher: RepeatSearcher, error: str = "", started: bool = True
) -> Any:
    """Return a trial that Tune has made, perhaps started, and that ends with this error."""
    file = recorder.study.folder.parent / "error.txt"
    file.write_text(error)
    trial = tune_trial(searcher.suggest("a"), str(file))
    if started:
        recorder.on_trial_start(0, [], trial)
    return trial


def ends(recorder: Recorder) -> dict[str, str | None]:
    """Return the error of each run that has ended."""
    lines = read_lines(recorder.study.folder)[0]
    return {line["trial_id"]: line["error"] for line in lines if line["kind"] == "end"}


@pytest.mark.parametrize("started", [True, False])
def test_a_run_of_a_lost_machine_is_suggested_again(recorder: Recorder, started: bool) -> None:
    """Also if its second worker does not start: what counts is the trial of Tune, not the run."""
    searcher = RepeatSearcher(recorder.plan, lambda: 1)
    first = begin(recorder, searcher, LOST, started)
    assert searcher.suggest("b") is None  # one at a time
    recorder.on_trial_error(0, [], first)
    second = begin(recorder, searcher, DIED, started=False)
    assert second.config == first.config
    recorder.on_trial_error(0, [], second)
    assert begin(recorder, searcher).config == first.config
    kinds = [(line["kind"], line["attempt"]) for line in read_lines(recorder.study.folder)[0]]
    assert kinds == [("start", i) for i in range(1 + started)]


@pytest.mark.parametrize(
    ("started", "tries", "reason"),
    [
        (True, 0, "its worker died 3 times"),  # Tune reports it after its retries
        (False, 2, "its worker did not start, 3 times"),  # Tune does not retry it
    ],
)
def test_a_run_whose_worker_died_3_times_has_failed(
    recorder: Recorder, started: bool, tries: int, reason: str
) -> None:
    searcher = RepeatSearcher(recorder.plan, lambda: 1)
    trial = begin(recorder, searcher, DIED, started)
    for name in range(tries):
        recorder.on_trial_error(0, [], trial)
        assert searcher.suggest(str(name)) == trial.config
        assert read_lines(recorder.study.folder)[0] == []
    recorder.on_trial_error(0, [], trial)
    start, end = read_lines(recorder.study.folder)[0]
    assert (start["kind"], end["status"], end["error"]) == ("start", "failed", reason)
    assert searcher.suggest("d") not in (None, trial.config)


def test_a_run_that_takes_its_machines_down_fails_in_the_end(recorder: Recorder) -> None:
    searcher = RepeatSearcher(recorder.plan, lambda: 1)
    for number in range(MAX_LOST_MACHINES // 2 + 1):
        assert ends(recorder) == {}
        trial = begin(recorder, searcher, LOST)
        recorder.on_trial_recover(0, [], trial)
        # until then Tune tries it again without a limit
        assert trial.run_metadata.num_failures == (number == MAX_LOST_MACHINES // 2)
        recorder.on_trial_error(0, [], trial)
    assert list(ends(recorder).values()) == ["its worker died 3 times"]


def test_a_run_that_met_an_unusable_folder_ends_the_study_at_the_next_step(
    recorder: Recorder,
) -> None:
    trial = begin(recorder, RepeatSearcher(recorder.plan, lambda: 2))
    report = {"hostname": "h1", "pid": 1, "error": f"{MARK}the disk is full"}
    recorder.on_trial_result(0, [], trial, report)
    recorder.on_trial_complete(0, [], trial)
    with pytest.raises(FolderUnusableError, match=r"^h1: the disk is full$"):
        recorder.on_step_begin(0, [])
    assert [line["kind"] for line in read_lines(recorder.study.folder)[0]] == ["start"]


def test_the_teachers_accuracy_on_training_views_is_printed_once(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the first epoch of the first distilled run; of the second run nothing is printed."""
    lines: list[str] = []
    monkeypatch.setattr(recorder.display, "print_line", lines.append)
    run = replace(recorder.study.run, augment="crop", teacher_epochs=5)
    recorder.study = replace(recorder.study, run=run)
    recorder.plan = Plan(recorder.study)
    splits = {"train": Accuracy(300, 297, 30), "val": Accuracy(500, 460, 50)}
    measured = TeacherAccuracy(run.teacher, 5, "w", 10, splits, "f")
    write_teacher_accuracy(recorder.study.folder, [measured])
    searcher = RepeatSearcher(recorder.plan, lambda: 2)
    names = ("acc", "teacher_acc", "loss", "ce", "agreement")
    metrics = dict.fromkeys(names, 0.57) | {"n_examples": 300}
    for _ in range(2):
        epoch = {"number": 0, "seconds": 1.0, "splits": {"train": metrics, "val": metrics}}
        report = {"hostname": "h1", "pid": 1, "epochs": [epoch]}
        recorder.on_trial_result(0, [], begin(recorder, searcher), report)
    recorder.raise_failure()
    teacher = f"{run.teacher} (5 epochs)"
    first, warning = lines
    words = (
        f"Accuracy of the teacher {teacher} on the training views (--augment crop): 57.0% (n = 3"
    )
    assert first.startswith(words)
    assert warning.startswith(f"warning: the teacher {teacher} is right on only 57.0% of the train")


class Tune:
    """Starts as many runs as may run, and ends them."""

    def __init__(self, recorder: Recorder):
        self.recorder, self.trials = recorder, dict[str, Any]()
        self.searcher = RepeatSearcher(recorder.plan, recorder.capacity.concurrent_trials)

    def start(self) -> list[str]:
        """Start runs; return all that run."""
        while isinstance(config := self.searcher.suggest("a"), dict):
            trial = tune_trial(config)
            self.recorder.on_trial_start(0, [], trial)
            self.trials |= {list(self.recorder.plan.ledger.running)[-1]: trial}
        return list(self.recorder.plan.ledger.running)

    def end(self, trial_id: str, error: str | None = None) -> None:
        splits = {"val": {self.recorder.study.task.score: 0.5, "loss": 1.0}}
        epochs = [{"number": 0, "seconds": 1.0, "splits": splits}]
        result = {"hostname": "h", "pid": 1, "error": error, "epochs": [] if error else epochs}
        self.recorder.on_trial_result(0, [], self.trials[trial_id], result)
        self.recorder.on_trial_complete(0, [], self.trials[trial_id])


def test_a_run_that_never_fits_does_not_lower_the_number_for_ever(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    tune = Tune(recorder)
    hungry, *_ = tune.start()
    for before, after in ((8, 4), (4, 2), (2, 1)):
        assert recorder.capacity.concurrent_trials() == len(tune.start()) == before
        tune.end(hungry, GPU)
        assert recorder.capacity.concurrent_trials() == after
        while len(recorder.plan.ledger.running) >= after:
            tune.end(next(iter(recorder.plan.ledger.running)))
    assert tune.start() == [hungry]
    tune.end(hungry, GPU)
    assert "no other run ran beside it: it needs a smaller batch" in str(ends(recorder)[hungry])
    assert recorder.capacity.concurrent_trials() == len(tune.start()) == 8
    assert "as many runs at a time again as before" in capsys.readouterr().out


def test_a_number_with_which_a_run_has_succeeded_is_kept(recorder: Recorder) -> None:
    """Also if another run does not even fit alone."""
    tune = Tune(recorder)
    large, hungry, *others = tune.start()
    tune.end(large, GPU)
    for trial_id in others:
        tune.end(trial_id)
    assert large in tune.start()
    tune.end(large)
    assert recorder.capacity.concurrent_trials() == len(tune.start()) == 4
    tune.end(hungry, GPU)
    for trial_id in list(recorder.plan.ledger.running):
        tune.end(trial_id)
    assert hungry in tune.start() and recorder.capacity.concurrent_trials() == 2
    tune.end(hungry, GPU)
    tune.end(next(iter(recorder.plan.ledger.running)))
    assert tune.start() == [hungry]
    tune.end(hungry, GPU)
    assert recorder.capacity.concurrent_trials() == len(tune.start()) == 4


def test_a_run_that_has_a_gpu_of_its_own_fails_at_once(recorder: Recorder) -> None:
    """Memory of the machine is shared nevertheless."""
    recorder.capacity.trial = TrialResources(cpu=1, gpu=1.0)
    tune = Tune(recorder)
    first, second, *_ = tune.start()
    tune.end(first, GPU)
    advice = "no other run shared its GPU: it needs a smaller batch size or a smaller model"
    assert ends(recorder)[first] == f"{GPU}; {advice}"
    assert recorder.capacity.concurrent_trials() == len(tune.start()) == 8
    tune.end(second, HOST)
    assert second not in ends(recorder) and recorder.capacity.concurrent_trials() == 4


def test_a_run_that_ray_kills_alone_is_the_cause_of_those_before(recorder: Recorder) -> None:
    """Ray's memory monitor ends Tune; which of the runs that ran it has killed is not known."""
    tune = Tune(recorder)
    hungry = tune.start()[0]
    for after in (4, 2, 1):
        recorder.on_worker_killed()
        assert recorder.capacity.concurrent_trials() == len(tune.start()) == after
        while hungry not in (running := tune.start()):
            tune.end(running[0])
    recorder.on_worker_killed()
    assert [trial_id for trial_id, error in ends(recorder).items() if error] == [hungry]
    assert recorder.capacity.concurrent_trials() == len(tune.start()) == 8


# -- runs that hang --


def test_a_run_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent for ten minutes and ten times the longest epoch; not while the driver was away."""
    now, lines = [0.0], list[str]()
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "check_local_ray", lambda: None)
    watch = SilenceWatch(lines.append)

    def pass_time(seconds: float, step: float = 10.0) -> None:
        for _ in range(int(seconds / step)):
            now[0] += step
            watch.poll()

    watch.hear("a")
    watch.hear("b")
    pass_time(100)
    watch.hear("a", "process 7 on h0")  # the longest silence is now 100 s, and the limit 1000 s
    watch.forget("b")
    pass_time(1000)
    now[0] += 5000  # the driver was suspended
    pass_time(1000)
    assert lines == []
    pass_time(20)
    (line,) = lines
    assert line.startswith("warning: a: no epoch for 17 minutes; if process 7 on h0 hangs, end it")
    pass_time(2000)
    watch.hear("a")  # the longest silence is now that of which it was named
    pass_time(3000)
    assert len(lines) == 1


def test_runs_that_wait_after_ray_has_stopped_do_not_hang(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have no process; those that have started again are watched."""
    now, lines = [0.0], list[str]()
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "check_local_ray", lambda: None)
    recorder.watch = SilenceWatch(lines.append)
    tune = Tune(recorder)
    assert len(tune.start()) == 8
    recorder.requeue_running()
    recorder.capacity.lower(1, [])
    assert len(tune.start()) == 1
    for _ in range(61):
        now[0] += 10.0
        recorder.watch.poll()
    assert len(lines) == 1 and "no epoch for 10 minutes" in lines[0]
