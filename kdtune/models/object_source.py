"""Source of objects that were passed: code that lives in no module that others can import.

A class or function of a script or a notebook has no file of its own: the script also holds the
study, and a notebook has no file at all. So what counts is the code of the class or function
itself, and of everything that it names: functions, classes, constants, values it encloses. Whatever
these take from modules of the user's own is followed there, see `models.user_source`.
"""

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdtune.config.objects import is_importable

CONSTANTS = (bool, int, float, complex, str, bytes, type(None), type(...))
CONTAINERS = (tuple, list, set, frozenset)


@dataclass(frozen=True)
class ObjectSource:
    """The code behind an object."""

    digest: str
    """64 hex digits that change with the code that is in no module of its own."""
    modules: frozenset[str]
    """Names of modules that the code needs."""

    @staticmethod
    def of(value: object) -> "ObjectSource":
        """Return the code behind a module, or a function or class that makes one."""
        search = _Search()
        text = "\0".join(search.texts(value))
        return ObjectSource(hashlib.sha256(text.encode()).hexdigest(), frozenset(search.modules))


class _Search:
    """A walk through everything that an object names."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self._seen: dict[int, object] = {}  # the objects, so that no other gets the same id

    def texts(self, value: Any) -> Iterator[str]:
        """Yield texts that change with a value, and note the modules that it needs."""
        if isinstance(value, CONSTANTS):
            yield repr(value)
            return
        if isinstance(value, np.ndarray | Tensor):
            yield from _content(value)
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, ModuleType):
            self._note(value.__name__)
        elif isinstance(value, (*CONTAINERS, Mapping)):
            yield from self._items(value)
            del self._seen[id(value)]  # equal tuples may be one object, or not
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                yield from self.texts(part)
        elif isinstance(value, nn.Module):
            for part in value.modules():  # its weights are hashed where they are used
                yield from self.texts(type(part))
        elif isinstance(value, MethodType):
            yield from self.texts(value.__func__)
            yield from self.texts(value.__self__)
        elif isinstance(value, FunctionType):
            yield from self._function(value)
        elif isinstance(value, type):
            yield from self._class(value)
        else:
            yield from self.texts(type(value))

    def _items(self, value: Any) -> Iterator[str]:
        is_ordered = isinstance(value, tuple | list)
        yield f"{type(value).__name__} {len(value)}"
        parts = value.items() if isinstance(value, Mapping) else value
        texts = ["\0".join(self.texts(part)) for part in parts]
        yield from texts if is_ordered else sorted(texts)

    def _note(self, module: str) -> bool:
        """Note a module; return True if its code is all there is to an object from it."""
        importable = is_importable(module)
        if importable:
            self.modules.add(module)
        return importable

    def _function(self, function: FunctionType) -> Iterator[str]:
        in_module = self._note(function.__module__ or "")
        yield f"function {function.__qualname__}"
        yield from self.texts(function.__defaults__)
        yield from self.texts(function.__kwdefaults__)
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # an empty cell
                yield from self.texts(cell.cell_contents)
        if in_module:
            return
        yield _code(function)
        for name in sorted(_names(function.__code__)):
            if name in function.__globals__:
                yield name
                yield from self.texts(function.__globals__[name])

    def _class(self, cls: type) -> Iterator[str]:
        yield f"class {cls.__module__}.{cls.__qualname__}"
        if self._note(cls.__module__):
            return
        for base in cls.__bases__:
            yield from self.texts(base)
        for name, value in sorted(vars(cls).items()):
            if name in ("__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__"):
                continue
            yield name
            if isinstance(value, property):
                value = (value.fget, value.fset)
            yield from self.texts(getattr(value, "__func__", value))


def _content(values: np.ndarray[Any, Any] | Tensor) -> Iterator[str]:
    """Yield type, shape and a hash of the values of an array or tensor."""
    yield f"{values.dtype} {list(values.shape)}"
    with suppress(TypeError, ValueError, RuntimeError):  # of objects, sparse, without storage
        if isinstance(values, Tensor):
            flat = values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        else:
            flat = np.ascontiguousarray(values)
        yield hashlib.sha256(flat.tobytes()).hexdigest()


def _code(function: FunctionType) -> str:
    """Return the source of a function without comments; else, and of a lambda, its bytecode."""
    if function.__name__ != "<lambda>":  # whose lines hold other code as well
        with suppress(OSError, TypeError, SyntaxError):
            return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(function))))
    return "\0".join(_bytecode(function.__code__))


def _bytecode(code: CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {code.co_freevars}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _bytecode(constant)
        else:
            yield repr(constant)


def _names(code: CodeType) -> set[str]:
    """Return the names that code uses besides its own variables, nested functions included."""
    nested = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return {*code.co_names}.union(*map(_names, nested))
