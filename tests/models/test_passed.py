"""Models of passed objects: they equal those of factories, and the objects stay as they are."""

import functools
import linecache
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import factories
import pytest
import torch
from torch import nn

from kdtune.config.objects import Passed
from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.models.checks import probe
from kdtune.models.classifier import Classifier
from kdtune.models.registry import ObjectSource, build, build_model

VIEWS = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
Program = Callable[[str], Any]


def student(value: Any, seed: int = 0, **values: Any) -> Classifier:
    return build_model(Run(student=value, **values), "student", 10, seed=seed)


def state(net: nn.Module) -> dict[str, Any]:
    """Weights, modes and settings of a module."""
    own = {f"{name} mode": module.training for name, module in net.named_modules()}
    own |= {f"{name} learns": p.requires_grad for name, p in net.named_parameters()}
    return own | {name: value.tolist() for name, value in net.state_dict().items()}


def test_a_function_equals_the_factory_under_each_seed() -> None:
    for seed in range(2):
        by_name = build("factories:dropout_student", "none", 10, seed=seed)
        own = student(lambda k: factories.dropout_student(k), seed)
        by_name.set_mode(False)
        own.set_mode(False)
        assert torch.equal(own(VIEWS), by_name(VIEWS))
        assert own.preprocessing == by_name.preprocessing and own.name == "object:lambda"
        assert own.fingerprint() != by_name.fingerprint()  # which includes the name


def test_a_module_is_copied_for_each_model_and_never_changed() -> None:
    net = factories.dropout_student(10)
    net[0].weight.requires_grad_(False)
    net[1].eval()
    before = state(net)
    first, second = student(net, seed=1), student(net, seed=2)
    assert state(first.net) == before and first.fingerprint() == second.fingerprint()
    probe(first, VIEWS, 10, whole=True)
    first.freeze().double()
    assert state(net) == before == state(second.net)
    assert student(net).fingerprint() == second.fingerprint()


def test_weights_may_replace_those_of_a_module(tmp_path: Path) -> None:
    net, other = factories.tiny_student(10), factories.tiny_student(10)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    own = student(net, student_weights=str(tmp_path / "other.pt"))
    assert torch.equal(own.head.weight, other.get_submodule(own.head_name).weight)
    assert torch.equal(student(net, student_weights="none").head.weight, net[-1].weight)


def test_wrappers_are_taken_off() -> None:
    net = factories.tiny_student(10)
    for wrapped in (nn.DataParallel(net), torch.compile(net)):
        own = student(wrapped)
        assert own.net.state_dict().keys() == net.state_dict().keys()
        assert own.is_normalized


def test_a_class_and_its_arguments() -> None:
    class Net(nn.Sequential):
        def __init__(self, width: int, num_classes: int):
            super().__init__(nn.Flatten(), nn.Linear(784, width), nn.Linear(width, num_classes))

    own = student(functools.partial(Net, 3))
    assert own.name == "object:Net" and own.head.weight.shape == (10, 3)
    with pytest.raises(InputError, match=r"object:Net must require nothing but .* width"):
        student(Net)


class Tuples(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.head(x.flatten(1)), x


def narrow(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes - 1))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Tuples(), "object:Tuples must return the logits .*, but returns a tuple; wrap it"),
        (narrow(10), r"must return logits \[B, 10\].*got \[2, 9\]\. Pass a module, or a function"),
        (lambda: 5, "object:lambda must return a torch.nn.Module, but got int"),
        (lambda k: 1 / 0, "object:lambda, called as lambda.10., failed: ZeroDivisionError"),
        (nn.Flatten(), "object:Flatten must have a Linear or Conv2d layer"),
    ],
)
def test_what_cannot_be_a_model_is_refused_in_one_sentence(value: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        probe(student(value), VIEWS, 10, whole=True)
    assert "\n" not in str(refused.value)


def test_models_of_torchvision_are_given_by_name() -> None:
    from torchvision.models import resnet18

    with pytest.raises(InputError, match="models of torchvision are given by name; use resnet18"):
        student(resnet18)


def test_an_object_that_is_not_passed_again_is_named() -> None:
    with pytest.raises(InputError, match=r"pass them again: kdtune.Run\(student=make\)"):
        student("object:make")


# -- code of a script --------------------------------------------------------------------------

SCRIPT = """
    import torch
    from torch import nn
    WIDTH = 4
    OTHER = 1

    class Block(nn.Module):
        scale = 2
        def forward(self, x):
            return act(x) * self.scale

    def act(x):
        return x.relu()  # a comment

    def make(classes):
        return nn.Sequential(nn.Linear(2, WIDTH), Block(), nn.Linear(WIDTH, classes))

    def outer(slope):
        return lambda classes: nn.Sequential(nn.Linear(2, classes), nn.LeakyReLU(slope))

    early = outer(0.1)
"""


def program(text: str, number: int) -> ModuleType:
    """Run a text as a notebook's cell: no module, no file, but its lines can be read."""
    file = f"<cell {number}>"
    text = textwrap.dedent(text)
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    module = ModuleType("__main__")
    exec(compile(text, file, "exec"), module.__dict__)
    return module


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("x.relu()", "x.sigmoid()", {"make"}),
        ("scale = 2", "scale = 3", {"make"}),
        ("WIDTH = 4", "WIDTH = 5", {"make"}),
        ("outer(0.1)", "outer(0.2)", {"early"}),
        ("nn.LeakyReLU(slope)", "nn.ELU(slope)", {"early"}),
        ("OTHER = 1", "OTHER = 2", set()),
        ("# a comment", "# another", set()),
        ("import torch\n", "import torch\n\n\n", set()),
    ],
)
def test_code_of_a_script_counts_as_far_as_the_object_needs_it(
    old: str, new: str, changes: set[str]
) -> None:
    assert old in textwrap.dedent(SCRIPT)
    before, after = program(SCRIPT, 0), program(textwrap.dedent(SCRIPT).replace(old, new), 1)
    for name in ("make", "early"):
        pair = [ObjectSource.of(getattr(module, name)) for module in (before, after)]
        assert (pair[0].digest != pair[1].digest) == (name in changes), name
    net = [ObjectSource.of(module.make(3)) for module in (before, after)]
    block = {"x.relu()", "scale = 2"}
    assert (net[0].digest != net[1].digest) == (old in block)


def test_code_in_modules_is_left_to_their_files() -> None:
    cell = "import factories\ndef make(classes):\n    return factories.tiny_student(classes)"
    assert ObjectSource.of(program(cell, 0).make).modules == {"factories"}


def test_tensors_and_cycles_in_a_closure() -> None:
    def make(values: Any) -> Callable[[int], nn.Module]:
        return lambda k: nn.Linear(len(values), k)

    loop: list[Any] = [torch.ones(2)]
    loop.append(loop)
    ones, again, twos = (ObjectSource.of(make(v)).digest for v in ([torch.ones(2)],) * 2 + (loop,))
    assert ones == again != twos
    digests = {ObjectSource.of(make(torch.full((2,), v))).digest for v in (1.0, 2.0)}
    assert len(digests) == 2
    assert Passed(make(loop)).is_module is False
