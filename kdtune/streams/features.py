"""Features of a frozen backbone: what the student's head sees, computed once a repeat and epoch.

With batch norm in train mode they depend on the batch, and those of val on how far the running
statistics have drifted; both depend on the stream only, so one pass still serves every
configuration.
"""

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from kdtune.models.classifier import Classifier
from kdtune.streams.cache import Tensors, Tick
from kdtune.streams.chunks import Chunks, collect, seed_step


class Features:
    """Features of the run's student, chunk by chunk.

    Args:
        chunks: the run's.
        student: on its device, as it starts; a training chunk leaves its statistics in it.
        views: views(split, epoch, size), uint8 [size, C, H, W] at a time.
        student_print: fingerprint of its backbone where it is known.
    """

    def __init__(
        self,
        chunks: Chunks,
        student: Classifier,
        views: Callable[[str, int, int], Iterator[Tensor]],
        student_print: str | None = None,
    ):
        self.chunks, self.run, self.views = chunks, chunks.run, views
        self.student = student.freeze(head=False)
        # of the initial weights: a run that goes on loads its statistics afterwards
        self.print = student_print or student.fingerprint(with_head=False)

    def get(self, split: str, epoch: int) -> Tensor:
        """Features, float32 [N, ...].

        A run walks through its epochs in order, so the student always stands where the builder of
        this chunk stood.
        """
        run, drifts = self.run, self.run.batch_norm == "train"
        key = self.chunks.view_key(split, epoch) | self.chunks.compute_key
        key |= {"student": self.print, "batch_norm": run.batch_norm}
        if split == "train" or drifts:
            key |= {"batch_size": run.batch_size}
            key |= {"study_seed": run.seed, "repeat": run.repeat, "epoch": epoch}
            key |= {"train_images": run.train_images}
        build = self._train if split == "train" else self._eval

        def build_chunk(tick: Tick) -> Tensors:
            return build(split, epoch, tick)

        chunk = self.chunks.get("features", split, epoch, key, build_chunk)
        if split == "train" and drifts:
            self._restore(chunk)
        return chunk["features"]

    def _train(self, split: str, epoch: int, tick: Tick) -> Tensors:
        self.student.set_mode(True, self.run.batch_norm == "train")
        features = collect(self._steps(split, epoch), tick, self.chunks.count(split))
        return {"features": features, **self._state()}

    def _steps(self, split: str, epoch: int) -> Iterator[Tensor]:
        for step, views in enumerate(self.views(split, epoch, self.run.batch_size)):
            seed_step(self.run, epoch, step)
            yield self._look(views)

    def _eval(self, split: str, epoch: int, tick: Tick) -> Tensors:
        self.student.set_mode(False)
        views = self.views(split, epoch, self.chunks.inference_batch)
        return {"features": collect(map(self._look, views), tick, self.chunks.count(split))}

    @torch.no_grad()
    def _look(self, views: Tensor) -> Tensor:
        return self.student.features(views.to(self.chunks.resources.device)).cpu()

    def _state(self) -> Tensors:
        """The statistics, one tensor a type: a ResNet18's sixty took 40 % of a run to read."""
        flat = {t: torch.cat([v.reshape(-1) for v in each]) for t, each in self._statistics.items()}
        return {f"state.{t}": values.cpu() for t, values in flat.items()}

    def _restore(self, chunk: Tensors) -> None:
        for t, each in self._statistics.items():
            values = chunk[f"state.{t}"].to(self.chunks.resources.device)
            parts = values.split([value.numel() for value in each])
            for value, part in zip(each, parts, strict=True):
                value.copy_(part.view_as(value))

    @cached_property
    def _statistics(self) -> dict[torch.dtype, list[Tensor]]:
        """Batch norm's running statistics, and whatever else the network keeps in buffers."""
        kept, by_type = self.student.net.state_dict(), dict[torch.dtype, list[Tensor]]()
        for name, _ in self.student.net.named_buffers():
            if name in kept:
                by_type.setdefault(kept[name].dtype, []).append(kept[name])
        return by_type
