"""Copies of passed models as bytes, for the driver and for Ray's workers.

Each model of a study is made of a new copy. So the user's object is never changed, runs of one
process share nothing, and a function that hands out one and the same module does no harm. The
bytes are pickles that this process has made itself, of objects in its own memory; like the study,
they reach the workers through Ray, and they are never written to a file.
"""

import io
import pickle
from typing import Any

import numpy as np
import torch
from ray import cloudpickle
from ray.cloudpickle.cloudpickle import _get_or_create_tracker_id
from torch import Tensor, nn

from kdtune.config.errors import InputError, first_line
from kdtune.config.objects import Passed, describe


class Frozen(Passed):
    """A module or function as it was when it was passed.

    Args:
        kind: "teacher" or "student", for errors.
        name: of the object, for errors.
        value: the module or function.

    Raises:
        InputError: it holds what cannot be copied, such as an open file.
    """

    def __init__(self, kind: str, name: str, value: Any):
        super().__init__(value)
        try:
            self.content = freeze(value)
            thaw(self.content)
        except Exception as error:  # whatever its classes raise
            raise InputError(
                f"{describe(kind, name)} cannot be copied for Ray's workers "
                f"({type(error).__name__}: {first_line(error, 100)}); remove what it holds besides "
                f"weights and settings, such as open files, locks and generators, or pass a "
                f"function that makes it"
            ) from error

    def fresh(self) -> Any:
        """Return a copy of the module or function, which the caller may change."""
        return thaw(self.content)


def freeze(value: Any) -> bytes:
    """Return a copy of a module or function as bytes, its tensors on the CPU."""
    stream = io.BytesIO()
    _Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return stream.getvalue()


def thaw(content: Any) -> Any:
    """Return a new copy of what `freeze` has made bytes of, bit for bit.

    Args:
        content: bytes, or a buffer of them.
    """
    return pickle.loads(content)  # noqa: S301 - bytes of this process


class _Storage:
    """Memory of tensors, uint8 [bytes]; tensors that share it do so in a copy."""

    def __init__(self, values: np.ndarray[Any, Any]):
        self.values = values

    def __reduce__(self) -> Any:
        return _Storage, (self.values,)


class _Pickler(cloudpickle.CloudPickler):
    """Pickler of functions and classes by value that copies tensors only once.

    torch's own way to pickle a tensor copies its memory three times, separates tensors that share
    it, and leaves those of a GPU to processes that may not have one.
    """

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self._storages: dict[int, tuple[Any, _Storage]] = {}

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type):
            return _untracked(value, super().reducer_override(value))
        if type(value) not in (Tensor, nn.Parameter) or not _is_plain(value):
            return super().reducer_override(value)
        storage = value.untyped_storage()
        if storage._cdata not in self._storages:
            on_cpu = torch.empty(0, dtype=torch.uint8).set_(storage.cpu())
            # with the storage itself, whose number no other then gets
            self._storages[storage._cdata] = storage, _Storage(on_cpu.numpy())
        shape = value.size(), value.stride(), value.storage_offset()
        learns = value.requires_grad and value.is_leaf
        own = self._storages[storage._cdata][1]
        return _tensor, (type(value), own, value.dtype, *shape, learns)


def _untracked(cls: type, reduced: Any) -> Any:
    """Return how a class is pickled, without the number under which cloudpickle knows it.

    By this number it would find the class itself when it unpickles in the same process, and replace
    all its methods: the user's class would be changed.
    """
    if not isinstance(reduced, tuple):
        return reduced  # by its name
    make, arguments, *rest = reduced
    own = _get_or_create_tracker_id(cls)
    return make, tuple(None if one == own else one for one in arguments), *rest


def _is_plain(value: Tensor) -> bool:
    """Return True for a tensor that is its memory, shape and strides, and nothing else."""
    return (
        value.layout is torch.strided
        and value.device.type != "meta"
        and not (value.is_quantized or value.is_conj() or value.is_neg() or value.__dict__)
    )


def _tensor(
    kind: type,
    storage: _Storage,
    dtype: torch.dtype,
    size: torch.Size,
    stride: tuple[int, ...],
    offset: int,
    learns: bool,
) -> Tensor:
    memory = torch.from_numpy(storage.values).untyped_storage()
    tensor = torch.empty(0, dtype=dtype).set_(memory, offset, size, stride)
    if kind is nn.Parameter:
        return nn.Parameter(tensor, requires_grad=learns)
    return tensor.requires_grad_(learns)
