"""Hyperparameter studies of knowledge distillation on Ray Tune.

Public names are loaded when they are first used: reading a study needs neither torch nor Ray.
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

_HOMES = {
    "InputError": "config.errors",
    "Range": "config.hyperparameters",
    "Results": "results.study_results",
    "Run": "config.run",
    "Study": "config.study",
    "load": "results.study_results",
    "run": "raytune.driver",
}


def __getattr__(name: str) -> Any:
    # Lazy: reading a study needs neither torch nor Ray, and `--help` answers before either loads.
    if name not in _HOMES:
        raise AttributeError(f"module 'kdtune' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"kdtune.{_HOMES[name]}"), name)
