"""Factories of every signature get the number of classes once, or not at all, or are refused."""

import sys
from functools import partial

import pytest
import torch
from torch import nn

from kdtune.config.text import InputError
from kdtune.models.checks import probe
from kdtune.models.registry import CLASS_KEYWORDS, build, call_factory


def net_of(outputs, width=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(width, outputs))


class Net(nn.Module):
    def __init__(self, width=3, n_classes=1000):
        super().__init__()
        self.head = nn.Linear(width, n_classes)


class FixedNet(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(3, 10))


def any_keyword(width=3, **options):
    return net_of(options["num_classes"], width)


def optional_other(width=3):
    return net_of(10, width)


def wants_more(blocks, widths, num_classes=10, *, norm):
    return net_of(num_classes)


def outputs_of(factory):
    *_, head = call_factory(factory, "mine:net", 7).modules()
    assert head.in_features == 3
    return head.out_features


@pytest.mark.parametrize("word", CLASS_KEYWORDS)
def test_a_parameter_of_a_usual_name_is_the_number_of_classes(word):
    assert outputs_of(eval(f"lambda width=3, {word}=10: net_of({word}, width)", globals())) == 7
    assert outputs_of(eval(f"lambda *, {word}: net_of({word})", globals())) == 7


@pytest.mark.parametrize(
    ("factory", "outputs"),
    [
        (lambda k: net_of(k), 7),
        (lambda k, width=3, /: net_of(k, width), 7),
        (lambda *values: net_of(*values), 7),
        (lambda *values, **options: net_of(*values, **options), 7),
        (any_keyword, 7),
        (partial(any_keyword, num_classes=100), 7),
        (Net, 7),
        (FixedNet, 10),
        (optional_other, 10),
        (lambda: net_of(10), 10),
    ],
)
def test_the_number_of_classes_is_given_once_or_not_at_all(factory, outputs):
    assert outputs_of(factory) == outputs


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("text", "mine:net must be a function or class .* but is a str. Write a function"),
        (FixedNet(), "mine:net must be a function or class .* but is a FixedNet. Write a function"),
        (wants_more, "but also requires blocks, widths, norm. Write a function `def net"),
        (lambda k, width: net_of(k), "but also requires width. Write"),
        (lambda *, outputs: net_of(outputs), "but also requires outputs. Write"),
        (lambda k: [k], "mine:net must return a torch.nn.Module, but got list"),
        (
            lambda: 1 / 0,
            r"mine:net, called as net\(\), failed: ZeroDivisionError: division by zero",
        ),
        (lambda classes: 1 / 0, r"called as net\(classes=7\), failed: ZeroDivisionError"),
    ],
)
def test_unfit_factories_are_refused_in_one_sentence(factory, words):
    with pytest.raises(InputError, match=words) as caught:
        call_factory(factory, "mine:net", 7)
    assert "\n" not in str(caught.value)


def test_compiled_functions_are_asked_as_well():
    with pytest.raises(InputError, match=r"os:getcwd must return a torch\.nn.Module, but got str"):
        build("os:getcwd", "none", 7, seed=1)


def test_a_class_and_fixed_outputs_go_through_build_and_probe(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(3 * 2 * 2, 10))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    views = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    probe(build("mine:Net", "none", 10, seed=1), views, 10, whole=True)
    with pytest.raises(InputError, match=r"logits \[B, 7\].*got \[2, 10\].*parameter num_classes"):
        probe(build("mine:Net", "none", 7, seed=1), views, 7, whole=True)
