"""Objects that were passed, in Ray's object store, from which the workers take them."""

import warnings
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import ray
import torch
from torch import Tensor

from kdtune.config.objects import Passed
from kdtune.config.study import Study
from kdtune.data.content import UNKNOWN
from kdtune.data.dataset import Data, Split
from kdtune.data.user_data import read_passed_data
from kdtune.models.passed import source_of
from kdtune.raytune.frozen import Frozen, thaw
from kdtune.raytune.objects import with_objects

MAX_ATTACHED = 16
"""Objects that a worker keeps attached for its next trials."""


def share_objects(study: Study) -> Study:
    """Return the study with its objects in Ray's object store, until Ray ends.

    Each is there once, however many trials and workers have it: they read arrays where they lie. A
    study itself is copied to every worker, so it has references alone.

    Args:
        study: Of `objects.take_objects`.
    """
    passed = {
        name: _OfDriver(one, ray.put(_content(name, one)))
        for name, one in study.run.objects.passed.items()
    }
    return with_objects(study, passed) if passed else study


def _content(name: str, passed: Passed) -> Any:
    """Return what the store holds of an object."""
    if isinstance(passed, Frozen):
        return np.frombuffer(passed.content, dtype=np.uint8)  # bytes alone would be copied
    return PackedData.of(passed.once("data", lambda: read_passed_data(name, passed)))


class _OfDriver(Passed):
    """An object in the process of the driver: it reaches others as a reference.

    Args:
        own: The object.
        reference: To what the store holds of it.
    """

    def __init__(self, own: Passed, reference: Any):
        super().__init__(own.value)
        self.notes = own.notes
        self.fresh = own.fresh  # type: ignore[method-assign]
        source = source_of(own) if isinstance(own, Frozen) else None
        self._attached = uuid4().hex, reference, own.is_module, source

    def __reduce__(self) -> Any:
        return attach, self._attached


class _OfWorker(Passed):
    """An object in the process of a worker, see `attach`."""

    def __init__(self, token: str, reference: Any, is_module: bool, source: Any):
        super().__init__(None)
        self._attached = token, reference, is_module, source
        if source is None:
            self.value = ray.get(reference).unpacked()
        else:
            self.notes["source"] = source

    def fresh(self) -> Any:
        """Return a new copy of the module or function."""
        return thaw(memoryview(ray.get(self._attached[1])))

    def __reduce__(self) -> Any:
        return attach, self._attached

    @property
    def is_module(self) -> bool:
        """Whether it is a module, which has weights of its own."""
        return self._attached[2]


_attached: dict[str, _OfWorker] = {}


def attach(token: str, reference: Any, is_module: bool, source: Any) -> Passed:
    """Return an object of Ray's store; one that this process has attached before is the same.

    Args:
        token: Tells it from all others.
        reference: To what the store holds of it.
        is_module: Whether it is a module.
        source: Of its code, see `source_of`; None for data.
    """
    if token not in _attached:
        _attached[token] = _OfWorker(token, reference, is_module, source)
        while len(_attached) > MAX_ATTACHED:
            del _attached[next(iter(_attached))]
    return _attached[token]


@dataclass(frozen=True)
class _PackedTensor:
    """A tensor whose bytes other processes read where they lie."""

    values: np.ndarray[Any, Any]
    dtype: torch.dtype
    shape: tuple[int, ...]

    @staticmethod
    def of(tensor: Tensor) -> "_PackedTensor":
        flat = tensor.contiguous().view(-1).view(torch.uint8)  # NumPy lacks some types
        return _PackedTensor(flat.numpy(), tensor.dtype, tuple(tensor.shape))

    def unpacked(self) -> Tensor:
        with warnings.catch_warnings():  # the memory is read-only, and nothing writes to it
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(self.values).view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class PackedData:
    """A data set that has been read."""

    splits: dict[str, tuple[_PackedTensor, _PackedTensor | tuple[str, ...], _PackedTensor | None]]
    """Labels, inputs and contents of the files of each split."""
    rest: dict[str, Any]
    """The other fields of `Data`."""

    @staticmethod
    def of(data: Data) -> "PackedData":
        """Return a data set for other processes, without what only holds on this machine."""
        packed = {
            name: (
                _PackedTensor.of(split.labels),
                _PackedTensor.of(split.inputs)
                if isinstance(split.inputs, Tensor)
                else split.inputs,
                None if split.stamps is None else _PackedTensor.of(split.stamps[:, 1]),
            )
            for name, split in data.splits.items()
        }
        names = ("classes", "fingerprint", "photos", "root", "warnings", "remarks")
        return PackedData(packed, {name: getattr(data, name) for name in names})

    def unpacked(self) -> Data:
        """Return the data set, whose tensors lie where they were packed."""
        splits = {
            name: Split(
                labels.unpacked(),
                inputs.unpacked() if isinstance(inputs, _PackedTensor) else inputs,
                None if contents is None else _unseen(contents.unpacked()),
            )
            for name, (labels, inputs, contents) in self.splits.items()
        }
        return Data(splits=splits, **self.rest)


def _unseen(contents: Tensor) -> Tensor:
    """Return the stamps of files of known contents, int64 [N, 2], that are read here first.

    On another machine equal files have other times: each is compared by its content once.
    """
    return torch.stack([torch.full_like(contents, UNKNOWN), contents], 1)
