"""What a run runs on: its device, cache, threads and loader workers; checks of the machine."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from kdtune.config.effects import takes_features
from kdtune.config.errors import InputError
from kdtune.config.hyperparameters import ends_of
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.data.sources import load_data
from kdtune.streams.cache import Cache
from kdtune.streams.variants import Variant, variants_of

MAX_LOADER_WORKERS = 16
"""More processes than this by default would wait for each other's batches and for memory."""
ProgressCallback = Callable[[str, int, int], None]
"""watch(what, done, total): how many images of a cache entry have been built so far."""


def ignore_progress(what: str, done: int, total: int) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Resources:
    """Device, cache, threads and loader workers of a run."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    cache: Cache = field(default_factory=lambda: Cache(gigabytes=0))
    loader_workers: int = 0
    """Processes that make views. 0: the run's own process."""
    threads: int = 1
    """Threads of torch in the run's own process; who starts the run sets them."""
    repeats: int = 1
    """Repeats whose streams runs read in turn, so that the cache should hold all of them."""
    variants: tuple[Variant, ...] = ()
    """Streams of one repeat that runs read in turn; none if it is one run's alone."""
    teacher_features: bool = False
    """Whether runs that share the cache compare features. The pass that gives a teacher's logits
    then gives its features, too."""
    watch: ProgressCallback = ignore_progress
    """Called while a cache entry is built."""

    @staticmethod
    def of(study: Study, trials: int | None = None) -> "Resources":
        """Return what the study gives each of its runs on this machine.

        Args:
            study: names the cache, the device, the CPU cores and the loader workers.
            trials: trials that run at a time, on all machines together. A grid and a random
                search finish so many repeats of all configurations before they begin others.
                None: as many as this machine can run.

        Raises:
            InputError: other users may write the cache.
        """
        device, cache = device_of(study), Cache(study.cache, study.cache_gb)
        cache.check()
        in_blocks = study.search != "tpe" and study.policy == "all"
        trials = trials or _trials_here(study, device)
        cores = study.cpus_per_trial or (1 if device.type == "cpu" else local_cpus())
        workers = loader_workers(study, device, cores)
        return Resources(
            device=device,
            cache=cache,
            loader_workers=workers,
            # with a GPU the work of the CPU is that of the loader workers
            threads=cores if device.type == "cpu" else max(1, cores - workers),
            repeats=min(study.repeats, trials) if in_blocks else study.repeats,
            variants=variants_of(study),
            teacher_features=any(map(takes_features, losses_of(study))),
        )


def device_of(study: Study, gpus: int | None = None) -> torch.device:
    """Return the device of the study's runs on a machine.

    Args:
        study: Names the device, or leaves the choice to the machine.
        gpus: CUDA GPUs of the machine; None for those that this process sees.
    """
    if study.device != "auto":
        return torch.device(study.device)
    has_gpu = torch.cuda.is_available() if gpus is None else gpus > 0
    return torch.device("cuda" if has_gpu and study.may_use_gpus else "cpu")


def count_gpus(study: Study) -> int:
    """Return the number of GPUs of this machine: CUDA's, or the one that MPS reaches."""
    if study.device == "mps":
        return int(torch.backends.mps.is_available())
    return torch.cuda.device_count()


def _trials_here(study: Study, device: torch.device) -> int:
    """Return how many trials this machine, or what this process sees of it, can run at a time."""
    if device.type == "cpu":
        return max(1, local_cpus() // (study.cpus_per_trial or 1))
    return max(1, trials_on_gpus(study.gpus or count_gpus(study), study.gpus_per_trial))


def trials_on_gpus(gpus: int, share: float) -> int:
    """Return how many trials fit on some GPUs, if each takes a share of one or several GPUs.

    A share is never split over two GPUs.
    """
    return gpus * int(1 / share) if share < 1 else int(gpus // share)


def local_cpus() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def loader_workers(study: Study, device: torch.device, cores: int) -> int:
    """Return how many processes make the views of a run that has so many cores.

    Tensors are augmented faster than workers start; so only files have workers by default, and
    one core is left to the run's own process, which keeps the GPU busy.
    """
    if study.loader_workers is not None:
        return study.loader_workers
    if device.type == "cpu" or not load_data(study.run).photos:
        return 0
    return min(cores - 1, MAX_LOADER_WORKERS)


def losses_of(study: Study) -> tuple[str, ...]:
    """Return the distillation losses that the study compares; none at alpha = 1."""
    if set(ends_of(study.values("alpha"))) == {1}:
        return ()
    return tuple(map(str, study.values("loss")))  # type: ignore[arg-type]


def local_resources(study: Study, watch: ProgressCallback) -> Resources:
    """Return the resources of a command on this machine, and set its number of threads.

    Raises InputError if the machine has too few GPUs, or a device without the run's precision.
    """
    check_gpus(study, count_gpus(study))
    resources = replace(Resources.of(study), watch=watch)
    check_precision(study.run, resources.device)
    torch.set_num_threads(resources.threads)
    return resources


def check_gpus(study: Study, available: int) -> None:
    """Raise InputError if the study asks for a device or for more GPUs than this machine has.

    Args:
        study: Names the device and the number of GPUs.
        available: GPUs of this machine that the study may use.
    """
    if study.device in ("cuda", "mps") and not available:
        raise InputError(
            f"--device must be auto or cpu on this machine, but got --device {study.device}: "
            f"PyTorch finds no such GPU here. Use --device cpu"
        )
    if (study.gpus or 0) > available:
        remedy = f"--gpus {available}" if available else "--gpus 0, which runs on the CPUs"
        raise InputError(
            f"--gpus must be at most the {available} GPUs of this machine, but got --gpus "
            f"{study.gpus}. Use {remedy}"
        )


def check_precision(run: Run, device: torch.device) -> None:
    """Raise InputError if the run asks for bf16 on a device that has none or only emulates it.

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
    # older torch versions train in fp32 there, with a warning
    if run.precision == "bf16" and device.type == "mps" and not _has_macos_14():
        raise InputError(
            "--precision must be fp32 on this computer, but got --precision bf16: Metal has bf16 "
            "from macOS 14 on. Use --precision fp32"
        )


def has_bf16() -> bool:
    """Return True if this CPU has bf16 instructions that PyTorch uses."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # PyTorch was built without oneDNN
        return False


def _has_macos_14() -> bool:
    return torch.backends.mps.is_macos_or_newer(14, 0)
