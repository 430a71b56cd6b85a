"""A plain training loop: the reference of tests and benchmarks.

It is what a user of PyTorch would write without kdtune.streams and kdtune.training, neither of
which it imports: it decodes and augments each image, runs the teacher and the whole student on each
batch, in every epoch of every run, and shares nothing. Optimisers, schedules and losses are
torch's. Augmented images, order and seeds are the repeat's, so its results must equal those of
kdtune.
"""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtune.config.run import TEACHER_REPEAT, Run, derive_seed
from kdtune.data.dataset import Data
from kdtune.data.sources import load_data
from kdtune.data.views import Views
from kdtune.models.classifier import Classifier, Layout
from kdtune.models.registry import build

Means = dict[str, float]


class PlainEpoch(NamedTuple):
    """The state after one epoch."""

    student: Classifier
    metrics: dict[str, Means]
    """Of train and val and, in the last epoch, of test where there is one."""


def plain_loop(
    run: Run,
    teacher_folder: Path,
    device: str = "cpu",
    workers: int = 0,
    teacher_backward: bool = False,
    layout: Layout = "channels_last",
    data: Data | None = None,
    unlabelled: tuple[Iterator[Tensor], Sequence[int]] | None = None,
) -> Iterator[PlainEpoch]:
    """Distil; yield the student and its metrics an epoch at a time.

    `teacher_backward` also back-propagates through the teacher, as the starting repository did.
    `unlabelled` are views without labels, and how many of them each batch of an epoch has beside
    the labelled ones.
    """
    data, where = data or load_data(run), torch.device(device)
    teacher = build_teacher(run, teacher_folder, data).place(where, run.precision, layout)
    seed = derive_seed("init", run.seed, run.repeat)
    student = build(run.student, run.student_weights, len(data.classes), seed=seed)
    student.place(where, run.precision, layout)
    teacher.set_mode(False)
    teacher.requires_grad_(teacher_backward)
    if run.trainable == "head":
        student.requires_grad_(False)
        student.head.requires_grad_(True)
    subset, size = data.subset(run), side(run, data, student, teacher)
    projector, of_student, of_teacher = None, watched(student), watched(teacher)
    if run.compares_features:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("projector", run.seed, run.repeat))
            projector = nn.Linear(student.head.in_features, teacher.head.in_features).to(where)

    def features() -> tuple[Tensor, ...]:
        """Those of the last passes, of the student projected to those of the teacher."""
        if projector is None:
            return ()
        return projector(of_student["x"].float()), of_teacher["x"].float()

    optimizer = make_optimizer(run, student, projector)
    others, counts = unlabelled or (iter(()), [0])
    size_of_batch = run.batch_size - counts[0]
    steps = -(-len(subset) // size_of_batch)
    scaler = torch.amp.GradScaler(device, enabled=run.precision == "fp16")
    scheduler, average = make_scheduler(run, optimizer, steps), Average(run, student)
    for epoch in range(run.epochs):
        seed = derive_seed("order", run.seed, run.repeat, epoch)
        order = torch.randperm(len(subset), generator=torch.Generator().manual_seed(seed))
        index, passes = subset[order], []
        views = Views(data.splits["train"], index, run, size, epoch)
        labels = data.splits["train"].labels[index].split(size_of_batch)
        batches = zip(views.batches(size_of_batch, workers), labels, strict=True)
        for step, (x, y) in enumerate(batches):
            if unlabelled:
                x = torch.cat([x, torch.stack(list(islice(others, counts[step])))])
            x, y = x.to(where), y.to(where)
            student.set_mode(True, run.batch_norm_mode == "train")
            torch.manual_seed(derive_seed("step", run.seed, run.repeat, epoch, step))
            logits = student(x)
            with torch.set_grad_enabled(teacher_backward):
                target = teacher(x)
            inputs = features()
            loss = total_loss(run, logits, y, target, *inputs)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            if run.clip_norm > 0:
                clip(optimizer, run.clip_norm)
            rates = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] *= warmup(run, epoch * steps + step, steps)
            scaler.step(optimizer)
            scaler.update()
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            average.update(student)
            if run.schedule == "onecycle":
                scheduler.step()
            passes.append([x.detach().cpu()[: len(y)] for x in (logits, target, y, *inputs)])
        waits = run.schedule == "cosine" and epoch < run.warmup_epochs
        if run.schedule != "onecycle" and not waits:
            scheduler.step()
        ended = average.student(student)
        metrics = {"train": measure(run, passes)}
        for name in ("val", "test") if epoch == run.epochs - 1 else ("val",):
            if name in data.splits:
                passes = evaluate(data, name, run, size, ended, teacher, where, workers, features)
                metrics[name] = measure(run, passes)
        yield PlainEpoch(ended, metrics)


def watched(model: Classifier) -> dict[str, Tensor]:
    """A dict that holds the input of the model's last linear layer after each pass."""
    seen: dict[str, Tensor] = {}
    layers = [module for module in model.net.modules() if isinstance(module, nn.Linear)]
    if layers:
        layers[-1].register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    return seen


def clip(optimizer: torch.optim.Optimizer, most: float) -> None:
    """Scale the gradient of all parameters to a norm of at most `most`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = sum(float((g.double() ** 2).sum()) for g in gradients) ** 0.5
    for gradient in gradients:
        gradient *= min(1.0, most / norm)


def warmup(run: Run, step: int, steps_per_epoch: int) -> float:
    """Share of the schedule's learning rate in a step of the run."""
    last = run.warmup_epochs * steps_per_epoch
    return (step + 1) / last if run.schedule != "onecycle" and step < last else 1.0


class Average:
    """Moving average of a student, value by value of its state dict."""

    def __init__(self, run: Run, student: Classifier):
        self.run, self.updates = run, 0
        learns = {name for name, p in student.net.named_parameters() if p.requires_grad}
        if run.trainable == "all":
            learns |= {n for n, value in student.net.named_buffers() if value.is_floating_point()}
        self.names, self.values = learns, dict[str, Tensor]()

    def update(self, student: Classifier) -> None:
        if self.run.ema == 0:
            return
        now = {n: v.clone() for n, v in student.net.state_dict().items() if n in self.names}
        d = min(self.run.ema, (1 + self.updates) / (10 + self.updates)) if self.updates else 0.0
        self.values = {n: d * self.values.get(n, v) + (1 - d) * v for n, v in now.items()}
        self.updates += 1

    def student(self, student: Classifier) -> Classifier:
        """A student with the average in place of what is averaged; itself without an average."""
        if self.run.ema == 0:
            return student
        averaged = copy.deepcopy(student)
        averaged.net.load_state_dict(student.net.state_dict() | self.values)
        return averaged


def build_teacher(run: Run, folder: Path, data: Data) -> Classifier:
    if run.teacher_epochs:
        weights = str(folder / "teacher.safetensors")
        return build(run.teacher, weights, len(data.classes), seed=0, replace_head=False)
    seed = derive_seed("init", run.seed, TEACHER_REPEAT)
    classes = len(data.classes)
    return build(run.teacher, run.teacher_weights, classes, seed=seed, replace_head=False)


def side(run: Run, data: Data, *models: Classifier) -> int:
    """Side of the augmented images in pixels."""
    sizes = [m.preprocessing.size for m in models if m.preprocessing.size]
    return run.image_size or max(sizes, default=0) or data.splits["train"].inputs.shape[-1]


def make_optimizer(
    run: Run, student: Classifier, projector: nn.Module | None = None
) -> torch.optim.Optimizer:
    learns = [p for p in student.parameters() if p.requires_grad]
    learns += [] if projector is None else list(projector.parameters())
    named: Any = {n.lower(): kind for n, kind in vars(torch.optim).items() if n[0].isupper()}
    named["nesterov"] = partial(torch.optim.SGD, nesterov=True)
    has_momentum = run.optimizer in ("sgd", "nesterov", "rmsprop")
    momentum = {"momentum": run.momentum} if has_momentum else {}
    return named[run.optimizer](learns, lr=run.lr, weight_decay=run.weight_decay, **momentum)


def make_scheduler(
    run: Run, optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    schedules = torch.optim.lr_scheduler
    if run.schedule == "step":
        return schedules.StepLR(optimizer, step_size=run.lr_step_size, gamma=run.lr_gamma)
    if run.schedule == "multistep":
        after = [int(share * run.epochs) for share in run.lr_milestones]  # whole numbers in tests
        return schedules.MultiStepLR(optimizer, after, gamma=run.lr_gamma)
    if run.schedule == "cosine":
        return schedules.CosineAnnealingLR(optimizer, T_max=run.epochs - run.warmup_epochs)
    if run.schedule == "onecycle":
        return schedules.OneCycleLR(
            optimizer, run.lr, epochs=run.epochs, steps_per_epoch=steps, cycle_momentum=False
        )
    assert run.schedule == "constant"
    return schedules.LambdaLR(optimizer, lambda epoch: 1.0)


def total_loss(run: Run, logits: Tensor, y: Tensor, target: Tensor, *features: Tensor) -> Tensor:
    """The loss as one writes it down."""
    weights = None
    if run.class_weights != "none":  # in the order of the classes
        weights = torch.tensor([*json.loads(run.class_weights).values()], dtype=logits.dtype)
    ce = F.cross_entropy(logits[: len(y)], y, weights)
    if run.alpha == 1 and not target.requires_grad:
        return ce
    return run.alpha * ce + (1 - run.alpha) * distillation(run, logits, target, y, *features)


def distillation(run: Run, logits: Tensor, target: Tensor, y: Tensor, *features: Tensor) -> Tensor:
    first, *second = run.loss.split("+")
    loss = one_loss(first, run, logits, target, y, *features)
    for name in second:
        loss = loss + run.loss_weight * one_loss(name, run, logits, target, y, *features)
    return loss


def one_loss(
    name: str, run: Run, logits: Tensor, target: Tensor, y: Tensor, *features: Tensor
) -> Tensor:
    if name == "features_mse":
        return F.mse_loss(*features)
    if name == "features_cosine":
        return (1 - F.cosine_similarity(*features)).mean()
    t, t_teacher = run.temperature, run.teacher_temperature or run.temperature
    if name == "mse":
        return F.mse_loss(logits, target)
    if name == "ls":
        logits, target = (
            (z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7)
            for z in (logits, target)
        )
    if name in ("kl", "ls"):
        p, q = F.log_softmax(target / t_teacher, 1), F.log_softmax(logits / t, 1)
        return F.kl_div(q, p, reduction="batchmean", log_target=True) * t**2
    hot = F.one_hot(y, logits.shape[1]).bool()
    p, q = (target / t_teacher).softmax(1), (logits / t).softmax(1)
    if name == "dist":
        means = [correlation(p, q).mean(), correlation(p.T, q.T).mean()]
        return run.dist_beta * (1 - means[0]) + run.dist_gamma * (1 - means[1])
    p_rest, q_rest = (r[~hot].view(len(y), -1) / (1 - r[hot])[:, None] for r in (p, q))
    nckd = (p_rest * (p_rest / q_rest).log()).sum(1)
    if name == "nkd":
        of_label = target.softmax(1)[hot] * F.cross_entropy(logits, y, reduction="none")
        return (of_label + run.nkd_gamma * t**2 * nckd).mean()
    assert name == "dkd", f"{name} needs its reference here"
    p_y, q_y = p[hot], q[hot]
    tckd = p_y * (p_y / q_y).log() + (1 - p_y) * ((1 - p_y) / (1 - q_y)).log()
    return t**2 * (run.dkd_alpha * tckd + run.dkd_beta * nckd).mean()


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, of each row; with the constant of Huang et al.'s code."""
    a, b = (z - z.mean(1, keepdim=True) for z in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)


@torch.no_grad()
def evaluate(
    data: Data,
    name: str,
    run: Run,
    size: int,
    student: Classifier,
    teacher: Classifier,
    device: torch.device,
    workers: int,
    features: Callable[[], tuple[Tensor, ...]] = tuple,
) -> list[list[Tensor]]:
    """Logits of student and teacher, labels and features of the last pass, a batch at a time."""
    split = data.splits[name]
    student.set_mode(False)
    passes, labels = [], split.labels.split(32)
    views = Views(split, torch.arange(len(split)), run, size).batches(32, workers)
    for x, y in zip(views, labels, strict=True):
        logits, target = student(x.to(device)), teacher(x.to(device))
        passes.append([logits.cpu(), target.cpu(), y, *(values.cpu() for values in features())])
    return passes


def measure(run: Run, passes: Sequence[Sequence[Tensor]]) -> Means:
    """All metrics of a split, from all logits at once."""
    s, t, y, *features = (torch.cat(column) for column in zip(*passes, strict=True))
    p, q = torch.log_softmax(t, 1), torch.log_softmax(s, 1)
    means = {
        "loss": float(total_loss(run, s, y, t, *features)),
        "ce": float(F.cross_entropy(s, y)),
        "acc": float((s.argmax(1) == y).double().mean()),
        "teacher_acc": float((t.argmax(1) == y).double().mean()),
        "logit_diff": float((s - t).abs().mean()),
        "agreement": float((s.argmax(1) == t.argmax(1)).double().mean()),
        "kl": float((p.exp() * (p - q)).sum(1).mean()),
        "nll": float(F.nll_loss(q, y)),
        "ece": calibration_error(s.softmax(1), y),
        "macro_f1": macro_f1(s.argmax(1), y),
    }
    if run.alpha == 1:
        return means
    return means | {"distill": float(distillation(run, s, t, y, *features))}


def calibration_error(p: Tensor, y: Tensor) -> float:
    """Guo et al., 2017, equations 2 and 3, a bin at a time."""
    confidence, predicted = p.max(1)
    error = 0.0
    for low in range(15):
        chosen = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if chosen.any():
            accuracy = (predicted == y)[chosen].double().mean()
            gap = abs(float(accuracy - confidence[chosen].double().mean()))
            error += gap * int(chosen.sum()) / len(y)
    return error


def macro_f1(predicted: Tensor, y: Tensor) -> float:
    """Mean of the harmonic means of precision and recall, a class at a time."""
    scores = []
    for k in sorted({*y.tolist(), *predicted.tolist()}):
        hits = int(((predicted == k) & (y == k)).sum())
        precision = hits / max(1, int((predicted == k).sum()))
        recall = hits / max(1, int((y == k).sum()))
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return sum(scores) / len(scores)
