"""Hyperparameter studies of knowledge distillation for image classifiers on Ray Tune.

    import kdtune

    study = kdtune.Study(run=kdtune.Run(data="photos"), space={"alpha": (0.1, 0.5, 1.0)})
    results = kdtune.run(study)                # in a notebook: conclusion, table and figure
    results = kdtune.load("runs/photos")       # the same, later
    results.summary(), results.compare(), results.plot.curves()
    student = kdtune.load_student("runs/photos")    # uint8 images -> probabilities
    kdtune.compare("results.csv", by="alpha", repeat="seed", metric="acc")    # runs made elsewhere

Public names are loaded when they are first used: reading a study needs neither torch nor Ray, and
`python -m kdtune.search --help` is answered before they are loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdtune.config.run import Run as Run
    from kdtune.config.study import Study as Study
    from kdtune.config.task import Range as Range
    from kdtune.config.text import InputError as InputError
    from kdtune.config.text import UserError as UserError
    from kdtune.results.tables import compare as compare
    from kdtune.search import Results as Results
    from kdtune.search import load as load
    from kdtune.search import run as run
    from kdtune.students.trained import TrainedStudent as TrainedStudent
    from kdtune.students.trained import load_student as load_student

__version__ = "0.2.0"
_MODULES = {
    "InputError": "config.text",
    "Range": "config.task",
    "Results": "search",
    "Run": "config.run",
    "Study": "config.study",
    "TrainedStudent": "students.trained",
    "UserError": "config.text",
    "compare": "results.tables",
    "load": "search",
    "load_student": "students.trained",
    "run": "search",
}
"""Where each public name is defined."""
__all__ = list(_MODULES)


if not TYPE_CHECKING:  # a type checker would take every misspelt name for one of these

    def __getattr__(name: str) -> Any:
        """Return a public name, from the module that defines it."""
        if name not in _MODULES:
            raise AttributeError(f"module 'kdtune' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"kdtune.{_MODULES[name]}"), name)
        return value


def __dir__() -> list[str]:
    """Return the public names, loaded or not: what tab completion shows."""
    return sorted([*__all__, "__version__"])
