"""Teachers and students by name, and the source that a factory depends on."""

import ast
import functools
import hashlib
import inspect
import random
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.util import find_spec, resolve_name
from itertools import accumulate
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from kdtune.config.fields import Role, is_object
from kdtune.config.objects import Passed, is_importable_module
from kdtune.config.run import Run
from kdtune.config.text import InputError, first_line, import_named, is_users_own, user_code
from kdtune.models.cifar import CIFAR_RESNETS, cifar_resnet, translate
from kdtune.models.classifier import (
    Classifier,
    of_module,
    published_by_timm,
    published_by_torchvision,
)
from kdtune.models.weights import (
    StateDict,
    align,
    fill,
    import_timm,
    load_weights,
    read_finished,
    torchvision_names,
)

# Calls of a user's factory: a function or class that makes a torch module.

CLASS_KEYWORDS = ("num_classes", "n_classes", "classes", "nb_classes", "num_labels")
"""Names of parameters that are the number of classes."""


def call_factory(factory: object, name: str, classes: int) -> nn.Module:
    """Return the module that a factory makes.

    The number of classes is given to the parameter with a name of `CLASS_KEYWORDS`, or else to the
    only required one, or to `*args`, or as `num_classes` to `**kwargs`. Other factories are
    called without it; `probe` checks that their logits fit.

    Args:
        factory: a function or a class.
        name: as the user gives it, module:factory.
        classes: K of the data.

    Raises:
        InputError: the factory is none, needs more, fails, or does not make a module.
    """
    if isinstance(factory, nn.Module) or not callable(factory):
        raise InputError(
            f"{name} must be a function or class that makes a torch.nn.Module, but is a "
            f"{type(factory).__name__}. Write a function of the number of classes that returns it."
        )
    values, named = _arguments(factory, name, classes)
    with user_code(f"the factory {name} failed"):
        net = factory(*values, **named)
    if not isinstance(net, nn.Module):
        got = f"the class {net.__name__}" if isinstance(net, type) else type(net).__name__
        raise InputError(f"{name} must return a torch.nn.Module, but got {got}")
    return net


def _arguments(
    factory: Callable[..., Any], name: str, classes: int
) -> tuple[list[int], dict[str, int]]:
    """Return the values and keywords that a factory is called with, see `call_factory`.

    Raises InputError if the factory requires more than the number of classes.
    """
    try:
        signature = inspect.signature(factory)
    except (ValueError, TypeError):  # of a compiled function
        signature = inspect.signature(lambda classes: None)
    parameters = signature.parameters.values()
    by_name = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    word = next((word for word in CLASS_KEYWORDS if word in by_name), None)
    values, named = list[int](), dict[str, int]()
    if word is not None:
        named = {word: classes}
    elif any(p.kind < p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        values = [classes]
    elif any(p.kind is p.VAR_KEYWORD for p in parameters):
        named = {"num_classes": classes}
    try:
        signature.bind(*values, **named)
    except TypeError as error:
        raise InputError(
            f"{name} must require nothing but the number of classes ({error}). Write a function "
            f"`def net(num_classes)` that calls it."
        ) from None
    return values, named


_trained: WeakValueDictionary[int, nn.Module] = WeakValueDictionary()
"""Modules that factories have made to be trained and that are still in use, by id."""


def check_new(net: nn.Module, name: str) -> None:
    """Raise InputError if a module that is to be trained has been made for another run already."""
    if _trained.get(id(net)) is net:
        raise InputError(
            f"{name} must make a new module in each call, but has returned the same module twice, "
            f"so runs would share its weights; construct it inside the function, or return "
            f"copy.deepcopy of it"
        )
    _trained[id(net)] = net


# Source of objects that were passed: code that lives in no module that others can import.
#
# A class or function of a script or a notebook has no file of its own: the script also holds the
# study, and a notebook has no file at all. So what counts is the code of the class or function
# itself, and of everything that it names: functions, classes, constants, values it encloses.
# Whatever these take from modules of the user's own is followed there, see `source_digest`.

_CONSTANTS = (bool, int, float, complex, str, bytes, type(None), type(...))
_CONTAINERS = (tuple, list, set, frozenset)


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
        """Yield texts that change with the code and constants of a value; note its modules."""
        if isinstance(value, _CONSTANTS):
            yield repr(value)
            return
        if isinstance(value, np.ndarray | Tensor):
            yield from _object_content(value)
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, ModuleType):
            self._note(value.__name__)
        elif isinstance(value, (*_CONTAINERS, Mapping)):
            yield from self._items(value)
            del self._seen[id(value)]  # count each: equal tuples may share an object, or not
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
        """Note a module; return True if other processes can import it."""
        importable = is_importable_module(module)
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


def _object_content(values: np.ndarray[Any, Any] | Tensor) -> Iterator[str]:
    """Yield type, shape and a hash of the values of an array or tensor."""
    yield f"{values.dtype} {list(values.shape)}"
    with suppress(TypeError, ValueError, RuntimeError):  # of objects, sparse, without storage
        if isinstance(values, Tensor):
            values = values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        yield hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _code(function: FunctionType) -> str:
    """Return the source of a function without comments; the bytecode of a lambda."""
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


# Source of a factory: its module and all modules of the user's own that it needs.
#
# A network is more than its layers and weights: an activation in an imported file changes the
# logits as well. Installed packages are left out; the versions of those that matter are parts of
# the cache's keys.

_read: WeakKeyDictionary[ModuleType, tuple[object, bytes]] = WeakKeyDictionary()
"""Content of a module's file when this process first saw the module, and the module's spec."""


def source_digest(names: Iterable[str], net: nn.Module) -> str:
    """Return 64 hex digits that change with the source of the user's modules behind a network.

    These are the modules of its factory, the modules of the network's classes, and whatever modules
    of the user's own these import, directly or indirectly, also inside of functions. Modules that
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
        if file is None or not is_users_own(file):
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
    if module is not None and module in _read and _read[module][0] is module.__spec__:
        return _read[module][1]  # a reloaded module would have a new spec
    content = b""
    with suppress(OSError):  # in an archive
        content = Path(file).read_bytes()
    if module is not None:
        _read[module] = (module.__spec__, content)
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
                if _may_be_users_own(parts[0]):  # importing a.b.c also runs a and a.b
                    yield from accumulate(parts, "{}.{}".format)


def _may_be_users_own(top: str) -> bool:
    """Return False for the packages of others, so that their modules are not looked for."""
    file = _file(top)
    return is_users_own(file) if file else top not in sys.stdlib_module_names


# Models from objects that were passed: a module, or a function that makes one.


def _construct_passed(name: str, passed: Passed, classes: int) -> Classifier:
    """Return the model of an object. The object itself stays as it is.

    A module begins with the weights, modes and settings of its parameters that it was passed with,
    each time. A function is called for each model.
    """
    value = passed.fresh()
    net = value if isinstance(value, nn.Module) else call_factory(value, name, classes)
    net = _unwrapped(net)
    source = source_of(passed)
    text = source.digest + source_digest(source.modules, net)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Classifier(name, net, of_module(net, name), digest)


def _unwrapped(net: nn.Module) -> nn.Module:
    """Return the module inside the wrappers of torch.compile and DataParallel."""
    while True:
        if isinstance(inner := getattr(net, "_orig_mod", None), nn.Module):
            net = inner
        elif isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
            net = net.module
        else:
            return net


def source_of(passed: Passed) -> ObjectSource:
    """Return the code behind an object."""
    return passed.once("source", lambda: ObjectSource.of(passed.value))  # type: ignore[no-any-return]


# Teachers and students by name, with their preprocessing.
#
# A name is one of torchvision (`resnet50`), of kdtune (`cifar_resnet20`), of timm (`timm/NAME`) or
# `module:factory`, a function or class of the user's that takes the number of classes, if anything,
# and makes a torch module; or that of a passed object, such a factory or a module. The
# preprocessing of the first three is the published one; for the others see `of_module`.

MAX_SUGGESTIONS = 3
PRETRAINING = 1_000
"""Classes of ImageNet: weights for as many or more are there to be trained on other data."""
PREPROCESSING = ("mean", "std", "size", "interpolation")
"""Fields of a run, each for teacher and student, that replace those of a model."""


def build(
    name: str,
    weights: str,
    classes: int,
    *,
    seed: int,
    replace_head: bool = True,
    passed: Passed | None = None,
) -> Classifier:
    """Return the model of this name with these weights; what is random follows from the seed.

    Args:
        name: torchvision's or kdtune's name, timm/NAME, module:factory or that of an object.
        weights: "default", "none" or a file, see `load_weights`.
        classes: K of the data.
        seed: of the initial weights.
        replace_head: whether a head for another number of classes may be replaced by a new one.
        passed: the object, whose own weights are the "default".

    Raises:
        InputError: the name is unknown, the weights cannot be read or do not fit, or the head has
            the wrong size.
    """
    with _seeded(seed):
        model = _construct_passed(name, passed, classes) if passed else _construct(name, classes)
        if weights != "none" and (passed is None or weights != "default"):
            noun = f"{name}'s weights {weights}"
            state = _load_state(name, weights)
            model.has_new_head = fill(model.net, state, model.head_name, noun, replace_head)
    return model


def _load_state(name: str, weights: str) -> StateDict:
    state = load_weights(name, weights)
    return translate(state) if name in CIFAR_RESNETS else state


def describe_new_head(model: Classifier, weights: str, classes: int) -> str:
    """Return that a model gets a random head, since a file of weights is for other classes; or "".

    Nothing is said of weights for `PRETRAINING` classes or more, whose head nobody expects to keep.

    Args:
        model: With any weights.
        weights: "default", "none" or a file.
        classes: K of the data.
    """
    if weights in ("default", "none"):
        return ""
    state = align(_load_state(model.name, weights), model.net.state_dict())
    head = state.get(f"{model.head_name}.weight")
    if head is None or len(head) == classes or len(head) >= PRETRAINING:
        return ""
    return (
        f"the weights {weights} of {model.name} are for {len(head)} classes, but the data has "
        f"{classes}, so its last layer begins with random weights; if that is not intended, give "
        f"weights for {classes} classes"
    )


def build_model(
    run: Run,
    role: Role,
    classes: int,
    *,
    seed: int,
    replace_head: bool = True,
    weights: str | None = None,
) -> Classifier:
    """Return the teacher (no ensemble) or the student of a run; see `build`.

    Args:
        run: names the model, its weights and what differs from the model's own preprocessing, or
            from that which the weights were fine-tuned with.
        role: "teacher" or "student".
        classes: K of the data.
        seed: of the initial weights.
        replace_head: see `build`.
        weights: instead of those that the run names. With "none" the preprocessing is still that
            of the weights that the run names.
    """
    name, named = getattr(run, role), run.weights_of(role)
    weights = named if weights is None else weights
    file = named if weights == "none" else weights
    finished = read_finished(Path(file).expanduser())
    passed = run.objects.get(role, name) if is_object(name) else None
    try:
        model = build(name, weights, classes, seed=seed, replace_head=replace_head, passed=passed)
    except InputError:
        if finished is None or finished.model == name:
            raise
        raise InputError(
            f"{file} holds the teacher {finished.model}, but --{role} is {name}; give --{role} "
            f"{finished.model}"
        ) from None
    if role == "student" or run.teacher_epochs != 0:  # a teacher that stays as it is may be shared
        check_new(model.net, name)
    if finished is not None:
        model.preprocessing, model.is_normalized = finished.preprocessing, True
    elif name in torchvision_names():  # a fine-tuned model keeps that of its initial weights
        model.preprocessing = published_by_torchvision(name, named)
    fields = {field: getattr(run, f"{role}_{field}") for field in PREPROCESSING}
    changed = {field: value for field, value in fields.items() if value is not None}
    try:
        model.preprocessing = replace(model.preprocessing, **changed)
    except InputError as error:  # which begins with the name of the field
        raise InputError(f"{role}_{error}") from None
    model.is_normalized |= "mean" in changed or "std" in changed
    return model


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch, numpy and Python for a factory; restore their states at the end.

    Gradients are enabled, and the default type of new tensors is restored at the end, since a
    factory or its module may change them, as a script for inference does.
    """
    # the global generators, since a user's factory draws from them
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    dtype = torch.get_default_dtype()
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
            torch.set_default_dtype(dtype)


def _construct(name: str, classes: int) -> Classifier:
    if name in CIFAR_RESNETS:
        net = cifar_resnet(name, classes)
        return Classifier(name, net, net.preprocessing)  # type: ignore[arg-type]
    if name in torchvision_names():
        net = torchvision.models.get_model(name, weights=None, num_classes=classes)
        return Classifier(name, net, published_by_torchvision(name, "default"))
    if name.startswith("timm/"):
        return _construct_timm(name, classes)
    if ":" in name:
        return _construct_own(name, classes)
    raise InputError(
        f"{name!r} is not a classifier of torchvision or kdtune; other models are named timm/NAME "
        f"or module:factory, and a file of weights is given as --teacher-weights or "
        f"--student-weights{_nearest(name)}"
    )


def _construct_timm(name: str, classes: int) -> Classifier:
    timm = import_timm(name)
    try:
        net = timm.create_model(name.removeprefix("timm/"), pretrained=False, num_classes=classes)
    except RuntimeError as error:
        near = _nearest(name) or f" ({first_line(error)})"
        raise InputError(f"timm has no model {name.removeprefix('timm/')}{near}") from None
    return Classifier(name, net, published_by_timm(net.pretrained_cfg))


def _construct_own(name: str, classes: int) -> Classifier:
    """Return the model that a user's factory makes."""
    net = call_factory(import_named("the model", name), name, classes)
    source = source_digest([name.partition(":")[0]], net)
    return Classifier(name, net, of_module(net, name), source)


def _nearest(name: str) -> str:
    """Return "; did you mean ...?" with the models of the most similar names, or "" if none is.

    Names that contain the given one come first. Of timm's, those with weights are suggested.
    """
    names = [*CIFAR_RESNETS, *sorted(torchvision_names())]
    with suppress(InputError):  # timm is not installed
        published = import_timm(name).list_models(pretrained=True)
        names += [f"timm/{tagged.partition('.')[0]}" for tagged in published]
    # of the library that the name begins with, if any
    names.sort(
        key=lambda other: (other.startswith("timm/") != name.startswith("timm/"), len(other))
    )
    wanted = name.removeprefix("timm/").lower().replace("-", "_").partition(".")[0]
    containing = [other for other in names if wanted in other]
    similar = get_close_matches(name, names, n=MAX_SUGGESTIONS)
    best = list(dict.fromkeys([*containing, *similar]))[:MAX_SUGGESTIONS]
    return f"; did you mean {', '.join(best)}?" if best else ""
