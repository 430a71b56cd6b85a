"""Memory of a GPU: whether the concurrent trials of a study fit on it.

One batch of a trial is really computed on a GPU of each machine before the study starts. Its peak,
times the number of trials that share the GPU, must fit into the free memory. So a share of a GPU
that is too small is known at once, and not when the last of several trials fails.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kdtune.config.effects import takes_features
from kdtune.config.errors import InputError, first_line
from kdtune.config.hyperparameters import ends_of
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.data.sources import load_data
from kdtune.raytune.machines import Node, TrialResources
from kdtune.streams.keys import device_name
from kdtune.streams.resources import device_of, losses_of, trials_on_gpus
from kdtune.training.one_batch import Models, try_batch
from kdtune.training.run import MAX_IDLE_STUDENT_BYTES

CONTEXT_BYTES = 2**29
"""Memory of a process on a GPU before it allocates any: CUDA's context and the kernels."""
ANSWER_SECONDS = 180.0
"""Time for a batch on a GPU; a new worker first imports torch."""
LOGIT_BYTES = 4
OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED")
"""Words in the errors of PyTorch and of cuBLAS."""


class MemoryMeter(Protocol):
    """Memory of a GPU as one process sees it, in bytes."""

    def free(self) -> int:
        """Return the memory that no process uses."""

    def peak(self) -> int:
        """Return the most that this process has allocated since `reset`."""

    def reset(self) -> None:
        """Return unused memory to the GPU and forget the peak."""


class CudaMeter:
    """Memory of a CUDA GPU."""

    def free(self) -> int:
        """Return the memory that no process uses, apart from the context of this one."""
        free, total = torch.cuda.mem_get_info()
        return min(free + CONTEXT_BYTES, total)

    def peak(self) -> int:
        """Return the most that PyTorch's allocator has reserved since `reset`."""
        return torch.cuda.max_memory_reserved()

    def reset(self) -> None:
        """Return unused memory to the GPU and forget the peak."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class MpsMeter:
    """Memory of the GPU of an Apple computer, which it shares with the CPU."""

    def free(self) -> int:
        """Return how much of the recommended maximum this process has not allocated."""
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()

    def peak(self) -> int:
        """Return what the driver has allocated, which shrinks at `reset` only."""
        return torch.mps.driver_allocated_memory()

    def reset(self) -> None:
        """Return unused memory to the GPU."""
        torch.mps.empty_cache()


METERS: dict[str, Callable[[], MemoryMeter]] = {"cuda": CudaMeter, "mps": MpsMeter}


@dataclass(frozen=True)
class TrialMemory:
    """Memory of one trial on one GPU, measured with one batch, in bytes."""

    gpu: str
    """Name of the GPU."""
    free: int
    """Memory that no process used before."""
    trial: int
    """Memory of one trial; at least so much if its batch did not fit."""
    fits: bool
    """Whether the batch of one trial alone could be computed."""

    def trials_that_fit(self) -> int:
        """Return how many trials fit on the GPU at a time."""
        return self.free // self.trial if self.fits else 0


def memory_fault(memory: TrialMemory, share: float, batch_size: int) -> str | None:
    """Return a sentence if the trials that share a GPU do not fit into its memory, else None.

    Args:
        memory: Of one trial.
        share: GPUs of a trial, `gpus_per_trial`.
        batch_size: The largest of the study.
    """
    trials, possible = max(1, trials_on_gpus(1, share)), memory.trials_that_fit()
    if trials <= possible:
        return None
    smaller = f"--batch-size below {batch_size}, which is the largest of this study"
    if possible == 0:
        return (
            f"one trial needs {'' if memory.fits else 'more than '}{_gb(memory.trial)} on a GPU "
            f"({memory.gpu}), but {_gb(memory.free)} are free; use {smaller}"
        )
    return (
        f"--gpus-per-trial {share:g} puts {trials} trials on a GPU ({memory.gpu}), which need "
        f"{trials} x {_gb(memory.trial)} = {_gb(trials * memory.trial)}, but {_gb(memory.free)} "
        f"are free; use --gpus-per-trial {share_of(possible):g}, or {smaller}"
    )


def share_of(trials: int) -> float:
    """Return a short decimal share of a GPU with which exactly so many trials fit on one."""
    scales: Iterator[int] = (10**digits for digits in itertools.count(1))
    shares = (scale // trials / scale for scale in scales)
    return next(x for x in shares if x and trials_on_gpus(1, x) == trials)


def largest_runs(study: Study) -> list[Run]:
    """Return a run with the largest batch for each pair of a student and a teacher of the study.

    A loss of features, which has a projector, is taken where the study has one, and an average of
    the weights, which is a copy of the student.
    """
    batch, ema = (_largest(study, name) for name in ("batch_size", "ema"))
    trainable = "all" if "all" in study.values("trainable") else "head"  # type: ignore[operator]
    base = replace(study.run, ema=ema)
    for loss in filter(takes_features, losses_of(study)):
        base = replace(base, loss=loss, alpha=0.5)
    names = (ends_of(study.values(name)) for name in ("student", "teacher"))
    return [
        replace(base, batch_size=batch, trainable=trainable, student=str(s), teacher=str(t))  # type: ignore[arg-type]
        for s, t in itertools.product(*names)
    ]


def _largest(study: Study, name: str) -> Any:
    """Return the largest value of a hyperparameter that is a number."""
    values: Any = ends_of(study.values(name))
    return max(values)


def measure_trial(study: Study, meter: MemoryMeter, device: torch.device) -> TrialMemory:
    """Compute one batch of a trial and return what a trial needs.

    Beside the peak of a batch that is: the context of a process, the students that it keeps for
    later runs, and the logits of an epoch.

    Args:
        study: Its largest batch is computed, for each pair of models.
        meter: Of the GPU.
        device: The GPU.
    """
    free, needed = meter.free(), 0
    for run in largest_runs(study):
        meter.reset()
        try:
            kept = _kept(study, run, try_batch(run, device))
        except RuntimeError as error:  # torch.OutOfMemoryError is one; that of mps has no class
            if not any(words in str(error) for words in OUT_OF_MEMORY):
                raise
            return TrialMemory(device_name(device), free, max(meter.peak(), free), False)
        needed = max(needed, meter.peak() + kept)
    return TrialMemory(device_name(device), free, needed + CONTEXT_BYTES, True)


def _kept(study: Study, run: Run, models: Models) -> int:
    """Return the bytes that a process holds beside a batch: idle students and an epoch's logits."""
    student = 2 * models.student.nbytes
    idle = 0 if ":" in run.student else min((study.repeats - 1) * student, MAX_IDLE_STUDENT_BYTES)
    data = load_data(run)
    logits = 2 * LOGIT_BYTES * len(data.classes) * sum(map(len, data.splits.values()))
    return idle + logits


def try_on_gpu(study: Study) -> TrialMemory | str | None:
    """Return what a trial needs on the GPU of this Ray task, or why its batch fails.

    None if PyTorch sees no GPU here.
    """
    device = device_of(study)
    if device.type not in METERS:
        return None
    try:
        return measure_trial(study, METERS[device.type](), device)
    except Exception as error:  # of a user's model, or of the GPU's driver
        return f"a training step fails on this GPU ({first_line(error, 200)})"


def check_gpu_memory(study: Study, nodes: Sequence[Node], trial: TrialResources) -> list[str]:
    """Try a batch on one GPU of each machine, all machines at the same time.

    Args:
        study: Whose largest batch is tried.
        nodes: The machines.
        trial: What one trial takes.

    Returns:
        Lines for the terminal: what could not be tried.

    Raises:
        InputError: The concurrent trials of a GPU do not fit; with one line per machine.
    """
    if not trial.gpu:
        return []
    largest = largest_runs(study)[0].batch_size
    tasks = {node: _start(study, node, trial) for node in nodes if node.resources.get("GPU", 0)}
    faults, untried = [], []
    for node, task in tasks.items():
        try:
            memory: TrialMemory | str | None = ray.get(task, timeout=ANSWER_SECONDS)
        except ray.exceptions.GetTimeoutError:
            ray.cancel(task, force=True)
            untried.append(f"warning: {node} has no free GPU on which a batch could be tried")
            continue
        except ray.exceptions.RayError as error:
            memory = f"a training step fails on this GPU ({first_line(error, 200)})"
        fault = memory if isinstance(memory, str) else None
        if isinstance(memory, TrialMemory):
            fault = memory_fault(memory, trial.gpu, largest)
        if fault:
            faults.append(fault if len(nodes) == 1 else f"{node}: {fault}")
    if faults:
        raise InputError("\n".join(faults))
    return untried


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _start(study: Study, node: Node, trial: TrialResources) -> Any:
    """Start `try_on_gpu` on a machine; its process ends with it and frees the GPU."""
    task: Any = ray.remote(num_cpus=0, num_gpus=trial.gpu, max_calls=1, max_retries=0)
    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return task(try_on_gpu).options(scheduling_strategy=strategy).remote(study)
