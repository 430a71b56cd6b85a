"""Command line of an experiment with a training function: flags of its study and of its space."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from kdtune.config.fields import declarations, docstrings
from kdtune.config.flags import Flag, help_of, metavar_of
from kdtune.config.hyperparameters import Range, ends_of
from kdtune.config.study import Study
from kdtune.config.words import check_distinct, number_or_range, parse_range

NOT_USED = ("keep", "max_ms", "max_params", "loader_workers", "cache", "cache_gb")
"""Fields of a study that have flags, but no effect on a training function."""


def function_flags(base: Study) -> Iterator[Flag]:
    """Yield the flags of a search: those of the study, then one per hyperparameter."""
    texts = docstrings(Study)
    for name, declared in declarations(Study).items():
        if "search" not in declared.setting.commands or name in NOT_USED:
            continue
        kind, default = declared.kind, getattr(base, name)
        if name == "repeats":
            kind = int | Literal["auto"]
            default = "auto" if base.until_decided else default
        about, place = help_of(declared, texts[name]), declared.setting.place
        yield Flag(name, kind, about, default, metavar_of(declared), place=place)
    for name, values in base.space.items():
        one: Any = _kind(base, name)
        if one is not None and name.isidentifier() and name not in declarations(Study):
            if one in (int, float):
                one = number_or_range(one)
            kind = tuple[one, ...]
            default = (str(values),) if isinstance(values, Range) else values
            yield Flag(name, kind, "Hyperparameter of the training function.", default)


def with_function_flags(base: Study, flags: dict[str, Any]) -> Study:
    """Return the base study with the values of the flags."""
    space, own = dict(base.space), {}
    for name, value in flags.items():
        if name in space and name not in declarations(Study):
            ranges = parse_range(name, value, _kind(base, name))
            if ranges is None and value != base.space[name]:
                check_distinct(name, value)
            space[name] = ranges or value
        else:
            own[name] = value
    return replace(base, space=space, **with_repeats(base, own))


def with_repeats(base: Study, own: dict[str, Any]) -> dict[str, Any]:
    """Return the values of flags with --repeats, a number or "auto", as the study has it."""
    if own.get("repeats") == "auto":
        return own | {"repeats": base.repeats, "until_decided": True}
    if "repeats" not in own:
        return own
    # the experiment's own budget is for --repeats auto
    is_of_auto = base.until_decided and own["budget"] == base.budget
    return own | {"until_decided": False} | ({"budget": None} if is_of_auto else {})


def _kind(base: Study, name: str) -> type | None:
    """Return the type of a hyperparameter: int if all its values are whole, float or text.

    None for truth values and mixed lists, which words of a command line do not tell apart.
    """
    kinds = {type(value) for value in ends_of(base.values(name))}
    if kinds <= {int}:
        return int
    if kinds <= {int, float}:
        return float
    return str if kinds == {str} else None
