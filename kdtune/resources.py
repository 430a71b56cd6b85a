"""What a run runs on: device, cache, loader workers."""

from dataclasses import dataclass, field

import torch

from kdtune.cache import Cache
from kdtune.config import Study


@dataclass(frozen=True)
class Resources:
    """What a run runs on."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    cache: Cache = field(default_factory=lambda: Cache(gigabytes=0))
    loader_workers: int = 0
    repeats: int = 1
    """Repeats whose streams share the cache: views are kept there if those of all fit."""

    @staticmethod
    def of(study: Study) -> "Resources":
        """What the study gives each of its runs, on this machine."""
        gpu = study.gpus != 0 and torch.cuda.is_available()
        cache = Cache(study.cache, study.cache_gb)
        device = torch.device("cuda" if gpu else "cpu")
        return Resources(device, cache, study.loader_workers, study.repeats)
