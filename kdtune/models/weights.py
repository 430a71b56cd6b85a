"""Reading and writing of weights as state dicts; nothing is unpickled."""

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

from kdtune.config.errors import InputError, first_line
from kdtune.config.files import atomic_write, describe_missing

StateDict = Mapping[str, Tensor]
"""Names of parameters and buffers to tensors."""

ADVICE = "save it with torch.save(model.state_dict(), ...) or as .safetensors"


def load_weights(name: str, weights: str) -> StateDict:
    """Return a state dict.

    Args:
        name: the model's name.
        weights: "default", the weights that torchvision or timm publish for this model, or a file
            (.safetensors, or a state dict saved by torch).

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
    if file.suffix == ".safetensors":
        check_whole(file)
        return load_file(file)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise InputError(
            f"{file} holds objects other than tensors, which are not unpickled, or is damaged; "
            f"{ADVICE}"
        ) from None
    except Exception as error:  # torch.load raises KeyError, EOFError, UnicodeDecodeError, ...
        reason = f"{type(error).__name__}: {first_line(error, 120)}"
        raise InputError(f"{file} cannot be read as a state dict ({reason}); {ADVICE}") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        kind = f"a {type(state).__name__}"
        got = ", ".join(map(str, list(state)[:5])) if isinstance(state, dict) else kind
        raise InputError(
            f"{file} must hold a state dict, names to tensors, but holds {got}; {ADVICE}"
        )
    return state


def check_whole(file: Path) -> None:
    """Raise InputError if a safetensors file is incomplete or not one; reads its header only."""
    try:
        with safe_open(file, framework="pt"):
            pass
    except SafetensorError as error:
        reason = first_line(error)
        raise InputError(f"{file} is not a whole safetensors file ({reason})") from None


def fill(net: nn.Module, state: StateDict, head_name: str, what: str, replace_head: bool) -> None:
    """Load a state dict into a network.

    Args:
        net: the network; unchanged if the state dict is refused.
        state: the state dict.
        head_name: name of the network's last layer.
        what: the weights in words, for error messages.
        replace_head: whether weights with a head of another size are loaded without the head. If
            not, they are refused.

    Raises:
        InputError: the weights do not fit the network.
    """
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
    # an unused counter, which weights from before 2018 lack
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    foreign = [k for k in used if k not in own]
    differ = [k for k in used if k in own and used[k].shape != own[k].shape]
    for keys, fault in (
        (missing, "lack"),
        (foreign, "also have"),
        (differ, "have in another shape"),
    ):
        if keys:
            raise InputError(
                f"{what} do not fit the network: they {fault} {', '.join(keys[:3])} ({len(keys)})"
            )
    net.load_state_dict(used, strict=False)


def save_weights(net: nn.Module, file: Path) -> None:
    """Write the network's state dict as safetensors, atomically."""
    state = net.state_dict()
    with atomic_write(file) as part:
        save_file({name: value.cpu().contiguous() for name, value in state.items()}, part)


def _default_weights(name: str) -> StateDict:
    """Return the weights that torchvision or timm publish for the model."""
    try:
        if name.startswith("timm/"):
            net = import_timm(name).create_model(name.removeprefix("timm/"), pretrained=True)
            return net.state_dict()  # type: ignore[no-any-return]
        if ":" in name:
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
