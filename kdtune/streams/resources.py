"""What a run runs on: device, cache, loader workers."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from kdtune.config.errors import InputError
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.streams.cache import Cache

ProgressCallback = Callable[[str, int, int], None]
"""watch(what, done, total): so far is what is being built."""


def unwatched(what: str, done: int, total: int) -> None:
    """Nobody looks on."""


@dataclass(frozen=True)
class Resources:
    """What a run runs on."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    cache: Cache = field(default_factory=lambda: Cache(gigabytes=0))
    loader_workers: int = 0
    repeats: int = 1
    """Repeats whose streams share the cache: views are kept there if those of all fit."""
    watch: ProgressCallback = unwatched
    """Is told what is being built, and how far it is."""

    @staticmethod
    def of(study: Study) -> "Resources":
        """What the study gives each of its runs, on this machine."""
        gpu = study.gpus != 0 and torch.cuda.is_available()
        cache = Cache(study.cache, study.cache_gb)
        device = torch.device("cuda" if gpu else "cpu")
        return Resources(device, cache, study.loader_workers, study.repeats)


def check_gpus(study: Study, here: int) -> None:
    """Raise InputError where the study asks for more GPUs than there are here."""
    if (study.gpus or 0) > here:
        instead = f"--gpus {here}" if here else "--gpus 0, which runs on the CPUs"
        raise InputError(f"{study.gpus} GPUs are asked for, but this machine has {here}; {instead}")


def check_precision(run: Run, device: torch.device) -> None:
    """Raise InputError if the run asks for bf16 on a CPU that only emulates it."""
    supported = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if run.precision == "bf16" and not supported:
        raise InputError(
            "--precision must be fp32 on this CPU, but got --precision bf16: the CPU has no bf16 "
            "instructions. Use --precision fp32, or a GPU"
        )
