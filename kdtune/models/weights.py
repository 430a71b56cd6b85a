"""Reading and writing of weights as state dicts; nothing is unpickled."""

import importlib
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from kdtune.config.errors import InputError, first_line
from kdtune.config.files import atomic_write, describe_missing
from kdtune.models.checkpoints import COUNTERS, StateDict, align, read_checkpoint, shown


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
