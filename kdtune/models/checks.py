"""Checks of a model on two views of the data, and what it costs."""

import platform
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark import Timer, set_torch_threads, timer
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from kdtune.config.fields import Role
from kdtune.config.records import Cost
from kdtune.config.text import InputError, are_images, first_line, user_code
from kdtune.models import classifier
from kdtune.models.classifier import Classifier
from kdtune.models.outputs import combine
from kdtune.models.weights import saved_state

NORMALIZATIONS = (
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ((0.5,), (0.5,)),
    ((0.0,), (1.0,)),
    ((0.0,), (1 / 255,)),
)
"""Usual means and standard deviations: those of ImageNet, and those that leave images in [-1, 1],
[0, 1] and [0, 255]."""


def other_inputs(model: Classifier) -> Iterator[str]:
    """Change the input of a model of images in usual ways, one after the other, and yield each.

    In the end the model is as before; it is not copied, which not every module allows.

    Args:
        model: On any device.
    """
    own = model.preprocessing
    first = next((m for m in model.net.modules() if isinstance(m, nn.Conv2d)), None)
    has_colours = first is not None and first.in_channels == 3
    for mean, std in NORMALIZATIONS[0 if has_colours else 1 :]:
        model.preprocessing = replace(own, mean=mean, std=std)
        yield classifier.describe_preprocessing(replace(model.preprocessing, size=None))
    model.preprocessing = own
    if first is not None and has_colours:
        weight = first.weight.data
        first.weight.data = weight.flip(1)
        yield "the order BGR of its channels"
        first.weight.data = weight


def probe(
    model: Classifier, views: Tensor, classes: int, *, whole: bool, learns: bool = True
) -> None:
    """Try the model on two views, forward and backward; warn if it has no preprocessing.

    Args:
        model: on the CPU; its running statistics change.
        views: two of the data, [2, ...].
        classes: K of the data.
        whole: whether all its layers learn. If not, its head must be its last operation, since
            features then replace views.
        learns: False for a model that is used as it is.

    Raises:
        InputError: the model fails, its logits or head do not fit, its logits in eval mode are
            random or depend on the other examples of a batch, or their gradient reaches no
            parameter.
    """
    if are_images(views) and not model.has_normalization:
        warnings.warn(classifier.describe_missing_preprocessing(model), stacklevel=1)
    before = views.clone()
    trained = [p for p in (model if whole else model.head).parameters() if p.requires_grad]
    gradients: Sequence[Tensor | None] = ()
    kind = str(views.dtype).removeprefix("torch.")
    with user_code(f"{model.name} fails on views of shape {list(views.shape[1:])} of {kind}"):
        model.set_mode(False)
        with torch.no_grad():
            logits, features = model.with_features(views)
            alone = torch.cat([model(view) for view in views.split(1)])
            from_head = model.classify(features)
        model.set_mode(True)
        with torch.set_grad_enabled(learns):
            in_training = model(views)
            if trained and in_training.requires_grad:
                gradients = torch.autograd.grad(in_training.sum(), trained, allow_unused=True)
    if not torch.equal(views, before):
        raise InputError(
            f"{model.name} must leave its input as it is, but changes it in place; the other "
            f"model and other epochs get the same: compute a new tensor instead"
        )
    _check_logits(model.name, logits, classes)
    _check_logits(model.name, in_training, classes, " in train mode")
    # a batch of another size has other kernels, and so other last digits
    tolerance = 1e-3 * float(logits.abs().max())
    if not torch.allclose(alone, logits, rtol=0, atol=tolerance):
        raise InputError(
            f"{model.name} must return the same logits for an example in any batch in eval mode, "
            f"but does not; check that its dropout and batch norm are off in eval mode, and leave "
            f"its method train() as torch has it"
        )
    if not whole and (from_head.shape != logits.shape or not torch.allclose(from_head, logits)):
        raise InputError(
            f"{model.name} cannot be trained with --trainable head, since its last layer "
            f"{model.head_name} is not its last operation; use --trainable all"
        )
    # a head that is frozen is set to learn later
    if learns and (whole or trained) and all(gradient is None for gradient in gradients):
        raise InputError(
            f"{model.name} cannot learn: its logits have no gradient with respect to its "
            f"parameters; call net.requires_grad_(), and use no detach() or torch.no_grad()"
        )


def _check_logits(name: str, logits: Tensor, classes: int, mode: str = "") -> None:
    """Raise InputError unless logits of two views are finite numbers, one for each class."""
    got = "some that are NaN or infinite"
    if logits.shape != (2, classes):
        got = f"those of two views as {list(logits.shape)}"
    elif logits.isfinite().all():
        return
    raise InputError(
        f"{name} must return finite logits [B, {classes}], one for each class of the data{mode}, "
        f"but returns {got}; check its weights and its forward, and let its factory have a "
        f"parameter num_classes"
    )


def check_last_batch(
    model: Classifier, views: Tensor, count: int, batch_sizes: Iterable[int], flag: str
) -> None:
    """Raise InputError if the last batch has one example, from which the model cannot learn.

    Args:
        model: on the CPU, after `probe`, all of whose layers learn.
        views: two of the data, [2, ...].
        count: examples of an epoch.
        batch_sizes: those of the study.
        flag: of the batch size.
    """
    sizes = [size for size in batch_sizes if size == 1 or count % size == 1]
    if not sizes:
        return
    model.set_mode(True)
    try:
        with torch.no_grad():
            model(views[:1])
    except Exception as error:  # that of batch norm is a ValueError
        raise InputError(
            f"{model.name} cannot be trained on a batch of one example ({first_line(error, 80)}), "
            f"but {flag} {sizes[0]} makes such a batch of {count:,} examples; give another "
            f"{flag}, or layers without batch statistics"
        ) from None


# What a model costs: parameters, size, FLOPs and latency.

Forward = Callable[[Tensor], Tensor]
"""From views [B, ...] to logits [B, K]."""
MIN_SECONDS, MAX_SECONDS = 0.2, 1.0
"""Time of the measurement of one latency, at least if it fits; and of all latencies of a model, at
most unless a single pass takes longer. ResNet50 and ResNet18 took 20 s for 1 and 32 images."""
MIN_BLOCKS = 3
"""Blocks of calls without which there is no interquartile range."""


def measure_cost(
    members: Sequence[Classifier], role: Role, views: Tensor, threads: int = 1
) -> Cost:
    """Return the cost of a student or a teacher.

    FLOPs and latency are those of the networks with their preprocessing, from views to logits, in
    eval mode, on their device and in their precision.

    Args:
        members: One classifier, or the members of an ensemble, as they run; they are left in eval
            mode.
        role: Of the model in the study.
        views: Examples of the data [B, ...], uint8 images [B, C, H, W] for instance.
        threads: Threads of the CPU.
    """
    parameters = [p for member in members for p in member.parameters()]
    device = parameters[0].device
    views = views.to(device)
    for member in members:
        member.set_mode(False)

    def forward(batch: Tensor) -> Tensor:
        return combine([member(batch) for member in members])

    (one_ms, one_iqr), (many_ms, many_iqr) = _latencies(forward, views, threads)
    return Cost(
        role=role,
        model="+".join(member.name for member in members),
        params=sum(p.numel() for p in parameters),
        bytes=sum(len(save(saved_state(member.net))) for member in members),
        flops=count_flops(forward, views[:1]),
        latency_ms=one_ms,
        latency_ms_iqr=one_iqr,
        latency32_ms=many_ms,
        latency32_ms_iqr=many_iqr,
        threads=threads,
        device=device.type,
        hardware=hardware_name(device),
        precision=members[0].precision,
        torch=torch.__version__,
    )


_Latency = tuple[float, float | None]
"""Median time of a batch and its interquartile range, in milliseconds."""


def _latencies(
    forward: Forward, views: Tensor, threads: int
) -> tuple[_Latency, _Latency | tuple[None, None]]:
    """Return the latencies of a batch of 1 and of 32; of 32 (None, None) if there is no time."""
    one = views[:1]
    many = views[torch.arange(32, device=views.device) % len(views)]
    with torch.inference_mode(), set_torch_threads(threads):
        started = timer()
        forward(one)
        first, end = timer() - started, started + MAX_SECONDS
        latency = _time(forward, one, threads, first, end) or (1e3 * first, None)
        # a batch of 32 hardly takes longer than 32 batches of one
        return latency, _time(forward, many, threads, 32e-3 * latency[0], end) or (None, None)


def _time(
    forward: Forward, views: Tensor, threads: int, expected: float, end: float
) -> _Latency | None:
    """Return the latency of a batch that takes about `expected` seconds; None if `end` is near."""
    seconds = end - timer() - 2 * expected  # a pass to warm up, and the last one
    if seconds <= 0:
        return None
    measured = Timer("run(views)", globals={"run": forward, "views": views}, num_threads=threads)
    # any spread is accepted, since it is reported
    seen = measured.adaptive_autorange(
        float("inf"), min_run_time=min(MIN_SECONDS, seconds), max_run_time=seconds
    )
    return 1e3 * seen.median, 1e3 * seen.iqr if len(seen.times) >= MIN_BLOCKS else None


def count_flops(forward: Forward, views: Tensor) -> int | None:
    """Return the FLOPs of a forward pass; a multiply-add counts as two.

    The pass has shapes alone. Only a model that needs values, too, computes them. What a model
    keeps of a pass must be there from an earlier one, else it keeps a tensor without values.

    Returns None if the counter knows none of the operations, or the model has operations that are
    not PyTorch's own and that it does not know.
    """
    for shapes in (FakeTensorMode(allow_non_fake_inputs=True), None):
        # the model or the counter may fail on any operation; the study does not need it
        with suppress(Exception):
            with (
                torch.no_grad(),
                _without_fused_kernels(),
                shapes or nullcontext(),
                _ForeignOperations() as foreign,
                FlopCounterMode(display=False) as counter,
            ):
                forward(views if shapes is None else shapes.from_tensor(views))
            return None if foreign.names else counter.get_total_flops() or None
    return None


class _ForeignOperations(TorchDispatchMode):
    """Names of the operations seen that are not PyTorch's own and have no formula for FLOPs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace not in ("aten", "prim", "prims") and (
            func._overloadpacket not in flop_registry
        ):
            self.names.add(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def _without_fused_kernels() -> Iterator[None]:
    """Use kernels that the counter knows: it counts 0 for oneDNN's LSTM and fused attention."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # oneDNN's flags warn of TF32 on other machines
        stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        yield


def hardware_name(device: torch.device) -> str:
    """Return the name of the GPU or CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")  # Linux: there, `platform` knows the architecture only
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()
