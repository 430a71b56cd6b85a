"""Objects that were passed, and their copies on Ray's workers."""

import io
import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import ray
import torch
from ray import cloudpickle
from ray.cloudpickle.cloudpickle import _get_or_create_tracker_id
from torch import Tensor, nn

from kdtune.config.objects import Objects, Passed, describe_object
from kdtune.config.study import Study, object_names
from kdtune.config.text import InputError, first_line
from kdtune.data.arrays import load_user_data
from kdtune.data.dataset import Data
from kdtune.models.code_hash import source_of

# Copies of passed models as bytes, for the driver and for Ray's workers.
#
# Each model of a study is made of a new copy. So the user's object is never changed, runs of one
# process share nothing, and a function that hands out one and the same module does no harm. The
# bytes are pickles that this process has made itself, of objects in its own memory; like the study,
# they reach the workers through Ray, and they are never written to a file.


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
                f"{describe_object(kind, name)} cannot be copied for Ray's workers "
                f"({type(error).__name__}: {first_line(error, 100)}); remove what it holds besides "
                f"weights and settings, such as open files, locks and generators, or pass a "
                f"function that makes it"
            ) from error

    def fresh(self) -> Any:
        """Return a copy of the module or function, which the caller may change."""
        return thaw(self.content)


def freeze(value: Any, buffers: list[Any] | None = None) -> bytes:
    """Return a copy of an object as bytes, its tensors on the CPU.

    Args:
        value: A module, a function or data.
        buffers: Gets the memory of tensors and arrays, uint8 [bytes] each, in place of a copy.
    """
    stream = io.BytesIO()
    keep = None if buffers is None else (lambda buffer: buffers.append(np.asarray(buffer.raw())))
    _Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=keep).dump(value)
    return stream.getvalue()


def thaw(content: Any, buffers: Sequence[Any] = ()) -> Any:
    """Return a new copy of what `freeze` has made bytes of, bit for bit.

    Args:
        content: Bytes, or a buffer of them.
        buffers: Memory that it was given; the copy reads it where it lies.
    """
    with warnings.catch_warnings():  # nothing writes to read-only memory
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return pickle.loads(content, buffers=buffers)  # noqa: S301 - bytes of this process


class _Pickler(cloudpickle.CloudPickler):
    """Pickler of functions and classes by value that copies tensors only once.

    torch's own way to pickle a tensor copies its memory three times, separates tensors that share
    it, and leaves those of a GPU to processes that may not have one.
    """

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self._storages: dict[int, tuple[Any, np.ndarray[Any, Any]]] = {}
        """Each storage with its memory, uint8 [bytes]: tensors that share it do so in a copy."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type):
            return _untracked(value, super().reducer_override(value))
        if type(value) not in (Tensor, nn.Parameter) or not _is_plain(value):
            return super().reducer_override(value)
        storage = value.untyped_storage()
        if storage._cdata not in self._storages:
            on_cpu = torch.empty(0, dtype=torch.uint8).set_(storage.cpu())
            # with the storage itself, whose number no other then gets
            self._storages[storage._cdata] = storage, on_cpu.numpy()
        view = value.storage_offset(), value.size(), value.stride()
        learns = value.requires_grad and value.is_leaf
        memory = self._storages[storage._cdata][1]
        return _tensor, (type(value), memory, value.dtype, view, learns)


def _untracked(cls: type, reduced: Any) -> Any:
    """Return how a class is pickled, without the number under which cloudpickle knows it.

    By this number it would find the class itself when it unpickles in the same process, and replace
    all its methods: the user's class would be changed.
    """
    if not isinstance(reduced, tuple):
        return reduced  # by its name
    make, arguments, *rest = reduced
    number = _get_or_create_tracker_id(cls)
    return make, tuple(None if value == number else value for value in arguments), *rest


def _is_plain(value: Tensor) -> bool:
    """Return True for a tensor that is its memory, shape and strides, and nothing else."""
    return (
        value.layout is torch.strided
        and value.device.type != "meta"
        and not (value.is_quantized or value.is_conj() or value.is_neg() or value.__dict__)
    )


def _tensor(kind: type, memory: Any, dtype: torch.dtype, view: Any, learns: bool) -> Tensor:
    """Return a view of a memory: offset, size and stride."""
    storage = torch.from_numpy(memory).untyped_storage()
    tensor = torch.empty(0, dtype=dtype).set_(storage, *view)
    if kind is nn.Parameter:
        return nn.Parameter(tensor, requires_grad=learns)
    return tensor.requires_grad_(learns)


# Objects that were passed, before a study: whether it can have them; copies of them.


def freeze_objects(study: Study, ray_init: Mapping[str, Any] | None = None) -> Study:
    """Return the study with copies of the models that were passed as objects.

    Data are not copied, but read once, when they are needed. Whatever the user changes later, also
    in the objects themselves, is another study's.

    Args:
        study: The study.
        ray_init: Arguments of `ray.init` in place of those that the study asks for.

    Raises:
        InputError: A model cannot be copied, or the study does not run on this machine alone.
    """
    if not (passed := study.run.objects.passed):
        return study
    kinds = {name: kind for name, kind in object_names(study).items() if name in passed}
    if not kinds:
        return study
    _check_place(study, ray_init, kinds)
    copies = {
        name: Passed(passed[name].value)
        if kind == "data"
        else Frozen(kind, name, passed[name].value)
        for name, kind in kinds.items()
    }
    return with_passed(study, copies)


def with_passed(study: Study, passed: Mapping[str, Passed]) -> Study:
    """Return the study with other objects under the same names."""
    objects = Objects(passed, study.run.objects.functions)
    return replace(study, run=replace(study.run, objects=objects))


def _check_place(
    study: Study, ray_init: Mapping[str, Any] | None, names: Mapping[str, str]
) -> None:
    """Raise InputError if other machines take part, which do not have this process's objects."""
    address = (ray_init or {}).get("address", study.address)
    if study.uri is not None:
        where = f"--out {study.out}"
    elif address not in (None, "local"):
        where = f"--address {address}"
    elif ray.is_initialized() and len([node for node in ray.nodes() if node["Alive"]]) > 1:
        where = "a Ray cluster of several machines"
    else:
        return
    name, kind = next(iter(names.items()))
    raise InputError(
        f"objects can be passed only if everything runs and stays on this machine, but got {where} "
        f"and {describe_object(kind, name)}; put a function that makes the {kind} into a module "
        f'that every machine can import, and give its name: {kind}="my_module:my_function"'
    )


# Objects that were passed, in Ray's object store, from which the workers take them.


MAX_ATTACHED = 16
"""Objects that a worker keeps attached for its next trials."""


def share_objects(study: Study) -> Study:
    """Return the study with its objects in Ray's object store, until Ray ends.

    Each is there once, however many trials and workers have it: they read arrays where they lie. A
    study itself is copied to every worker, so it has references alone.

    Args:
        study: Of `freeze_objects`.
    """
    attach.cache_clear()  # another Ray may give its objects the references of an earlier one
    shared = {name: _share(name, passed) for name, passed in study.run.objects.passed.items()}
    return with_passed(study, shared) if shared else study


def _share(name: str, passed: Passed) -> "_Shared":
    buffers: list[Any] = []
    if isinstance(passed, Frozen):
        content, source = passed.content, source_of(passed)
    else:
        data = passed.once("data", lambda: load_user_data(name, passed))
        content, source = freeze(data, buffers), None
    # bytes alone would be copied by each worker
    reference = ray.put((np.frombuffer(content, dtype=np.uint8), buffers, source))
    shared = _Shared(reference, passed.is_module)
    shared.value, shared.notes = passed.value, passed.notes  # what this process has made of it
    return shared


class _Shared(Passed):
    """An object of Ray's object store; it reaches other processes as a reference.

    Args:
        reference: To what the store holds of it: bytes, buffers, and the source of its code (see
            `source_of`), None for data.
        is_module: Whether it is a module.
    """

    def __init__(self, reference: Any, is_module: bool):
        super().__init__(None)
        self._state = reference, is_module

    def fresh(self) -> Any:
        """Return a new copy of the module or function, or the data."""
        content, buffers, _ = ray.get(self._state[0])
        return thaw(memoryview(content), buffers)

    def __reduce__(self) -> Any:
        return attach, self._state

    @property
    def is_module(self) -> bool:
        """Whether it is a module, which has weights of its own."""
        return self._state[1]


@lru_cache(MAX_ATTACHED)
def attach(reference: Any, is_module: bool) -> Passed:
    """Return an object of Ray's store; for one process it is always the same.

    So data are read and unpacked once.
    """
    shared = _Shared(reference, is_module)
    *_, source = ray.get(reference)
    if source is None:
        shared.notes["data"] = _with_own_stamps(shared.fresh())
    else:
        shared.notes["source"] = source
    return shared


def _with_own_stamps(data: Data) -> Data:
    """Return data with copies of the stamps of files, which a process updates as it reads them."""
    splits = {
        name: split if split.stamps is None else replace(split, stamps=split.stamps.clone())
        for name, split in data.splits.items()
    }
    return replace(data, splits=splits)
