"""Models that cannot work are refused in one sentence before any work; see hostile_models.py."""

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.models.checks import check_learns, check_single, probe
from kdtune.models.classifier import Classifier, Preprocessing, of_module
from kdtune.models.registry import build, build_model

VIEWS = torch.randint(0, 256, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()


def tried(name: str) -> None:
    """Try a model of hostile_models.py as a study tries its students."""
    model = build(f"hostile_models:{name}", "none", 3, seed=0)
    probe(model, VIEWS, 3, whole=True)
    check_learns(model, VIEWS, whole=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lazy", r"layers of known sizes, but 1\.weight is of a lazy layer"),
        ("on_meta", r"made on the CPU, but 0\.weight is on the device meta"),
        ("printless", "layers and weights of .* cannot be read: RuntimeError: nothing to print"),
        ("stateful", "a state dict of tensors alone, but _extra_state is a dict"),
        ("no_train", r"in eval mode after train\(False\), but it stays in train mode"),
        ("pairs", "one tensor, but returns a tuple"),
        ("pairs_in_training", "one tensor, but returns a tuple"),
        ("one_logit_in_training", r"logits \[B, 3\].* but got \[2, 1\] in train mode"),
        ("not_a_number", "must return finite logits, .* before any training"),
        ("nan_in_training", "must return finite logits, .* in train mode"),
        ("whole_numbers", r"floating-point numbers, but returns one of int64"),
        ("complex_numbers", r"floating-point numbers, but returns one of complex64"),
        ("frozen", "must have parameters that learn, but requires_grad is False for all"),
        ("detached", "cannot learn: its logits have no gradient"),
        ("exits", r"exits\(classes=3\), failed: it calls sys\.exit\(0\) .*line \d+\); leave"),
        ("exits_in_forward", r"ended: it calls sys\.exit\(0\)"),
        ("raises_odd", "failed: Odd: odd"),
    ],
)
def test_a_model_that_cannot_work_is_refused(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        tried(name)
    assert f"hostile_models:{name}" in str(caught.value) and "\n" not in str(caught.value)


def test_logits_that_do_not_depend_on_the_input_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="logits of hostile_models:blind do not depend on its inp"):
        tried("blind")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = build("factories:tiny_student", "none", 3, seed=0)
        nn.init.zeros_(model.head.weight)  # a usual way to begin; its own gradient is not 0
        check_learns(model, VIEWS, whole=True)


def test_a_factory_that_returns_the_same_module_twice_is_refused() -> None:
    shared = {"student": "hostile_models:shared", "teacher": "hostile_models:shared"}
    run = Run(**shared, student_weights="none", teacher_weights="none", teacher_epochs=0)
    first = build_model(run, "student", 3, seed=0)
    with pytest.raises(InputError, match="a new module in each call, but has returned the same"):
        build_model(run, "student", 3, seed=0)
    assert isinstance(first, Classifier)
    build_model(run, "teacher", 3, seed=0)  # which is taken as it is
    build_model(run, "teacher", 3, seed=0)
    with pytest.raises(InputError, match="a new module in each call"):
        build_model(replace(run, teacher_epochs=2), "teacher", 3, seed=0)


def test_settings_of_torch_that_a_factory_changes_are_restored() -> None:
    build("hostile_models:turns_gradients_off", "none", 3, seed=0)
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


def test_an_input_that_is_changed_in_place_is_refused() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.mul_(0.5))

    model = Classifier("mine:net", Halves(), None)
    with pytest.raises(InputError, match="must leave its input as it is"):
        probe(model, torch.ones(2, 4), 3, whole=True)


def test_a_last_batch_of_one_is_refused_where_it_cannot_be_trained() -> None:
    own = build("hostile_models:with_running_statistics", "none", 3, seed=0)
    check_single(own, VIEWS, 41, [16, 41], "--batch-size")
    small = build("factories:tiny_student", "none", 3, seed=0)
    check_single(small, VIEWS, 41, [20], "--batch-size")
    for size in (20, 1):
        with pytest.raises(InputError, match=rf"one example .* --batch-size {size} makes such a"):
            check_single(own, VIEWS, 41, [16, size], "--batch-size")


class Cropping:
    """What only looks like a transform of torchvision."""

    crop_size, resize_size = 3, None


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        (Cropping(), "cannot unpack"),
        ({"input_size": 3, "mean": 1, "std": 1}, "cannot unpack"),
        ({"size": 10**9}, "size must be a whole number from 1 to 4096"),
        ({"mean": 10**400}, r"mean must lie in \[0, 1\]"),
    ],
)
def test_a_preprocessing_of_a_wrong_type_is_refused(attribute: object, words: str) -> None:
    net = nn.Linear(1, 1)
    net.preprocessing = attribute  # type: ignore[assignment]
    with pytest.raises(InputError, match=f"preprocessing of mine:net is not valid.*{words}"):
        of_module(net, "mine:net")


def test_a_preprocessing_that_raises_is_refused() -> None:
    class Raising(nn.Linear):
        @property
        def preprocessing(self) -> Preprocessing:
            raise RuntimeError("not yet")

    with pytest.raises(InputError, match=r"preprocessing of mine:net cannot be read.*not yet"):
        of_module(Raising(1, 1), "mine:net")


def test_addresses_in_printed_layers_do_not_change_the_fingerprint() -> None:
    class Printed(nn.Linear):
        def extra_repr(self) -> str:
            return repr(lambda: None)

    nets = [Printed(2, 3), Printed(2, 3)]
    nets[1].load_state_dict(nets[0].state_dict())
    first, second = (Classifier("mine:net", net, None).fingerprint() for net in nets)
    assert first == second


def test_a_command_whose_factory_exits_has_not_succeeded(tmp_path: Path) -> None:
    """The exit code of the factory, 0, is not that of the command."""
    (tmp_path / "mine.py").write_text("import sys\n\ndef net(classes):\n    sys.exit(0)\n")
    flags = ["--student", "mine:net", "--student-weights", "none", "--out", str(tmp_path)]
    ended = subprocess.run(
        [sys.executable, "-m", "kdtune.distill", *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 2 and ended.stderr.startswith("error: mine:net, called as net(")
    assert "Traceback" not in ended.stderr
