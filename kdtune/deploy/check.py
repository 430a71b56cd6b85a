"""Check of an exported file: the same predictions as PyTorch."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from kdtune.config.errors import ExportMismatchError
from kdtune.deploy.graph import Predict

BATCH = 64
"""Views that are predicted at once."""
MAX_RELATIVE_DIFFERENCE = 1e-3
"""Largest difference of the logits as a share of the largest logit. Rounding gave at most 2e-5 for
networks of timm, torchvision and kdtune; a wrong mean or interpolation gives 1e-2 or more."""
TIE = 1e-4
"""Two logits of an image that differ by less than this share of its largest one are equal but for
rounding: either class is then a right prediction."""


@dataclass(frozen=True)
class Agreement:
    """Logits of an exported file beside those of PyTorch on the same N views."""

    count: int
    """N."""
    largest_difference: float
    """Largest absolute difference of the logits."""
    largest_logit: float
    """Largest absolute logit of PyTorch."""
    ties: int
    """Views whose class differs, but whose two largest logits are equal but for rounding."""


def compare(reference: Tensor, exported: Tensor, what: str) -> Agreement:
    """Compare logits [N, K] of an exported file with those of PyTorch.

    Args:
        reference: of PyTorch.
        exported: of the file.
        what: the views in words, such as "test images".

    Raises:
        ExportMismatchError: a class differs, or logits differ by more than rounding.
    """
    if exported.shape != reference.shape:
        raise ExportMismatchError(
            f"the exported file must return logits {list(reference.shape)}, but returned "
            f"{list(exported.shape)}; it was deleted"
        )
    difference = float((exported - reference).abs().max())
    largest = float(reference.abs().max())
    mine, other = reference.argmax(1), exported.argmax(1)
    rows = torch.arange(len(reference))
    margin = reference[rows, mine] - reference[rows, other]
    differs = mine != other
    tied = differs & (margin <= TIE * reference.abs().amax(1))
    wrong = int((differs & ~tied).sum())
    # NaN fails every comparison
    if wrong or not difference <= MAX_RELATIVE_DIFFERENCE * largest:
        raise ExportMismatchError(
            f"the exported file does not compute what PyTorch does: {wrong} of {len(reference)} "
            f"{what} have another class, and the largest difference of the logits is "
            f"{difference:.2g} (the largest logit is {largest:.2g}); it was deleted"
        )
    return Agreement(len(reference), difference, largest, int(tied.sum()))


def run_all(
    predictors: Sequence[Predict], batches: Iterable[Tensor], workers: int = 1
) -> list[Tensor]:
    """Return the logits of each function for all views, float32 [N, K] each.

    Views are made once for all functions, since photographs take longer to decode than to predict.

    Args:
        predictors: the functions.
        batches: the views.
        workers: threads that run functions at the same time. Functions of one thread each do not
            wait for each other; one function of many threads is slow if other programs run.
    """
    found: list[list[Tensor]] = [[] for _ in predictors]

    def run(predict: Predict, batch: Tensor) -> Tensor:
        with torch.no_grad():  # holds for its own thread alone
            return predict(batch).float()

    with ThreadPoolExecutor(workers) as pool:
        for batch in batches:
            logits = pool.map(run, predictors, [batch] * len(predictors))
            for own, values in zip(found, logits, strict=True):
                own.append(values)
    return [torch.cat(own) for own in found]
