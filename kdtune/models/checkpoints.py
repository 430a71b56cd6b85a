"""Checkpoints that others have saved: their files, entries and prefixes; nothing is unpickled."""

import argparse
import re
import tarfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from kdtune.config.errors import InputError, first_line

StateDict = Mapping[str, Tensor]
"""Names of parameters and buffers to tensors."""

SUFFIXES = {".pth", ".pt", ".th", ".tar", ".bin", ".ckpt", ".safetensors"}
"""Usual suffixes of weights; files are told apart by their content."""
AVERAGED = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict"),
    *("ema_model", "ema"),
)
"""Entries of a checkpoint under which moving averages of the weights are saved."""
TRAINED = (
    *("state_dict", "model_state_dict", "model", "net", "network", "module", "model_state"),
    *("net_state_dict", "weights", "params"),
)
"""Entries of a checkpoint under which the weights are saved."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""Prefixes of DataParallel, torch.compile and wrappers such as Lightning's modules."""
COUNTERS = {"n_averaged"}
"""Buffers of torch's AveragedModel beside the weights."""
INERT: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [argparse.Namespace]
"""Classes whose instances do nothing when they are made; training scripts save their flags so."""
FOREIGN = {
    b"version https://git-lfs": "a Git LFS pointer, not the file; run git lfs pull",
    b"<": "a web page or another text, not a checkpoint; download the file again",
    b"\x1f\x8b": "compressed; unpack it and give the file inside",
}
"""First bytes of files that are no checkpoints, and what these are."""
MAX_NESTING = 8
"""Entries within entries of a checkpoint in which a state dict is looked for."""
MAX_SHOWN = 80
"""Letters of a name that a message shows."""
ADVICE = "save the state dict alone with torch.save(model.state_dict(), ...) or as .safetensors"


def read_checkpoint(file: Path) -> StateDict:
    """Return the state dict in a file: safetensors, or anything that `torch.save` wrote.

    A state dict may be an entry of a checkpoint, see `TRAINED` and `AVERAGED`. Where a checkpoint
    holds several, moving averages are taken first, since they are what is evaluated and published,
    and a warning names the choice.

    Raises:
        InputError: the file is damaged, holds objects of other classes, or no state dict.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(32)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); give another file") from None
    for beginning, kind in FOREIGN.items():
        if start.startswith(beginning):
            raise InputError(f"{file} is {kind}")
    # a safetensors file begins with the length of its header, eight bytes, and the header's brace
    if start[8:9] == b"{" or (
        file.suffix == ".safetensors" and start[:2] not in (b"PK", b"\x80\2")
    ):
        check_whole(file)
        return load_file(file)
    return _unwrap(_load_torch(file), file)


def check_whole(file: Path) -> None:
    """Raise InputError if a safetensors file is incomplete or not one; reads its header only."""
    try:
        with safe_open(file, framework="pt"):
            pass
    except SafetensorError as error:
        reason = first_line(error)
        raise InputError(f"{file} is not a whole safetensors file ({reason})") from None


def strip_prefixes(state: StateDict) -> StateDict:
    """Return the state dict without the prefixes that all its keys have."""
    *_, bare = _variants(state)
    return bare


def align(state: StateDict, names: Mapping[str, object]) -> StateDict:
    """Return the state dict without as many of its keys' common prefixes as fits the names best."""
    variants = list(_variants(state))
    return max(variants, key=lambda variant: len(variant.keys() & names.keys()))


def _variants(state: StateDict) -> Iterator[StateDict]:
    """Yield the state dict, then without its first prefix, its first two, and so on."""
    while True:
        yield state
        keys = state.keys() - COUNTERS
        common = (prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in keys))
        prefix = next(common, None)
        if not keys or prefix is None:
            return
        state = {key.removeprefix(prefix): value for key, value in state.items() if key in keys}


def shown(key: object) -> str:
    """Return the name of a weight for a message: short, and without codes of the terminal."""
    text = str(key)
    return text if text.isprintable() and len(text) <= MAX_SHOWN else f"{text!r:.{MAX_SHOWN}}..."


def _load_torch(file: Path) -> object:
    """Return what `torch.save` wrote: tensors, numbers and texts, in containers."""
    if tarfile.is_tarfile(file):
        raise InputError(f"{file} is an archive; unpack it and give the file inside")
    try:
        # a stream, since torch would go by the suffix of a name
        with torch.serialization.safe_globals(INERT), file.open("rb") as stream:
            return torch.load(stream, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+) (?:was|whose)", str(error))
        kind = f" ({shown(refused[1])})" if refused else ""
        damaged = "" if refused else ", or is damaged"
        raise InputError(
            f"{file} holds objects other than tensors{kind}, which are not unpickled since that "
            f"can run any code{damaged}. If you trust it, load it with "
            f"torch.load(..., weights_only=False) and {ADVICE}."
        ) from None
    except Exception as error:  # torch.load raises KeyError, EOFError, UnicodeDecodeError, ...
        reason = f"{type(error).__name__}: {first_line(error, 120)}"
        raise InputError(f"{file} cannot be read as a state dict ({reason}); {ADVICE}") from None


def _unwrap(content: object, file: Path) -> StateDict:
    """Return the state dict in what a file holds."""
    found = dict(_find(content, ()))
    if not found and isinstance(content, Mapping):  # under a name of its own
        own = {str(name): value for name, value in content.items() if _is_state_dict(value)}
        found = own if len(own) == 1 else {}
    if not found:
        kind = f"a {type(content).__name__}"
        got = ", ".join(map(shown, [*content][:8])) if isinstance(content, Mapping) else kind
        raise InputError(
            f"{file} must hold a state dict, names to tensors, itself or as an entry such as "
            f"state_dict or model, but holds {got or 'nothing'}; {ADVICE}"
        )
    first, *others = found
    if others:
        warnings.warn(
            f"{file} holds weights as {', '.join(found)}; loading {first}. To use another, save it "
            "alone.",
            stacklevel=2,
        )
    return found[first]


def _find(content: object, path: tuple[str, ...]) -> Iterator[tuple[str, StateDict]]:
    """Yield the state dicts in a checkpoint under their names, the preferred one first."""
    if _is_state_dict(content):
        yield ".".join(path), content  # type: ignore[misc]
    elif isinstance(content, Mapping) and len(path) < MAX_NESTING:
        for name in (*AVERAGED, *TRAINED):
            if name in content:
                yield from _find(content[name], (*path, name))


def _is_state_dict(content: object) -> bool:
    """Return True for a mapping, not empty, of names to tensors that have a shape."""
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
        and not any(value.is_nested for value in content.values())
    )
