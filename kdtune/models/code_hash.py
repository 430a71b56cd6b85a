"""Hash of the code behind a model: of objects passed in Python, and of modules of the user."""

import ast
import functools
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec, resolve_name
from itertools import accumulate
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from kdtune.config.objects import Passed, is_importable_module
from kdtune.config.text import is_user_file

# Objects passed in Python, whose code is in no module that other processes can import.
#
# The file of a script or notebook cannot be hashed: a script also holds the study, and a notebook
# has no file. So the code of the function or class is hashed, with all that it refers to:
# functions, classes, constants and closure variables. Importable modules that it refers to are
# collected; `source_digest` hashes their files.

_CONSTANTS = (bool, int, float, complex, str, bytes, type(None), type(...))
_CONTAINERS = (tuple, list, set, frozenset)


@dataclass(frozen=True)
class ObjectSource:
    """The code behind an object: a hash, and the modules that it needs."""

    digest: str
    """SHA-256 of the code that is in no importable module, 64 hex digits."""
    modules: frozenset[str]
    """Importable modules that the code refers to, for `source_digest`."""

    @staticmethod
    def of(value: object) -> "ObjectSource":
        """Return the code behind a module, or a function or class that makes one."""
        walk = _CodeWalk()
        text = "\0".join(walk.texts(value))
        return ObjectSource(hashlib.sha256(text.encode()).hexdigest(), frozenset(walk.modules))


def source_of(passed: Passed) -> ObjectSource:
    """Return the code behind an object."""
    return passed.once("source", lambda: ObjectSource.of(passed.value))  # type: ignore[no-any-return]


class _CodeWalk:
    """Depth-first walk through the functions, classes and values that an object refers to."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self._seen: dict[int, object] = {}  # keeps them alive: a freed id is used again

    def texts(self, value: Any) -> Iterator[str]:
        """Yield texts that change with the code and constants of a value; collect its modules."""
        if isinstance(value, _CONSTANTS):
            yield repr(value)
            return
        if isinstance(value, np.ndarray | Tensor):
            yield from _array_content(value)
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, ModuleType):
            self._add_module(value.__name__)
        elif isinstance(value, (*_CONTAINERS, Mapping)):
            yield from self._items(value)
            # hash it each time: Python may or may not make one object of equal tuples
            del self._seen[id(value)]
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

    def _add_module(self, module: str) -> bool:
        """Collect a module if other processes can import it; return whether they can."""
        importable = is_importable_module(module)
        if importable:
            self.modules.add(module)
        return importable

    def _function(self, function: FunctionType) -> Iterator[str]:
        in_module = self._add_module(function.__module__ or "")
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
        if self._add_module(cls.__module__):
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


def _array_content(values: np.ndarray[Any, Any] | Tensor) -> Iterator[str]:
    """Yield type, shape and a hash of the values of an array or tensor."""
    yield f"{values.dtype} {list(values.shape)}"
    # arrays of objects, sparse tensors and tensors without storage have no bytes to hash
    with suppress(TypeError, ValueError, RuntimeError):
        if isinstance(values, Tensor):
            values = values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        yield hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _code(function: FunctionType) -> str:
    """Return the source of a function without comments; the bytecode of a lambda."""
    if function.__name__ != "<lambda>":  # the lines of a lambda also hold other code
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
    """Return the global names and attributes that code uses, nested functions included."""
    nested = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return {*code.co_names}.union(*map(_names, nested))


# Modules of the user: that of a factory, and all that it needs.
#
# A network is more than its layers and weights: an activation in an imported file changes the
# logits as well. Installed packages are left out; the versions of those that matter are parts of
# the cache's keys.

_contents: WeakKeyDictionary[ModuleType, tuple[object, bytes]] = WeakKeyDictionary()
"""Spec of each module, and the bytes of its file when this process first read it."""


def source_digest(names: Iterable[str], net: nn.Module) -> str:
    """Return 64 hex digits that change with the source of the user's modules behind a network.

    These are the modules of its factory, the modules of the network's classes, and whatever modules
    of the user these import, directly or indirectly, also inside of functions. Modules that
    are imported by a computed name, and have no class in the network, are not seen. The main
    program has no part in it: other processes do not import it.

    Args:
        names: of the modules of the factory.
        net: the network.

    Returns:
        The digest; "" for a factory of kdtune or of an installed package.
    """
    classes = {type(part).__module__ for part in net.modules()}
    waiting = [*names, *classes - {"__main__"}]
    contents: dict[str, bytes] = {}
    while waiting:
        name = waiting.pop()
        file = None if name in contents else _file(name)
        if file is None or not is_user_file(file):
            continue
        contents[name] = _content(name, file)
        waiting += _imported(name, contents[name])
    if not contents:
        return ""
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _file(name: str) -> str | None:
    """Return the file of a module, loaded or not; None if there is none."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None)
    with suppress(Exception):  # the name is not a module's, or its package cannot be imported
        spec = find_spec(name)
        return spec.origin if spec is not None and spec.has_location else None
    return None


def _content(name: str, file: str) -> bytes:
    """Return the bytes of a module's file, as they were when this process first read them.

    A file may be edited while a long-lived process still runs its old code, so the bytes are read
    once for each loading of the module.
    """
    module = sys.modules.get(name)
    if module is not None and module in _contents and _contents[module][0] is module.__spec__:
        return _contents[module][1]  # a reloaded module would have a new spec
    content = b""
    with suppress(OSError):  # in an archive
        content = Path(file).read_bytes()
    if module is not None:
        _contents[module] = (module.__spec__, content)
    return content


def _imported(name: str, content: bytes) -> Iterator[str]:
    """Yield the names of the modules that a module's source imports, and of their packages."""
    with suppress(SyntaxError, ValueError):  # a compiled module
        package = getattr(sys.modules.get(name), "__package__", None) or name.rpartition(".")[0]
        for node in ast.walk(ast.parse(content)):
            names = list[str]()
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                with suppress(ImportError):  # beyond the top of the package
                    base = resolve_name("." * node.level + (node.module or ""), package)
                    names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
            for imported in names:
                parts = imported.split(".")
                if _may_be_user_module(parts[0]):  # importing a.b.c also runs a and a.b
                    yield from accumulate(parts, "{}.{}".format)


def _may_be_user_module(top: str) -> bool:
    """Return False for a package that is installed or of Python, whose modules are not searched."""
    file = _file(top)
    return is_user_file(file) if file else top not in sys.stdlib_module_names
