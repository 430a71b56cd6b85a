"""kdtune: a Ray Tune study of knowledge distillation.

Read the files in the order in which data flows: space, run_config, config (what a study is), data,
models, losses, cache and stream (what a repeat fixes, computed once), train (the one loop),
teacher, distill (one run); race, proposals, plan (which run next); trial, repeats, search (the
study under Ray); results, stats, analysis (what it says).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdtune.config.errors import InputError
    from kdtune.config.hyperparameters import Range
    from kdtune.config.run import Run
    from kdtune.config.study import Study
    from kdtune.raytune.driver import run
    from kdtune.results.study_results import Results, load

__version__ = "0.1.0"
__all__ = ["InputError", "Range", "Results", "Run", "Study", "load", "run"]

_HOMES = {"Study": "config", "Run": "config", "InputError": "config", "Range": "space"}
_HOMES |= {"load": "analysis", "Results": "analysis", "run": "search"}


def __getattr__(name: str) -> Any:
    # Lazy: reading a study needs neither torch nor Ray, and `--help` answers before either loads.
    if name not in _HOMES:
        raise AttributeError(f"module 'kdtune' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"kdtune.{_HOMES[name]}"), name)
