"""Weights in and out, safely: state dicts as safetensors, nothing is unpickled."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdtune.config.errors import InputError
from kdtune.config.files import atomic_write, describe_missing

StateDict = Mapping[str, Tensor]
DO = "save it with torch.save(model.state_dict(), ...) or as .safetensors"


def load_weights(name: str, weights: str) -> StateDict:
    """The state dict "default" of a library's model, or that of a file; nothing is unpickled."""
    if weights == "default":
        return _default_weights(name)
    file = Path(weights).expanduser()
    if not file.is_file():
        raise InputError(
            f'weights must be "default", "none" or a file, but {describe_missing(file)}'
        )
    if file.suffix == ".safetensors":
        check_whole(file)
        return load_file(file)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise InputError(
            f"{file} holds other objects than tensors, which are not unpickled, or is damaged; {DO}"
        ) from None
    except Exception as error:  # torch.load answers damage with KeyError, EOFError, Unicode..., all
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:120]
        raise InputError(f"{file} cannot be read as a state dict ({reason}); {DO}") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        kind = f"a {type(state).__name__}"
        got = ", ".join(map(str, list(state)[:5])) if isinstance(state, dict) else kind
        raise InputError(f"{file} must hold a state dict, names to tensors, but holds {got}; {DO}")
    return state


def check_whole(file: Path) -> None:
    """Raises InputError where a safetensors file is cut off or none; reads its head only."""
    try:
        with safe_open(file, framework="pt"):
            pass
    except SafetensorError as error:
        raise InputError(f"{file} is not a whole safetensors file ({error})") from None


def fill(net: nn.Module, state: StateDict, head_name: str, what: str, replace_head: bool) -> None:
    """Load the state dict; a head of another size is left as it is, or refused."""
    own = net.state_dict()
    head = [key for key in own if key.startswith(f"{head_name}.")]
    resized = [key for key in head if key in state and state[key].shape != own[key].shape]
    if resized and not replace_head:
        have, need = state[resized[0]].shape[0], own[resized[0]].shape[0]
        raise InputError(
            f"{what} are for {have} classes, but the data has {need}; fine-tune the teacher "
            f"(--teacher-epochs 1 or more) or give weights for {need} classes"
        )
    used = {k: v for k, v in state.items() if not (resized and k in head)}
    missing = [k for k in own if k not in used and not (resized and k in head)]
    # a counter that nothing reads, absent from weights older than 2018
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    foreign = [k for k in used if k not in own]
    differ = [k for k in used if k in own and used[k].shape != own[k].shape]
    for keys, fault in (
        (missing, "lack"),
        (foreign, "have besides"),
        (differ, "have in other shape"),
    ):
        if keys:
            raise InputError(
                f"{what} do not fit it: they {fault} {', '.join(keys[:3])} ({len(keys)})"
            )
    net.load_state_dict(used, strict=False)


def save_weights(net: nn.Module, file: Path) -> None:
    """Write the network's state dict as safetensors, aside and renamed."""
    state = net.state_dict()
    with atomic_write(file) as aside:
        save_file({name: value.cpu().contiguous() for name, value in state.items()}, aside)


def _default_weights(name: str) -> StateDict:
    try:
        if name.startswith("timm/"):
            net = import_timm(name).create_model(name.removeprefix("timm/"), pretrained=True)
            return net.state_dict()  # type: ignore[no-any-return]
        if ":" in name:
            raise InputError(f'{name} has no weights "default"; give "none" or a file')
        default = torchvision.models.get_model_weights(name).DEFAULT
        return default.get_state_dict(progress=False, check_hash=True, weights_only=True)  # type: ignore[no-any-return]
    except (URLError, OSError, RuntimeError) as error:
        reason = str(getattr(error, "reason", error)).split("\n")[0][:120]
        raise InputError(
            f"the default weights of {name} cannot be downloaded ({reason}); give a file "
            f"(--teacher-weights FILE, --student-weights FILE) or none for random weights"
        ) from None


def import_timm(name: str) -> Any:
    """The module timm; raises InputError where it is not installed."""
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise InputError(f"{name} needs timm: pip install 'kdtune[timm]'") from None
