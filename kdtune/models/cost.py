"""Measurement of what a model costs: parameters, size, FLOPs and latency."""

import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from kdtune.config.cost import Cost
from kdtune.config.names import Role
from kdtune.models.classifier import Classifier
from kdtune.models.ensemble import combine

Forward = Callable[[Tensor], Tensor]
"""From views [B, ...] to logits [B, K]."""
MIN_SECONDS, MAX_SECONDS = 0.2, 10.0
"""Time of the measurement of one latency: at least, and at most unless one batch takes longer."""
MIN_BLOCKS = 3
"""Blocks of calls without which there is no interquartile range."""


def measure(members: Sequence[Classifier], role: Role, views: Tensor, threads: int = 1) -> Cost:
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

    one = latency(forward, batch_of(views, 1), threads)
    many = latency(forward, batch_of(views, 32), threads)
    return Cost(
        role=role,
        model="+".join(member.name for member in members),
        params=sum(p.numel() for p in parameters),
        bytes=sum(size_on_disk(member) for member in members),
        flops=count_flops(forward, batch_of(views, 1)),
        latency_ms=one.median_ms,
        latency_ms_iqr=one.iqr_ms,
        latency32_ms=many.median_ms,
        latency32_ms_iqr=many.iqr_ms,
        threads=threads,
        device=device.type,
        hardware=hardware_name(device),
        precision=members[0].precision,
        torch=torch.__version__,
    )


def batch_of(views: Tensor, size: int) -> Tensor:
    """Return a batch of this size, the views again and again."""
    return views[torch.arange(size, device=views.device) % len(views)]


def size_on_disk(model: Classifier) -> int:
    """Return the bytes of the network's state dict as a safetensors file."""
    # clones, since safetensors refuses tensors that share memory
    state = model.net.state_dict().items()
    return len(save({name: value.detach().cpu().contiguous().clone() for name, value in state}))


def count_flops(forward: Forward, views: Tensor) -> int | None:
    """Return the FLOPs of a forward pass; a multiply-add counts as two.

    Returns None if the counter knows none of the operations, or the model has operations that are
    not PyTorch's own and that it does not know.
    """
    try:
        with (
            torch.no_grad(),
            _without_fused_kernels(),
            _ForeignOperations() as foreign,
            FlopCounterMode(display=False) as counter,
        ):
            forward(views)
    except Exception:  # the counter may fail on any operation; the study does not need it
        return None
    return None if foreign.names else counter.get_total_flops() or None


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


class Latency(NamedTuple):
    """Time of a batch in milliseconds."""

    median_ms: float
    iqr_ms: float | None
    """Interquartile range. None: too few measurements."""


def latency(forward: Forward, views: Tensor, threads: int) -> Latency:
    """Return the time of a forward pass, by torch.utils.benchmark (it synchronises CUDA)."""
    timer = Timer("run(views)", globals={"run": forward, "views": views}, num_threads=threads)
    with torch.inference_mode():
        # any spread is accepted, since it is reported
        seen = timer.adaptive_autorange(
            float("inf"), min_run_time=MIN_SECONDS, max_run_time=MAX_SECONDS
        )
    spread = 1e3 * seen.iqr if len(seen.times) >= MIN_BLOCKS else None
    return Latency(1e3 * seen.median, spread)


def hardware_name(device: torch.device) -> str:
    """Return the name of the GPU or CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")  # Linux: there, `platform` knows the architecture only
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()
