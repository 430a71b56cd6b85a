"""Source of a factory: its module and all modules of the user's own that it needs.

A network is more than its layers and weights: an activation in an imported file changes the logits
as well. Installed packages are left out; the versions of those that matter are parts of the cache's
keys.
"""

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from weakref import WeakKeyDictionary

from torch import nn

from kdtune.config.user_code import is_users_own

_read: WeakKeyDictionary[ModuleType, tuple[object, bytes]] = WeakKeyDictionary()
"""Content of a module's file when this process first saw the module, and the module's spec."""


def source_digest(module: ModuleType, net: nn.Module) -> str:
    """Return 64 hex digits that change with the source of the user's modules behind a network.

    These are the module of the factory, the modules of the network's classes, and whatever modules
    of the user's own these import, directly or indirectly, also inside of functions. Modules that
    are imported by a computed name, and have no class in the network, are not seen.

    Returns:
        The digest; "" for a factory of kdtune or of an installed package.
    """
    return digest_of_modules([module.__name__], net)


def digest_of_modules(names: Iterable[str], net: nn.Module) -> str:
    """Return the digest of the user's modules of these names and behind a network.

    The main program has no part in it: other processes do not import it.
    """
    classes = {type(part).__module__ for part in net.modules()}
    waiting = [*names, *classes - {"__main__"}]
    found: dict[str, bytes] = {}
    while waiting:
        name = waiting.pop()
        file = None if name in found else _file(name)
        if file is None or not is_users_own(file):
            continue
        found[name] = _content(name, file)
        waiting += _imported(name, found[name])
    if not found:
        return ""
    digest = hashlib.sha256()
    for name, content in sorted(found.items()):
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
    """Return the bytes of a module's file, as they were when the module was loaded.

    A file may be edited while a long-lived process still runs its old code, so the bytes are read
    once for each loading of the module.
    """
    module = sys.modules.get(name)
    known = _read.get(module) if module is not None else None
    if module is not None and known is not None and known[0] is module.__spec__:
        return known[1]  # a reloaded module would have a new spec
    content = b""
    with suppress(OSError):  # in an archive
        content = Path(file).read_bytes()
    if module is not None:
        _read[module] = (module.__spec__, content)
    return content


def _imported(name: str, content: bytes) -> set[str]:
    """Return the names of modules that a module imports, as its source and its namespace say."""
    module, names = sys.modules.get(name), set[str]()
    for value in list(vars(module).values()) if module is not None else []:
        if isinstance(value, ModuleType):
            # a package holds those of its modules that anyone has imported so far
            names |= set() if value.__name__.startswith(f"{name}.") else {value.__name__}
        elif isinstance(value, type | FunctionType):
            names.add(value.__module__)
    with suppress(SyntaxError, ValueError):  # a compiled module
        for node in ast.walk(ast.parse(content)):
            names |= set(_named(node, name, module))
    with_parents = set[str]()
    for one in filter(None, names):
        parts = one.split(".")  # importing a.b.c also runs a and a.b
        if _may_be_users_own(parts[0]):
            with_parents |= {".".join(parts[: end + 1]) for end in range(len(parts))}
    return with_parents


def _may_be_users_own(top: str) -> bool:
    """Return False for the packages of others, so that their modules are not looked for."""
    file = _file(top)
    return is_users_own(file) if file else top not in sys.stdlib_module_names


def _named(node: ast.AST, name: str, module: ModuleType | None) -> Iterator[str]:
    """Yield the names of the modules that an import statement in module `name` may load."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = getattr(module, "__package__", None) or name.rpartition(".")[0]
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join(filter(None, (*parents, base)))
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)
