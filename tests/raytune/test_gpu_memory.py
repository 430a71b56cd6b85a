"""Whether trials fit on a GPU, worked by hand; the batch is real, the memory is not."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import ray
import torch

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError
from kdtune.raytune import machines as gpu_memory
from kdtune.raytune.machines import (
    CONTEXT_BYTES,
    Node,
    TrialMemory,
    TrialResources,
    check_gpu_memory,
    largest_runs,
    measure_trial,
    memory_fault,
    share_of,
    try_on_gpu,
)
from kdtune.training import run as one_batch
from kdtune.training.recipe import resolve

GB = 10**9
CPU = torch.device("cpu")
NODES = [Node(name, f"10.0.0.1 ({name})", {"CPU": 8, "GPU": 2}) for name in ("h0", "h1")]


@dataclass
class FakeMeter:
    """A GPU of 40 GB whose batches take the next of some amounts."""

    peaks: Iterator[int]
    resets: int = 0

    def free(self) -> int:
        return 40 * GB

    def peak(self) -> int:
        return next(self.peaks)

    def reset(self) -> None:
        self.resets += 1


def memory(trial_gb: float, fits: bool = True) -> TrialMemory:
    return TrialMemory("A100", 40 * GB, int(trial_gb * GB), fits)


@pytest.mark.parametrize(
    ("trial_gb", "share", "words"),
    [
        (10, 0.25, None),  # 4 x 10 = 40
        (10.1, 0.25, "4 trials on a GPU (A100), which need 4 x 10.1 GB = 40.4 GB, but 40.0 GB are"),
        (10.1, 0.25, "use --gpus-per-trial 0.3, or --batch-size below 64"),  # 3 fit
        (15, 0.25, "use --gpus-per-trial 0.5, or"),  # 2 fit
        (25, 0.25, "use --gpus-per-trial 1, or"),
        (25, 1, None),
        (25, 2, None),  # a trial on two GPUs
        (41, 0.5, "one trial needs 41.0 GB on a GPU (A100), but 40.0 GB are free; use --batch-"),
        (41, 1, "one trial needs 41.0 GB"),
    ],
)
def test_trials_that_share_a_gpu_by_hand(trial_gb: float, share: float, words: str | None) -> None:
    found = memory_fault(memory(trial_gb), share, 64)
    assert found is None if words is None else words in str(found) and "\n" not in str(found)


def test_a_batch_that_does_not_fit_alone_is_said_so() -> None:
    found = memory_fault(memory(39, fits=False), 0.5, 64)
    assert str(found).startswith("one trial needs more than 39.0 GB on a GPU")


def test_the_advised_share_lets_exactly_so_many_trials_on_a_gpu() -> None:
    for trials in range(1, 30):
        assert int(1 / share_of(trials)) == trials
    assert [share_of(n) for n in (1, 2, 3, 4)] == [1, 0.5, 0.3, 0.25]


def test_the_largest_batch_of_the_space_is_tried(tiny: Run) -> None:
    study = Study(run=tiny, space={"batch_size": (8, 64, 16), "trainable": ("head", "all")})
    (run,) = largest_runs(study)
    assert (run.batch_size, run.trainable) == (64, "all")
    ranged = replace(study, search="random", space={"batch_size": Range(8, 32)})
    assert largest_runs(ranged)[0].batch_size == 32


def test_an_average_of_the_weights_is_in_memory_where_the_study_has_one(tiny: Run) -> None:
    for values in ((0.0, 0.9), (0.9, 0.0)):
        (run,) = largest_runs(Study(run=tiny, space={"ema": values}))
        assert run.ema == 0.9
    assert largest_runs(Study(run=tiny))[0].ema == 0
    assert largest_runs(Study(run=replace(tiny, ema=0.5)))[0].ema == 0.5


def test_an_ensemble_has_the_logits_of_its_mean_probability(tiny: Run) -> None:
    run = resolve(replace(tiny, teacher=f"{tiny.teacher}+{tiny.student}"))
    models = one_batch.Models.of(run, CPU)
    views = one_batch.views_like(run, models, 4)
    found = one_batch.teacher_logits(models, views).softmax(1)
    with torch.no_grad():
        own = [member(views).softmax(1) for member in models.teacher]
    assert len(own) == 2
    torch.testing.assert_close(found, (own[0] + own[1]) / 2)


def test_every_student_is_tried_with_every_teacher(tiny: Run) -> None:
    study = Study(run=tiny, space={"student": ("resnet18", "resnet34"), "teacher": ("a+b", "c")})
    pairs = {(run.student, run.teacher) for run in largest_runs(study)}
    assert len(pairs) == 4 and ("resnet34", "a+b") in pairs


@pytest.mark.parametrize("trainable", ["all", "head"])
def test_a_real_batch_is_trained_and_what_a_process_keeps_is_counted(
    tiny: Run, trainable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[tuple[int, int]] = []
    losses = one_batch.Losses.of

    def seen(run: Run, objective: Any, outputs: Any, batch: Any) -> Any:
        batches.append((len(outputs.logits), len(batch.teacher)))
        return losses(run, objective, outputs, batch)

    monkeypatch.setattr(one_batch.Losses, "of", seen)
    study = Study(run=replace(tiny, batch_size=24, trainable=trainable), repeats=3)
    meter = FakeMeter(iter([5 * GB]))
    found = measure_trial(study, meter, CPU)
    assert batches == [(24, 24)] * 2 and meter.resets == 1
    # 3,500 images x 10 classes x 2 models x 4 bytes; a factory's students are not kept
    assert found == TrialMemory("cpu", 40 * GB, 5 * GB + 3500 * 10 * 2 * 4 + CONTEXT_BYTES, True)


def test_students_that_a_process_keeps_are_counted(tiny: Run) -> None:
    run = replace(tiny, student="resnet18", batch_size=2, image_size=32, data="fashion")
    one, four = (
        measure_trial(Study(run=run, repeats=n), FakeMeter(iter([GB])), CPU).trial for n in (1, 4)
    )
    # 11,181,642 weights and 9,640 running statistics in float32, about; and a copy of them
    assert 3 * 2 * 4 * 11.18e6 < four - one < 3 * 2 * 4 * 11.25e6


def test_a_batch_that_runs_out_of_memory_does_not_fit(
    tiny: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: Run, device: torch.device) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(gpu_memory, "try_batch", fail)
    found = measure_trial(Study(run=tiny), FakeMeter(iter([7 * GB])), CPU)
    assert not found.fits and found.trials_that_fit() == 0


def test_another_fault_of_a_batch_is_a_sentence(tiny: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(run=replace(tiny, student="factories:failing_student"), device="cpu")
    assert try_on_gpu(study) is None  # without a GPU there is nothing to try
    monkeypatch.setitem(gpu_memory.METERS, "cpu", lambda: FakeMeter(iter([])))
    said = try_on_gpu(study)
    assert said == "a training step fails on this GPU (this student cannot be trained)"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each machine's task answers."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(gpu_memory, "_start", lambda study, node, trial: node.id)
    monkeypatch.setattr(ray, "cancel", lambda task, force: None)

    def get(task: str, timeout: float) -> Any:
        if isinstance(given[task], Exception):
            raise given[task]
        return given[task]

    monkeypatch.setattr(ray, "get", get)
    return given


def test_each_machine_is_tried_and_named(tiny: Run, answers: dict[str, Any]) -> None:
    study, trial = Study(run=tiny), TrialResources(1, 0.5)
    answers |= {"h0": memory(15), "h1": None}
    assert check_gpu_memory(study, NODES, trial) == []
    answers["h1"] = ray.exceptions.GetTimeoutError("")
    (said,) = check_gpu_memory(study, NODES, trial)
    assert said == "warning: 10.0.0.1 (h1) has no free GPU on which a batch could be tried"
    answers |= {"h0": memory(30), "h1": "a training step fails"}
    with pytest.raises(InputError) as caught:
        check_gpu_memory(study, NODES, trial)
    first, second = str(caught.value).splitlines()
    assert first.startswith("10.0.0.1 (h0): --gpus-per-trial 0.5 puts 2 trials on a GPU (A100)")
    assert second == "10.0.0.1 (h1): a training step fails"
    with pytest.raises(InputError, match=r"^--gpus-per-trial 0.5 puts"):
        check_gpu_memory(study, NODES[:1], trial)
    assert check_gpu_memory(study, NODES, TrialResources(1, 0)) == []
