"""Weights as state dicts; nothing is unpickled."""

import argparse
import importlib
import json
import re
import tarfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdtune.config.files import atomic_write, describe_missing
from kdtune.config.text import DAMAGED, InputError, first_line
from kdtune.models.classifier import Preprocessing

# Checkpoints that others have saved: their files, entries and prefixes; nothing is unpickled.


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


# Reading and writing of weights as state dicts; nothing is unpickled.


def load_weights(name: str, weights: str) -> StateDict:
    """Return a state dict.

    Args:
        name: the model's name.
        weights: "default", the weights that torchvision or timm publish for this model, or a file
            (see `read_checkpoint`).

    Raises:
        InputError: there are no such weights, or the file is damaged or holds other objects.
    """
    if weights == "default":
        return _default_weights(name)
    file = Path(weights).expanduser()
    if not file.is_file():
        raise InputError(
            f'weights must be "default", "none" or a file, but {describe_missing(file)}'
        )
    return read_checkpoint(file)


def fill(net: nn.Module, state: StateDict, head_name: str, what: str, replace_head: bool) -> bool:
    """Load a state dict into a network; return True if it has kept its own head.

    Args:
        net: the network; unchanged if the state dict is refused.
        state: the state dict; prefixes that all its keys have are removed where that fits.
        head_name: name of the network's last layer.
        what: the weights in words, for error messages.
        replace_head: whether weights with a head of another size are loaded without the head. If
            not, they are refused.

    Raises:
        InputError: the weights do not fit the network.
    """
    own = net.state_dict()
    state = align(state, own)
    head = [key for key in own if key.startswith(f"{head_name}.")]
    common = [key for key in head if key in state and state[key].ndim == own[key].ndim]
    resized = [key for key in common if len(state[key]) != len(own[key])]
    if resized and not replace_head:
        have, need = len(state[resized[0]]), len(own[resized[0]])
        raise InputError(
            f"{what} are for {have} classes, but the data has {need}; fine-tune the teacher "
            f"(--teacher-epochs 1 or more) or give weights for {need} classes"
        )
    left_out = head if resized else []
    used = {k: v for k, v in state.items() if k not in left_out}
    expected = {k: v for k, v in own.items() if k not in left_out}
    if faults := differences(expected, used):
        raise InputError(
            f"{what} do not fit the network ({'; '.join(faults)}). Give weights of this "
            f"architecture, or as the model a factory (module:factory) whose layers have these "
            f"names and shapes."
        )
    check_finite(used, expected, what)
    net.load_state_dict(used, strict=False)
    return bool(left_out)


def differences(expected: StateDict, state: StateDict) -> list[str]:
    """Return in words where a state dict differs in names, shapes and kinds of numbers.

    The first of each is named.
    """
    # the counter has no effect on logits, and weights from before 2018 lack it
    counter = ".num_batches_tracked"
    missing = [k for k in expected if k not in state and not k.endswith(counter)]
    foreign = [k for k in state if k not in expected and k not in COUNTERS]
    differ = [k for k in expected if k in state and state[k].shape != expected[k].shape]
    faults = []
    if missing:
        faults.append(f"missing keys: {len(missing)}, first {shown(missing[0])}")
    if foreign:
        faults.append(f"unexpected keys: {len(foreign)}, first {shown(foreign[0])}")
    if differ:
        key, (have, need) = differ[0], [list(side[differ[0]].shape) for side in (state, expected)]
        faults.append(f"other shapes: {len(differ)}, first {shown(key)}, {have} instead of {need}")
    shared = [k for k in expected if k in state and not k.endswith(counter)]
    if other := [k for k in shared if _kind(state[k]) != _kind(expected[k])]:
        kinds = [_kind(side[other[0]]) for side in (state, expected)]
        faults.append(
            f"other types: {len(other)}, first {shown(other[0])}, {' instead of '.join(kinds)}"
        )
    return faults


def _kind(value: Tensor) -> str:
    """Return which values a tensor can take without loss from another of the same kind."""
    if value.layout is not torch.strided or value.device.type == "meta" or value.is_quantized:
        return "a tensor without plain values"  # sparse, without values, quantised
    if value.is_complex():
        return "complex numbers"
    return "floating-point numbers" if value.is_floating_point() else "whole numbers"


def check_finite(state: StateDict, own: StateDict, what: str) -> None:
    """Raise InputError if weights are NaN or infinite where those of the network are finite.

    A mask of attention may hold infinities: those that the network has itself are no fault.

    Args:
        state: weights that fit the network.
        own: the network's state dict before they are loaded.
        what: the weights in words.
    """
    bad = {
        key: count
        for key, value in state.items()
        if key in own
        if (count := _count_not_finite(value.to(own[key].dtype)))
        and count > _count_not_finite(own[key])
    }
    if not bad:
        return
    key, count = next(iter(bad.items()))
    others = f", and in {len(bad) - 1} others" if len(bad) > 1 else ""
    raise InputError(
        f"{what} must be finite numbers, but hold {sum(bad.values()):,} that are NaN or infinite, "
        f"{count:,} of them in {shown(key)}{others}; their training has diverged, or the file is "
        f"damaged: give other weights"
    )


def _count_not_finite(value: Tensor) -> int:
    """Return how many numbers of a tensor are NaN or infinite."""
    if not value.is_floating_point():
        return 0
    return value.numel() - int(value.isfinite().sum())


def save_weights(net: nn.Module, file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write the network's state dict as safetensors, atomically, perhaps with metadata."""
    state = net.state_dict()
    with atomic_write(file) as part:
        save_file({name: value.cpu().contiguous() for name, value in state.items()}, part, metadata)


def licence_of(net: nn.Module, name: str, weights: str) -> str:
    """Return the licence of a model's initial weights as its library states it, or "unknown".

    Args:
        net: the network.
        name: the model's name.
        weights: "default", "none" or a file.
    """
    if weights == "none":
        return "none (random initial weights)"
    stated: object = None
    if weights == "default" and name.startswith("timm/"):
        stated = getattr(net, "pretrained_cfg", {}).get("license")
    elif weights == "default" and name in torchvision.models.list_models(torchvision.models):
        stated = torchvision.models.get_model_weights(name).DEFAULT.meta.get("license")
    return str(stated or "unknown")


def _default_weights(name: str) -> StateDict:
    """Return the weights that torchvision or timm publish for the model."""
    try:
        if name.startswith("timm/"):
            net = import_timm(name).create_model(name.removeprefix("timm/"), pretrained=True)
            return net.state_dict()  # type: ignore[no-any-return]
        if name not in torchvision.models.list_models(torchvision.models):
            raise InputError(f'{name} has no weights "default"; use "none" or a file')
        default = torchvision.models.get_model_weights(name).DEFAULT
        return default.get_state_dict(progress=False, check_hash=True, weights_only=True)  # type: ignore[no-any-return]
    except (URLError, OSError, RuntimeError) as error:
        cause = getattr(error, "reason", error)
        reason = first_line(cause if isinstance(cause, Exception) else Exception(cause), 120)
        raise InputError(
            f"the default weights of {name} cannot be downloaded ({reason}); give a file "
            f"(--teacher-weights FILE, --student-weights FILE) or none for random weights"
        ) from None


def import_timm(name: str) -> Any:
    """Return the module timm; raise InputError if it is not installed."""
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise InputError(f"{name} needs timm: pip install 'kdtune[timm]'") from None


# Finished teachers: files of weights that kdtune has fine-tuned, with what using them needs.
#
# The file of weights says itself which model it is of, for which classes, and how its input is
# preprocessed. Files of earlier versions have that in teacher.json beside them.


WEIGHTS = "teacher.safetensors"
RECORD = "teacher.json"
METADATA = "kdtune_teacher"
"""Entry of the metadata of the file of weights."""


@dataclass(frozen=True)
class FinishedTeacher:
    """What a file of weights says about the teacher that it holds."""

    model: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    data: str | None = None
    """Fingerprint of the data that it was fine-tuned on, which depends on how val was cut; None in
    files of earlier versions."""
    has_cut_val: bool = False
    """Whether val was cut from train in these data."""

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of the file of weights."""
        return {METADATA: json.dumps(asdict(self), sort_keys=True)}


def read_finished(file: Path) -> FinishedTeacher | None:
    """Return what a file of weights says about its teacher; None for files of others.

    Raises:
        InputError: It says so in a way that this version cannot read. Without its preprocessing the
            teacher's predictions would be wrong.
    """
    try:
        if not file.is_file():  # a pipe would never end
            return None
        with safe_open(file, framework="pt") as weights:
            metadata = weights.metadata() or {}
        if METADATA not in metadata and file.name != WEIGHTS:
            return None
    except (OSError, SafetensorError):
        return None  # no file, or of another kind
    if METADATA in metadata:
        try:
            return _finished(**_known(json.loads(metadata[METADATA])))
        except DAMAGED as error:
            raise InputError(
                f"{file} is of a teacher that kdtune has fine-tuned, but what it says of it "
                f"({METADATA} in its metadata) is damaged or of a newer version "
                f"({first_line(error, 120)}); copy the file again, or fine-tune the teacher again"
            ) from None
    try:
        record = json.loads((file.parent / RECORD).read_text(encoding="utf-8"))
        return _finished(record["run"]["student"], record["classes"], record["preprocessing"])
    except (OSError, *DAMAGED):
        return None  # of others, or without a record


def _known(values: object) -> dict[str, Any]:
    """Return what a file says by name; raise ValueError if a name is unknown to this version."""
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    known = {field.name for field in fields(FinishedTeacher)}
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"it has an entry {unknown[0]!r:.40}")
    if missing := [name for name in ("model", "classes", "preprocessing") if name not in values]:
        raise ValueError(f"it has no entry {missing[0]!r}")
    return values


def _finished(
    model: str,
    classes: list[str],
    preprocessing: dict[str, Any],
    data: str | None = None,
    has_cut_val: bool = False,
) -> FinishedTeacher:
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise TypeError("its classes are no list of texts")
    if not isinstance(model, str) or not isinstance(data, str | None):
        raise TypeError("its model or its data is no text")
    if not isinstance(has_cut_val, bool) or not isinstance(preprocessing, dict):
        raise TypeError("has_cut_val or preprocessing has another type")
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in preprocessing.items()
    }
    return FinishedTeacher(model, tuple(classes), Preprocessing(**values), data, has_cut_val)


def teacher_file(weights: str) -> str:
    """Return the file of a study's fine-tuned teacher if weights are its folder; else the weights.

    Raises:
        InputError: The folder holds no fine-tuned teacher, or several.
    """
    folder = Path(weights).expanduser()
    if weights in ("default", "none") or not folder.is_dir():
        return weights
    found = sorted(
        {*folder.glob(WEIGHTS), *folder.glob(f"*/{WEIGHTS}"), *folder.glob(f"*/*/{WEIGHTS}")}
    )
    if len(found) == 1:
        return str(found[0])
    if not found:
        raise InputError(
            f"--teacher-weights must be a file or the folder of a study with a fine-tuned teacher, "
            f"but {weights} holds no {WEIGHTS}; give the file of the weights"
        )
    raise InputError(
        f"--teacher-weights must name one teacher, but {weights} holds {len(found)}: "
        f"{', '.join(map(str, found))}; give one of these files"
    )
