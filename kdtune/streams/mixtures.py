"""Mixed training batches: an epoch's examples, put into training batches and mixed."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from kdtune.config.run import Run
from kdtune.data.mixing import Mixture
from kdtune.streams.batches import Batch, rebatched


def mixed(run: Run, epoch: int, batches: Iterable[Batch], shape: torch.Size) -> Iterator[Batch]:
    """Yield the training batches of an epoch, mixed.

    Args:
        run: Its mixing, batch size, seed and repeat.
        epoch: Of training.
        batches: All examples of the epoch in its order, with views or without.
        shape: Of a view.
    """
    for number, batch in enumerate(rebatched(batches, run.labelled_per_batch)):
        mixture = Mixture.draw(run, epoch, number, len(batch), shape)
        yield replace(
            batch,
            views=None if batch.views is None else mixture.of(batch.views),
            partners=batch.labels[mixture.partners],
            shares=torch.full((len(batch),), mixture.share),
        )


def mixed_labels(run: Run, epoch: int, labels: Tensor, shape: torch.Size) -> Batch:
    """Return the labels, partners and shares of a whole epoch as one batch without views.

    Args:
        run: Its mixing, batch size, seed and repeat.
        epoch: Of training.
        labels: In the order of the epoch, int64 [N].
        shape: Of a view.
    """
    every = list(mixed(run, epoch, [Batch(labels)], shape))
    partners = torch.cat([batch.partners for batch in every if batch.partners is not None])
    shares = torch.cat([batch.shares for batch in every if batch.shares is not None])
    return Batch(labels, partners=partners, shares=shares)
