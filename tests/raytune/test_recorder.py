"""Records of trials that Ray gives up, hang or have no memory; of the others: test_search.py.

What is shown of a study, and the command of --notify, run by a real shell.
"""

import io
import json
import math
import stat
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pandas as pd
import pytest
import study_folders as folders
from play import play, rest_of, start_of
from rich.console import Console
from simulated_runs import LISTS, curve, make

from kdtune.config.records import Accuracy, TeacherAccuracy, write_teacher_accuracy
from kdtune.config.study import Study
from kdtune.config.text import FolderUnusableError, NodeMismatchError
from kdtune.planning.ledger import finalists
from kdtune.planning.plan import Plan
from kdtune.raytune import progress
from kdtune.raytune import recorder as module
from kdtune.raytune.driver import Interrupted, RepeatSearcher
from kdtune.raytune.folder import write_study
from kdtune.raytune.machines import Capacity, TrialResources
from kdtune.raytune.progress import ProgressDisplay
from kdtune.raytune.recorder import MAX_LOST_MACHINES, Recorder, SilenceWatch
from kdtune.results.results import load
from kdtune.storage.folder import MARK
from kdtune.storage.mirror import Mirror, RecordsUploader
from kdtune.storage.records import Records, read_lines
from kdtune.streams.cache import Building, Cache


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


def tune_trial(config: Any, file: str | None = None) -> Any:
    """What Tune's callbacks get of a trial."""
    data = SimpleNamespace(num_failures=1)
    return SimpleNamespace(trial_id=uuid4().hex, config=config, error_file=file, run_metadata=data)


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


def test_a_run_in_an_unusable_folder_ends_the_study_at_the_next_step(recorder: Recorder) -> None:
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


def test_waiting_runs_do_not_hang(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_table_has_the_best_and_the_baseline_and_the_state_of_a_lead() -> None:
    study = make("grid", LISTS, "all")
    plan = Plan(study, play(study, curve))
    console = Console(file=io.StringIO(), width=120)
    console.print(progress.make_table(plan))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for tried in finalists(plan.ledger)[0]:
        mean = sum(tried.scores.values()) / 4
        assert f"4 │ {mean:.4f} ± " in text
    state = progress.describe_state(plan, progress.deciding_criterion(plan))
    assert state.startswith("60 completed, best distilled minus best baseline ")
    study = make("grid", {"alpha": (0.1, 1.0)}, "all")
    study = replace(study, until_decided=True, budget="14runs")
    plan = Plan(study, play(study, curve))
    state = progress.describe_state(plan, progress.deciding_criterion(plan))
    assert ", not decided (always-valid p" in state


def test_time_left_is_estimated_before_a_run_ends(capsys: pytest.CaptureFixture[str]) -> None:
    """4 of 2 x 30 x 8 epochs are done, of a second each, and two runs share the other 476."""
    study = replace(make("grid", {"alpha": (0.1, 1.0)}, "all"), repeats=30)
    plan = Plan(study)
    first, second = plan.next_run(), plan.next_run()
    for line in (start_of(first), start_of(second)):
        plan.add_record(line)
    assert progress.describe_time_left(plan) == ""
    for line in islice(rest_of(first, plan, curve), 4):
        plan.add_record(line)
    cache: Any = SimpleNamespace(building=lambda: iter([Building("logits", 3, 8, "")]))
    progress.ProgressDisplay(plan, cache).refresh()
    build, state = capsys.readouterr().out.splitlines()
    assert build == "  building logits (3 of 8)"
    assert state == "  2 running, about 0:03:58 left (estimate from 4 epochs)"
    plan.ledger.cost.seconds = 0.4
    assert progress.describe_time_left(plan) == "less than a minute left (estimate from 4 epochs)"
    raced = replace(study, policy="race")  # of which the number of runs is not known
    assert progress.describe_time_left(Plan(raced, play(study, curve)[:5])) == ""


SCRIPT = """#!/bin/sh
cat > stdin.txt
printf '%s' "$KDTUNE_STUDY $KDTUNE_FOLDER $KDTUNE_STATUS" > variables.txt
printf '%s' "$KDTUNE_VERDICT" > verdict.txt
"""


@pytest.fixture
def study(here: Path) -> Study:
    """A complete study in a folder with the script tell.sh."""
    Path("tell.sh").write_text(SCRIPT)
    Path("tell.sh").chmod(stat.S_IRWXU)
    results = folders.make(here / "runs" / "made", folders.draw({0.5: 0.03, 1.0: 0.0}, 4))
    return replace(results.study, out=str(here / "runs"))


@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        (None, "completed", ""),
        (Interrupted("the store is gone"), "interrupted", "(the store is gone)"),
        (NodeMismatchError("node7 has no data"), "failed", "node7 has no data"),
        (ZeroDivisionError("a bug"), "failed", "ZeroDivisionError: a bug"),
    ],
)
def test_a_command_is_told_the_verdict_or_the_reason(
    study: Study, end: Exception | None, status: str, reason: str, capsys: Any
) -> None:
    results = load(study.folder)
    progress.notify("./tell.sh", study, end or results)
    verdict = progress.describe_outcome(end)[1] if end else results.verdict()
    assert reason in verdict and Path("stdin.txt").read_text() == f"{verdict}\n"
    assert Path("verdict.txt").read_text() == verdict
    assert capsys.readouterr().out == ""
    assert Path("variables.txt").read_text() == f"made {study.folder} {status}"


def test_no_text_of_the_verdict_is_run(study: Study) -> None:
    evil = "$(touch ran) `touch ran` '; touch ran; \" && touch ran\n\0 é"
    results: Any = SimpleNamespace(trials=pd.DataFrame({"status": []}), verdict=lambda: evil)
    progress.notify("./tell.sh", study, results)
    assert not Path("ran").exists()
    assert Path("stdin.txt").read_text() == f"{evil}\n"
    assert Path("verdict.txt").read_text() == evil.replace("\0", "")


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("echo no mail here >&2; exit 7", "exit code 7: no mail here"),
        ("./missing.sh", "exit code 127"),
        ("sleep 60", "was ended after"),
    ],
)
def test_a_command_that_fails_or_hangs_is_a_warning(
    study: Study, command: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(progress, "NOTIFY_SECONDS", 0.5)
    progress.notify(command, study, ValueError())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].startswith("warning: --notify") and reason in lines[0]


@pytest.mark.parametrize("words", [["--notify", "curl SECRET"], ["--notify=curl SECRET"]])
def test_the_command_stands_in_no_file_of_the_study(
    words: list[str], study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/kdtune/search.py", "--alpha", "0.5", *words])
    told = replace(study, notify="curl SECRET", tracker=("mlflow",))
    write_study(told, {})
    texts = [p.read_text(errors="replace") for p in study.folder.rglob("*") if p.is_file()]
    assert not any("SECRET" in text for text in texts)
    command = json.loads((study.folder / "provenance.json").read_text())["command"]
    assert command[:5] == ["python", "-m", "kdtune.search", "--alpha", "0.5"]
    assert "SECRET" not in repr(told) and Study.from_json(told.to_json()) == told
