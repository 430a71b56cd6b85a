"""Words of a command line: how numbers and ranges are read, and what is refused."""

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Annotated, Any

from kdtune.config.errors import InputError
from kdtune.config.hyperparameters import Range
from kdtune.config.text import printable


def check_given_once(arguments: Sequence[str]) -> None:
    """Raise InputError if a flag is given twice: only the last of them would have an effect.

    For a flag that takes a list, `--alpha 0 --alpha 1`, that is not what one means.
    """
    first: dict[str, str] = {}
    for word in arguments:
        if word == "--":
            return
        flag = word.partition("=")[0].replace("_", "-")
        name = flag.removeprefix("--").removeprefix("no-")
        if not word.startswith("--"):
            continue
        if name in first:
            both = flag if first[name] == flag else f"{first[name]} and {flag}"
            raise InputError(
                f"a flag must be given once, but got {both}{' twice' * (first[name] == flag)}; "
                f"leave out one of them, or give all values after one (--alpha 0 0.5)"
            )
        first[name] = flag


def check_not_empty(places: Mapping[str, object]) -> None:
    """Raise InputError if a path is empty, as of a shell's variable that is not set."""
    for name, value in places.items():
        if value == "" or (isinstance(value, tuple) and "" in value):
            raise InputError(f"{name} must be a path, but is empty; is a variable not set?")


def check_distinct(name: str, values: Sequence[object]) -> None:
    """Raise InputError if a list on a command line has a value twice."""
    for number, value in enumerate(values):
        if value in values[:number]:
            again = printable(str(value))
            raise InputError(f"{name} must list each value once, but got {again} twice")


def number_or_range(kind: type[int] | type[float], optional: bool = False) -> Any:
    """Return a type that tyro reads as a number, a range of numbers or, if `optional`, None."""
    import tyro

    def read(words: list[str]) -> int | float | str | None:
        if optional and words[0] == "None":
            return None
        # a range is parsed later, by parse_range: tyro replaces the words of an error raised here
        return words[0] if ".." in words[0] else kind(words[0])

    optional_type: Any = NoneType if optional else kind
    spec = tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{kind.__name__.upper()}|LOW..HIGH[:log|:logit]",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, int | float | str | optional_type),
        str_from_instance=lambda value: [str(value)],
    )
    return Annotated[kind | str | optional_type, spec]


def parse_range(name: str, values: tuple[Any, ...], kind: Any) -> Range | None:
    """Return the range that a flag's values are; None if they are a list."""
    texts = [value for value in values if isinstance(value, str)]
    if kind not in (int, float) or not texts:
        return None
    if len(values) > 1:
        shown = " ".join(map(str, values))
        raise InputError(f"{name} must be a list or one range, but got {shown}")
    return Range.parse(texts[0], kind)
