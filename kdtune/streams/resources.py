"""What a run runs on: its device, cache and loader workers, and checks of the machine."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from kdtune.config.errors import InputError
from kdtune.config.hyperparameters import Range
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.streams.cache import Cache

ProgressCallback = Callable[[str, int, int], None]
"""watch(what, done, total): how many images of a cache entry have been built so far."""


def ignore_progress(what: str, done: int, total: int) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Resources:
    """Device, cache and loader workers of a run."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    cache: Cache = field(default_factory=lambda: Cache(gigabytes=0))
    loader_workers: int = 0
    """Processes that make views. 0: the run's own process."""
    repeats: int = 1
    """Repeats whose streams runs read in turn, so that the cache should hold all of them."""
    feature_sets: int = 1
    """Different features of one repeat: searched batch sizes and modes of batch norm."""
    watch: ProgressCallback = ignore_progress
    """Called while a cache entry is built."""

    @staticmethod
    def of(study: Study, trials: int | None = None) -> "Resources":
        """Return what the study gives each of its runs on this machine.

        Args:
            study: names the cache, the GPUs and the loader workers.
            trials: trials that run at a time, on all machines together. A grid and a random
                search finish so many repeats of all configurations before they begin others.
                None: as many as this machine can run.
        """
        gpu = study.gpus != 0 and torch.cuda.is_available()
        in_blocks = study.search != "tpe" and study.policy == "all"
        trials = trials or _trials_here(study, gpu)
        return Resources(
            device=torch.device("cuda" if gpu else "cpu"),
            cache=Cache(study.cache, study.cache_gb),
            loader_workers=study.loader_workers,
            repeats=min(study.repeats, trials) if in_blocks else study.repeats,
            feature_sets=_feature_sets(study),
        )


def _trials_here(study: Study, gpu: bool) -> int:
    """Return how many trials this machine, or what this process sees of it, can run at a time."""
    if gpu:
        return max(1, int((study.gpus or torch.cuda.device_count()) / study.gpus_per_trial))
    return max(1, local_cpus() // study.cpus_per_trial)


def local_cpus() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _feature_sets(study: Study) -> int:
    """Return how many different features a repeat has, if its backbone is frozen."""
    modes, sizes = study.values("batch_norm"), study.values("batch_size")
    count = study.samples if isinstance(sizes, Range) else len(set(sizes))
    return count * len(set(modes)) if isinstance(modes, tuple) else count


def local_resources(study: Study, watch: ProgressCallback) -> Resources:
    """Return the resources of a command on this machine, and set its number of threads.

    Raises InputError if the machine has too few GPUs, or a CPU without the run's precision.
    """
    check_gpus(study, torch.cuda.device_count())
    resources = replace(Resources.of(study), watch=watch)
    check_precision(study.run, resources.device)
    torch.set_num_threads(study.cpus_per_trial)
    return resources


def check_gpus(study: Study, available: int) -> None:
    """Raise InputError if the study asks for more GPUs than this machine has."""
    if (study.gpus or 0) > available:
        remedy = f"--gpus {available}" if available else "--gpus 0, which runs on the CPUs"
        raise InputError(
            f"{study.gpus} GPUs are asked for, but this machine has {available}; {remedy}"
        )


def check_precision(run: Run, device: torch.device) -> None:
    """Raise InputError if the run asks for bf16 on a CPU that only emulates it.

    On an AVX2-only EPYC a ResNet18 training step of 16 images took 21.9 s in emulated bf16 and
    1.5 s in fp32. Commands and the driver check this; `distill` itself does not, since emulated
    numbers are right.
    """
    if run.precision == "bf16" and device.type == "cpu" and not has_bf16():
        raise InputError(
            "--precision must be fp32 on this CPU, but got --precision bf16: the CPU has no bf16 "
            "instructions, and their emulation makes a training step about 15 times as slow. Use "
            "--precision fp32, or a GPU"
        )


def has_bf16() -> bool:
    """Return True if this CPU has bf16 instructions that PyTorch uses."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # PyTorch was built without oneDNN
        return False
