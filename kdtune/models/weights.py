"""Weights as state dicts; nothing is unpickled."""

import argparse
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdtune.config.fields import HUB
from kdtune.config.files import atomic_write, missing_path
from kdtune.config.text import DAMAGED, InputError, first_line, import_package, printable
from kdtune.models.classifier import Preprocessing

# Checkpoints that others have saved: their files, entries and prefixes.

StateDict = Mapping[str, Tensor]
"""Names of parameters and buffers to tensors."""

_NETWORKS = ("model", "net", "network", "module", "weights", "params")
_ENTRIES = ("state_dict", "model_state_dict", "model_state", "net_state_dict", *_NETWORKS)
"""Entries of a checkpoint that hold weights. Moving averages, which have "ema" in their names, come
before them, since they are what is evaluated and published."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""Prefixes of DataParallel, torch.compile and wrappers such as Lightning's modules."""
_COUNTERS = {"n_averaged"}
"""Buffers of torch's AveragedModel beside the weights."""
_INERT: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [argparse.Namespace]
"""Classes whose instances do nothing when they are made; training scripts save their flags so."""
_ADVICE = "save the state dict alone with torch.save(model.state_dict(), ...) or as .safetensors"


def read_checkpoint(file: Path) -> StateDict:
    """Return the state dict in a file: safetensors, or anything that `torch.save` wrote.

    A state dict may be an entry of a checkpoint, see `_ENTRIES`. Where a checkpoint holds several,
    a warning names the one that is taken.

    Raises:
        InputError: the file is damaged, holds objects of other classes, or no state dict.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(32)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); give another file") from None
    # a safetensors file begins with the length of its header, eight bytes, and the header's brace
    if start[8:9] == b"{" or (
        file.suffix == ".safetensors" and start[:2] not in (b"PK", b"\x80\2")
    ):
        check_whole(file)
        return load_file(file)
    return _unwrap(_load_torch(file, start), file)


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
        keys = state.keys() - _COUNTERS
        common = (prefix for prefix in _PREFIXES if all(key.startswith(prefix) for key in keys))
        prefix = next(common, None)
        if not keys or prefix is None:
            return
        state = {key.removeprefix(prefix): value for key, value in state.items() if key in keys}


def _short(key: object) -> str:
    """Return the name of a weight for a message."""
    return printable(str(key)[:80])


def _load_torch(file: Path, start: bytes) -> object:
    """Return what `torch.save` wrote: tensors, numbers and texts, in containers.

    Args:
        file: The file.
        start: Its first bytes, which tell a web page or a pointer of Git LFS.
    """
    try:
        # a stream, since torch would go by the suffix of a name
        with torch.serialization.safe_globals(_INERT), file.open("rb") as stream:
            return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises UnpicklingError, KeyError, EOFError, ...
        refused = re.search(r"GLOBAL (\S+) (?:was|whose)", str(error))
        reason = f"{type(error).__name__}: {first_line(error, 120)}; it begins with {start!r}"
        if refused:
            reason = f"it holds {_short(refused[1])}"
        raise InputError(
            f"{file} cannot be read as a state dict ({reason}). Objects other than tensors are not "
            f"unpickled, since that can run any code; if you trust the file, load it with "
            f"torch.load(..., weights_only=False) and {_ADVICE}."
        ) from None


def _unwrap(content: object, file: Path) -> StateDict:
    """Return the state dict in what a file holds."""
    states = dict(_find(content, ()))
    entries = content if isinstance(content, Mapping) else {}
    if not states:  # the only one, under another name
        others = {str(name): value for name, value in entries.items() if _is_state_dict(value)}
        states = others if len(others) == 1 else {}
    if not states:
        names = ", ".join(map(_short, [*entries][:8]))
        raise InputError(
            f"{file} must hold a state dict, names to tensors, itself or as an entry such as "
            f"state_dict or model, but holds a {type(content).__name__} ({names or 'no entries'}); "
            f"{_ADVICE}"
        )
    first, *more = states
    if more:
        warnings.warn(
            f"{file} holds weights as {', '.join(states)}; loading {first}. To use another, save "
            f"it alone.",
            stacklevel=2,
        )
    return states[first]


def _find(content: object, path: tuple[str, ...]) -> Iterator[tuple[str, StateDict]]:
    """Yield the state dicts in a checkpoint under their names, the preferred one first."""
    if _is_state_dict(content):
        yield ".".join(path), content  # type: ignore[misc]
    elif isinstance(content, Mapping):
        averages = [name for name in content if "ema" in str(name).lower().split("_")]
        for name in (*averages, *_ENTRIES):
            if name in content:
                yield from _find(content[name], (*path, name))


def _is_state_dict(content: object) -> bool:
    """Return True for a mapping, not empty, of names to tensors."""
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    )


# Reading and writing of weights as state dicts.


def load_weights(name: str, weights: str) -> StateDict:
    """Return a state dict.

    Args:
        name: the model's name.
        weights: "default", the weights that torchvision, timm or transformers publish for this
            model, or a file (see `read_checkpoint`).

    Raises:
        InputError: there are no such weights, or the file is damaged or holds other objects.
    """
    if weights == "default":
        return _default_weights(name)
    file = Path(weights).expanduser()
    if not file.is_file():
        raise missing_path('weights must be "default", "none" or a file', file)
    return read_checkpoint(file)


def fill(net: nn.Module, state: StateDict, head_name: str, noun: str, replace_head: bool) -> bool:
    """Load a state dict into a network; return True if it has kept its own head.

    Args:
        net: the network; unchanged if the state dict is refused.
        state: the state dict; prefixes that all its keys have are removed where that fits.
        head_name: name of the network's last layer.
        noun: the weights in words, for error messages.
        replace_head: whether weights with a head of another size are loaded without the head. If
            not, they are refused.

    Raises:
        InputError: the weights do not fit the network.
    """
    initial = net.state_dict()
    state = align(state, initial)
    head = [key for key in initial if key.startswith(f"{head_name}.")]
    common = [key for key in head if key in state and state[key].ndim == initial[key].ndim]
    resized = [key for key in common if len(state[key]) != len(initial[key])]
    if resized and not replace_head:
        have, need = len(state[resized[0]]), len(initial[resized[0]])
        raise InputError(
            f"{noun} are for {have} classes, but the data has {need}; fine-tune the teacher "
            f"(--teacher-epochs 1 or more) or give weights for {need} classes"
        )
    left_out = head if resized else []
    used = {k: v for k, v in state.items() if k not in left_out}
    expected = {k: v for k, v in initial.items() if k not in left_out}
    if faults := differences(expected, used):
        raise InputError(
            f"{noun} do not fit the network ({'; '.join(faults)}). Give weights of this "
            f"architecture, or as the model a factory (module:factory) whose layers have these "
            f"names and shapes."
        )
    net.load_state_dict(used, strict=False)
    return bool(left_out)


def differences(expected: StateDict, state: StateDict) -> list[str]:
    """Return in words where a state dict differs in names, shapes and types; the first of each."""
    counter = ".num_batches_tracked"  # without effect; weights from before 2018 lack it
    needed = {k: v for k, v in expected.items() if not k.endswith(counter)}
    faults = {
        "missing keys": [k for k in needed if k not in state],
        "unexpected keys": [k for k in state if k not in expected and k not in _COUNTERS],
        "other shapes or types": [
            f"{k}, {_form(state[k])} instead of {_form(needed[k])}"
            for k in needed
            if k in state and _form(state[k]) != _form(needed[k])
        ],
    }
    return [
        f"{kind}: {len(keys)}, first {printable(keys[0][:200])}"
        for kind, keys in faults.items()
        if keys
    ]


def _form(value: Tensor) -> str:
    kind = "floating-point numbers" if value.is_floating_point() else "other numbers"
    return f"{list(value.shape)} of {kind}"


def save_weights(net: nn.Module, file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write the network's state dict as safetensors, atomically, perhaps with metadata."""
    with atomic_write(file) as part:
        save_file(saved_state(net), part, metadata)


def saved_state(net: nn.Module) -> dict[str, Tensor]:
    """Return the network's state dict as safetensors takes it: no tensors that share memory."""
    state, memories = dict[str, Tensor](), set[int]()
    for name, value in net.state_dict().items():
        value = value.detach().cpu().contiguous()
        memory = value.untyped_storage().data_ptr()
        state[name] = value.clone() if memory in memories else value  # of tied weights
        memories.add(memory)
    return state


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
    elif weights == "default" and is_of_torchvision(name):
        stated = _published_by_torchvision(name).meta.get("license")
    return str(stated or "unknown")


def _default_weights(name: str) -> StateDict:
    """Return the weights that torchvision, timm or transformers publish for the model."""
    try:
        if name.startswith(HUB):
            return _weights_of_transformers(name)
        if name.startswith("timm/"):
            net = import_package("timm", name).create_model(
                name.removeprefix("timm/"), pretrained=True
            )
            return net.state_dict()  # type: ignore[no-any-return]
        if not is_of_torchvision(name):
            raise InputError(f'{name} has no weights "default"; use "none" or a file')
        default = _published_by_torchvision(name)
        return default.get_state_dict(progress=False, check_hash=True, weights_only=True)  # type: ignore[no-any-return]
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"the default weights of {name} cannot be loaded ({first_line(error, 120)}); "
            f"give a file (--teacher-weights FILE, --student-weights FILE) or none for random "
            f"weights"
        ) from None


# Models of Hugging Face, by the package `transformers`.

HUB_LOADING = {"dtype": torch.float32, "trust_remote_code": False}
"""Arguments of all models: code that comes with a model is never run."""


def _weights_of_transformers(name: str) -> StateDict:
    """Return the weights of an image classifier of transformers, from safetensors alone.

    A head that the model lacks has no rows, as one for 0 classes.
    """
    library = import_package("transformers", name)
    library.logging.disable_progress_bar()  # each run would write a bar and a report
    library.logging.set_verbosity_error()
    net, report = library.AutoModelForImageClassification.from_pretrained(
        hub_model(name), use_safetensors=True, output_loading_info=True, **HUB_LOADING
    )
    missing = report["missing_keys"]
    return {k: v[:0] if k in missing and v.ndim else v for k, v in net.state_dict().items()}


def hub_model(name: str) -> str:
    """Return the folder of hf:FOLDER; of hf:NAME the name, which huggingface.co has.

    A folder is looked for from the current one and, as modules are, from those of `sys.path`, since
    a trial runs in another folder.
    """
    source = name.removeprefix(HUB)
    folders = [Path(root) / Path(source).expanduser() for root in (".", *sys.path)]
    return next((str(f) for f in folders if (f / "config.json").is_file()), source)


def _published_by_torchvision(name: str) -> Any:
    from torchvision.models import get_model_weights

    return get_model_weights(name).DEFAULT


def is_of_torchvision(name: str) -> bool:
    """Return whether a model is one of torchvision's classifiers.

    torchvision takes as long to import as torch, so it is not for the names of other models.
    """
    is_other = ":" in name or "/" in name or name.startswith("cifar_")
    return not is_other and name in torchvision_names()


@cache
def torchvision_names() -> frozenset[str]:
    """Return the names of torchvision's classifiers."""
    from torchvision import models

    return frozenset(models.list_models(models))


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

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)
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


_FINISHED = TypeAdapter(FinishedTeacher)


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
            text = (weights.metadata() or {}).get(METADATA)
    except (OSError, SafetensorError):
        return None  # no file, or of another kind
    if text is not None:
        try:
            return _FINISHED.validate_json(text)
        except ValueError as error:
            raise InputError(
                f"{file} is of a teacher that kdtune has fine-tuned, but its {METADATA} is damaged "
                f"or of a newer version ({first_line(error, 120)}); copy the file again"
            ) from None
    if file.name != WEIGHTS:
        return None
    try:  # of an earlier version
        record = json.loads((file.parent / RECORD).read_text(encoding="utf-8"))
        names = {"model": record["run"]["student"], "classes": record["classes"]}
        values = names | {"preprocessing": record["preprocessing"]}
        return _FINISHED.validate_json(json.dumps(values))
    except (OSError, *DAMAGED):
        return None  # of others, or without a record


def teacher_file(weights: str) -> str:
    """Return the file of a study's fine-tuned teacher if weights are its folder; else the weights.

    Raises:
        InputError: The folder holds no fine-tuned teacher, or several.
    """
    folder = Path(weights).expanduser()
    if weights in ("default", "none") or not folder.is_dir():
        return weights
    files = sorted(file for depth in ("", "*/", "*/*/") for file in folder.glob(depth + WEIGHTS))
    if len(files) != 1:
        raise InputError(
            f"--teacher-weights must be a file or the folder of a study with one fine-tuned "
            f"teacher, but {weights} holds {', '.join(map(str, files)) or f'no {WEIGHTS}'}; give "
            f"the file of the weights"
        )
    return str(files[0])
