"""Other tools' losses against kdtune's: gradients, whole trainings, and docs/conventions.md.

The references are the tools' formulas, written out here from probabilities. kdtune's side is its
own objective, of a `Run` with the converted hyperparameters. What is printed: tests/goldens.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import kdtune.convert
from kdtune.config.conventions import CONVENTIONS, Conversion, convert, converted_training
from kdtune.config.fields import OPTIMIZERS
from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.convert import parse as parse_convert
from kdtune.training.losses import cross_entropy, objective, total

B, K = 16, 7
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def soft(logits: Tensor, t: float) -> Tensor:
    return torch.softmax(logits / t, 1)


def kl(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher || student) at a temperature, summed over K, mean over B."""
    p, q = soft(t, temperature), soft(s, temperature)
    return (p * (p / q).log()).sum(1).mean()


def ce(s: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy; smoothing spreads that share of the label evenly over K."""
    target = F.one_hot(y, K).double() * (1 - smoothing) + smoothing / K
    return -(target * soft(s, 1).log()).sum(1).mean()


def standardised(z: Tensor) -> Tensor:
    return (z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7)


def dkd(s: Tensor, t: Tensor, y: Tensor, alpha: float, beta: float, temperature: float) -> Tensor:
    """Return the decoupled loss: of label against the rest, and of the rest among itself."""
    is_label = F.one_hot(y, K).bool()
    p, q = soft(t, temperature), soft(s, temperature)
    p_y, q_y = p[is_label], q[is_label]
    tckd = p_y * (p_y / q_y).log() + (1 - p_y) * ((1 - p_y) / (1 - q_y)).log()
    p_rest = p[~is_label].view(B, K - 1) / (1 - p_y)[:, None]
    q_rest = q[~is_label].view(B, K - 1) / (1 - q_y)[:, None]
    nckd = (p_rest * (p_rest / q_rest).log()).sum(1)
    return temperature**2 * (alpha * tckd + beta * nckd).mean()


# Words of the command line, and the tool's loss of (s, t, y).
CASES: dict[str, Loss] = {
    "repdistiller gamma=0.1 alpha=0.9 kd_T=4 beta=0": (
        lambda s, t, y: 0.1 * ce(s, y) + 0.9 * 16 * kl(s, t, 4)
    ),
    "repdistiller alpha=3 kd_T=2": lambda s, t, y: ce(s, y) + 3 * 4 * kl(s, t, 2),
    "repdistiller alpha=0": lambda s, t, y: ce(s, y),
    "mdistiller": lambda s, t, y: 0.1 * ce(s, y) + 0.9 * 16 * kl(s, t, 4),
    "mdistiller KD.LOSS.CE_WEIGHT=1 KD.LOSS.KD_WEIGHT=0.25 KD.TEMPERATURE=0.5": (
        lambda s, t, y: ce(s, y) + 0.25 * 0.25 * kl(s, t, 0.5)
    ),
    "mdistiller-dkd": lambda s, t, y: ce(s, y) + dkd(s, t, y, 1, 8, 4),
    "mdistiller-dkd DKD.CE_WEIGHT=0.3 DKD.ALPHA=2 DKD.BETA=0.5 DKD.T=1": (
        lambda s, t, y: 0.3 * ce(s, y) + dkd(s, t, y, 2, 0.5, 1)
    ),
    "logit-standardization": (
        lambda s, t, y: 0.1 * ce(s, y) + 9 * 4 * kl(standardised(s), standardised(t), 2)
    ),
    "torchdistill alpha=0.3 temperature=4": lambda s, t, y: 0.3 * ce(s, y) + 0.7 * 16 * kl(s, t, 4),
    "torchdistill alpha=1 beta=4 temperature=2 reduction=mean num_classes=7": (
        lambda s, t, y: ce(s, y) + 4 * 4 * kl(s, t, 2) / K
    ),
    # without T², and without beta
    "torchdistill alpha=0 beta=5 temperature=4": lambda s, t, y: kl(s, t, 4),
    "torchdistill alpha=None temperature=3": lambda s, t, y: kl(s, t, 3),
    "timm": lambda s, t, y: ce(s, y, 0.1) + 16 * kl(s, t, 4),
    "timm task-loss-weight=0.3 smoothing=0": (
        lambda s, t, y: 0.3 * ce(s, y) + 0.7 * 16 * kl(s, t, 4)
    ),
    "timm distill_loss_weight=2 kd_temperature=1": lambda s, t, y: ce(s, y, 0.1) + 2 * kl(s, t, 1),
    "hinton hard_weight=0.2 soft_weight=3 temperature=20": (
        lambda s, t, y: 0.2 * ce(s, y) + 3 * 400 * kl(s, t, 20)
    ),
    "hinton hard_weight=1 soft_weight=1 temperature=5 t_squared=no reduction=mean num_classes=7": (
        lambda s, t, y: ce(s, y) + kl(s, t, 5) / K
    ),
    "huggingface lambda_param=0.5 temperature=5": (
        lambda s, t, y: 0.5 * ce(s, y) + 0.5 * 25 * kl(s, t, 5)
    ),
    # soft cross-entropy, as in the first versions of the tutorial: KL plus the teacher's entropy
    "pytorch": (
        lambda s, t, y: 0.75 * ce(s, y) - 0.25 * 4 * (soft(t, 2) * soft(s, 2).log()).sum() / B
    ),
    "deit distillation_type=soft distillation_alpha=0.7 distillation_tau=3 num_classes=7": (
        lambda s, t, y: (
            0.3 * ce(s, y, 0.1)
            + 0.7 * 9 * F.kl_div(soft(s, 3).log(), soft(t, 3), reduction="sum") / s.numel()
        )
    ),
    "deit smoothing=0.2": lambda s, t, y: ce(s, y, 0.2),
    "haitongli alpha=0.9 temperature=20 num_classes=7": (
        lambda s, t, y: (
            0.1 * ce(s, y)
            + 0.9 * 400 * (soft(t, 20) * (soft(t, 20).log() - soft(s, 20).log())).mean()
        )
    ),
    "keras": lambda s, t, y: 0.5 * ce(s, y) + 0.5 * 9 * kl(s, t, 3),
    "keras student_loss_weight=0.2 temperature=2 loss=mean_squared_error": (
        lambda s, t, y: 0.2 * ce(s, y) + 0.8 * (s / 2 - t / 2).square().mean()
    ),
    "textbrewer": lambda s, t, y: -(soft(t, 4) * soft(s, 4).log()).sum(1).mean(),
    "textbrewer hard_label_weight=0.5 kd_loss_weight=2 temperature=8 kd_loss_type=mse": (
        lambda s, t, y: 0.5 * ce(s, y) + 2 * (s / 8 - t / 8).square().mean()
    ),
}


def converted(line: str) -> Conversion:
    tool, *words = line.split()
    pairs = (word.split("=") for word in words)
    return convert(tool, {name.replace("-", "_"): value for name, value in pairs})


def loss_of_kdtune(hyperparameters: Mapping[str, Any]) -> Loss:
    run = Run(**hyperparameters)

    def loss(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
        ce = cross_entropy(s, y, label_smoothing=run.label_smoothing)
        return total(run.alpha, ce, objective(run)(s, t, y))

    return loss


def gradient(loss: Loss, s: Tensor, t: Tensor, y: Tensor) -> Tensor:
    s = s.clone().requires_grad_()
    return torch.autograd.grad(loss(s, t, y), s)[0]


def logits(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    s, t = (3 * torch.randn(B, K, generator=generator, dtype=torch.float64) for _ in range(2))
    return s, t, torch.randint(K, (B,), generator=generator)


@pytest.mark.parametrize(("line", "loss"), CASES.items(), ids=CASES)
def test_gradients_are_equal_but_for_the_scale(line: str, loss: Loss) -> None:
    found = converted(line)
    for seed in range(3):
        theirs = gradient(loss, *logits(seed))
        ours = gradient(loss_of_kdtune(found.hyperparameters), *logits(seed))
        torch.testing.assert_close(theirs, found.scale * ours, rtol=1e-10, atol=1e-14)


def trained(loss: Loss, kind: type[torch.optim.Optimizer], **options: Any) -> tuple[Tensor, Tensor]:
    """Return the weights after 20 steps of a linear student, and the norms of its gradients."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(B, 4, generator=generator, dtype=torch.float64)
    _, t, y = logits(5)
    weights = torch.randn(4, K, generator=generator, dtype=torch.float64, requires_grad=True)
    clip, norms = options.pop("clip_norm"), []
    steps = kind([weights], **options)
    for _ in range(20):
        steps.zero_grad()
        loss(x @ weights, t, y).backward()
        assert weights.grad is not None
        norms.append(weights.grad.norm())
        weights.grad *= min(1.0, clip / norms[-1])  # clip_grad_norm_ adds 1e-6 to the norm
        steps.step()
    return weights.detach(), torch.stack(norms)


@pytest.mark.parametrize("kind", [n for n in OPTIMIZERS if n != "radam"])
@pytest.mark.parametrize("words", ["gamma=1 alpha=9", "gamma=0.05 alpha=0.2 kd_T=3"])
def test_trainings_with_the_converted_settings_are_equal(kind: str, words: str) -> None:
    """20 steps of torch's own optimisers, with weight decay, momentum and clipping."""
    gamma, alpha = (float(word.split("=")[1]) for word in words.split()[:2])
    t = 3.0 if "kd_T" in words else 4.0
    found = converted(f"repdistiller {words}")
    theirs = {"lr": 0.02, "weight_decay": 0.01, "clip_norm": math.inf}
    named: Any = {n.lower(): each for n, each in vars(torch.optim).items() if n[0].isupper()}
    make, own = named.get(kind, torch.optim.SGD), {"eps": 1e-30}
    if make is torch.optim.SGD:
        own = {"momentum": 0.9, "nesterov": kind == "nesterov"}

    def loss(s: Tensor, teacher: Tensor, y: Tensor) -> Tensor:
        return gamma * ce(s, y) + alpha * t**2 * kl(s, teacher, t)

    _, norms = trained(loss, make, **theirs, **own)
    theirs["clip_norm"] = float(norms.median())  # so that some steps are clipped, and some are not
    expected, norms = trained(loss, make, **theirs, **own)
    assert norms.min() < theirs["clip_norm"] < norms.max()
    ours = converted_training(found.scale, kind, theirs)
    got, _ = trained(loss_of_kdtune(found.hyperparameters), make, **ours, **own)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    unconverted, _ = trained(loss_of_kdtune(found.hyperparameters), make, **theirs, **own)
    assert kind == "adamw" or not torch.allclose(unconverted, expected, rtol=1e-5)


def test_a_loss_that_no_pair_equals_is_refused() -> None:
    with pytest.raises(InputError, match="--optimizer must not be radam, whose first steps are"):
        converted_training(2.0, "radam", {"lr": 0.1})
    with pytest.raises(InputError, match=r"no alpha and temperature .* kd_lib's: VanillaKD"):
        convert("kd_lib", {})


DOCS = (Path(__file__).parents[2] / "docs" / "conventions.md").read_text(encoding="utf-8")


def printed(line: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that the command prints."""
    assert kdtune.convert.main(parse_convert(line.split())) == 0
    return capsys.readouterr().out.splitlines()


def test_the_documented_example_settings_and_tools(capsys: pytest.CaptureFixture[str]) -> None:
    line, shown = re.findall(r"^    \$ python -m kdtune.convert (.+)\n    (.+)$", DOCS, re.M)[0]
    assert printed(line, capsys)[0] == shown
    rows = re.findall(r"^\| [^|]+ \| `([^`]+)` \| `(--[^`]+)` \| (\S+) \|$", DOCS, re.M)
    for words, flags, scale in rows:
        first, _, sentence, *_ = printed(f"--from {words}", capsys)
        assert first == flags
        expected = "The losses are equal" if scale == "1" else f"is {scale} times this one"
        assert expected in sentence
    assert {words.split()[0] for words, *_ in rows} == set(CONVENTIONS) - {"kd_lib"}
    tools = re.findall(r"^\| `(\S+)` \| (.+) \| (.+) \| (.+) \|$", DOCS, re.M)
    assert tools[1:] == [(n, c.title, c.formula, c.signature) for n, c in CONVENTIONS.items()]
