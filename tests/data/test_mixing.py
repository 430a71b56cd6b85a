"""Mixup and CutMix against their laws, closed forms and numbers worked by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from own_data import text
from scipy import stats
from torch import Tensor

from kdtune.config.run import Run, derive_seed
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError
from kdtune.data.dataset import Data, Split
from kdtune.data.views import Box, Mixture, box_around, check_mixing

GREY, PHOTO = torch.Size((1, 28, 28)), torch.Size((3, 224, 224))
DRAWS = 2000


def draws(run: Run, count: int = 4, shape: torch.Size = PHOTO) -> list[Mixture]:
    return [Mixture.draw(run, 0, number, count, shape) for number in range(DRAWS)]


@pytest.mark.parametrize("a", [0.2, 1.0, 4.0])
def test_shares_of_mixup_have_a_folded_beta_distribution(a: float) -> None:
    shares = np.array([mixture.share for mixture in draws(Run(mixup=a))])
    assert shares.min() >= 0.5

    def folded(x: Any) -> Any:  # P(max(s, 1 - s) <= x)
        return stats.beta.cdf(x, a, a) - stats.beta.cdf(1 - x, a, a)

    assert stats.kstest(shares, folded).pvalue > 0.01
    other = stats.beta(a + 1, a + 1)
    assert stats.kstest(shares, lambda x: other.cdf(x) - other.cdf(1 - x)).pvalue < 0.01


def test_the_area_of_cutmix_has_its_expected_share() -> None:
    # With w = sqrt(1 - s) and a uniform centre, a clipped side is w - w^2 / 4 on average; the mean
    # of its square over a uniform s is 1/2 - 1/5 + 1/48.
    areas = np.array([1 - mixture.share for mixture in draws(Run(cutmix=1.0))])
    error = areas.std(ddof=1) / np.sqrt(DRAWS)
    assert abs(areas.mean() - (1 / 2 - 1 / 5 + 1 / 48)) < 4 * error + 0.01  # 0.01: whole pixels
    assert error < 0.01


@pytest.mark.parametrize("shape", [GREY, PHOTO, torch.Size((2, 5, 9))])
def test_the_share_of_cutmix_is_that_of_its_pixels(shape: torch.Size) -> None:
    own, other = torch.zeros(shape), torch.ones(shape)
    for mixture in draws(Run(cutmix=0.7), 2, shape)[:50]:
        partners = torch.tensor([1, 0])
        first, second = replace(mixture, partners=partners).of(torch.stack([own, other]))
        assert float(first.mean()) == pytest.approx(1 - mixture.share, abs=1e-6)
        assert torch.equal(second, 1 - first)


def test_half_of_the_batches_have_mixup_if_a_run_has_both() -> None:
    both = sum(mixture.box is None for mixture in draws(Run(mixup=0.4, cutmix=1.0)))
    assert stats.binomtest(both, DRAWS).pvalue > 0.01
    assert all(mixture.box is None for mixture in draws(Run(mixup=0.4))[:50])
    assert all(mixture.box is not None for mixture in draws(Run(cutmix=1.0))[:50])


def test_partners_are_permutations_each_equally_often() -> None:
    counts = dict[tuple[int, ...], int]()
    for mixture in draws(Run(mixup=1.0), count=3):
        order = tuple(mixture.partners.tolist())
        counts[order] = counts.get(order, 0) + 1
    assert set(map(tuple, map(sorted, counts))) == {(0, 1, 2)}
    assert len(counts) == 6 and stats.chisquare(list(counts.values())).pvalue > 0.01


def test_a_mixture_is_a_function_of_seed_repeat_epoch_and_batch() -> None:
    run = Run(mixup=0.3, cutmix=0.8)

    def drawn(run: Run, epoch: int = 1, number: int = 2) -> tuple[Any, ...]:
        mixture = Mixture.draw(run, epoch, number, 8, GREY)
        return mixture.share, mixture.partners.tolist(), mixture.box

    first = drawn(run)
    torch.manual_seed(5)
    same = replace(run, lr=0.5, alpha=0.1, temperature=2.0, student="resnet34", epochs=9)
    assert drawn(same) == first
    others = [drawn(replace(run, seed=1)), drawn(replace(run, repeat=1))]
    others += [drawn(run, epoch=2), drawn(run, number=3)]
    assert all(one != first for one in others)


def test_the_documented_draws_by_hand() -> None:
    run = Run(cutmix=0.5, mixup=0.5, seed=3, repeat=2)
    kinds = set()
    for number in range(20):
        rng = np.random.default_rng(derive_seed("mix", 3, 2, 7, number))
        is_mixup = rng.random() < 0.5
        share = rng.beta(0.5, 0.5)
        partners = rng.permutation(6).tolist()
        found = Mixture.draw(run, 7, number, 6, torch.Size((1, 10, 20)))
        assert found.partners.tolist() == partners
        kinds.add(is_mixup)
        if is_mixup:
            assert (found.share, found.box) == (max(share, 1 - share), None)
            continue
        row, column = rng.integers(10), rng.integers(20)
        half = 0.5 * (1 - share) ** 0.5
        rows = range(max(0, row - int(half * 10)), min(10, row + int(half * 10)))
        columns = range(max(0, column - int(half * 20)), min(20, column + int(half * 20)))
        assert found.share == pytest.approx(1 - len(rows) * len(columns) / 200)
    assert kinds == {True, False}


def test_boxes_worked_by_hand() -> None:
    assert box_around((4, 4), 0.75, 8, 8) == Box(2, 6, 2, 6)  # a quarter of the area
    assert box_around((0, 7), 0.75, 8, 8) == Box(0, 2, 5, 8)  # clipped
    assert box_around((4, 4), 1.0, 8, 8).area == 0
    assert box_around((4, 4), 0.0, 8, 8).area == 64
    assert box_around((5, 10), 0.75, 10, 20) == Box(3, 7, 5, 15)  # half of 5 is rounded down


def test_mixup_by_hand_rounds_images_and_not_numbers() -> None:
    partners = torch.tensor([1, 0])
    images = torch.tensor([[11, 250], [20, 0]], dtype=torch.uint8).view(2, 1, 1, 2)
    mixed = Mixture(partners, 0.7, None).of(images)
    assert mixed.dtype == torch.uint8
    assert mixed.flatten().tolist() == [14, 175, 17, 75]  # of 13.7, 175, 17.3 and 75
    numbers = torch.tensor([[1.0, 3.0], [2.0, 0.5]])
    want = [[1.25, 2.375], [1.75, 1.125]]
    assert Mixture(partners, 0.75, None).of(numbers).tolist() == want


@pytest.mark.parametrize("shape", [GREY, PHOTO])
def test_blocks_of_images_change_no_pixel(shape: torch.Size) -> None:
    images = torch.randint(0, 256, (70, *shape), dtype=torch.uint8)
    partners = torch.randperm(70)
    whole = (images.float() * 0.613 + images[partners].float() * (1 - 0.613)).round()
    assert torch.equal(Mixture(partners, 0.613, None).of(images), whole.to(torch.uint8))


@pytest.mark.parametrize("views", [torch.arange(24, dtype=torch.uint8), torch.randn(24)])
def test_a_share_of_1_changes_nothing(views: Tensor) -> None:
    views = views.view(4, 1, 2, 3)
    before, partners = views.clone(), torch.tensor([2, 0, 3, 1])
    for box in (None, Box(1, 1, 0, 3)):
        assert torch.equal(Mixture(partners, 1.0, box).of(views), before)
    Mixture(partners, 0.0, Box(0, 2, 0, 3)).of(views)
    assert torch.equal(views, before)  # nor do mixtures change the views of the cache


def test_the_last_batch_of_one_image_is_left_as_it_is() -> None:
    image = torch.randint(0, 256, (1, 3, 9, 9), dtype=torch.uint8)
    for run in (Run(mixup=1.0), Run(cutmix=1.0)):
        for number in range(20):
            mixture = Mixture.draw(run, 0, number, 1, image.shape[1:])
            assert torch.equal(mixture.of(image), image)


def tensors(inputs: Tensor) -> Data:
    split = Split(torch.zeros(len(inputs), dtype=torch.int64), inputs)
    return Data(("a", "b"), {"train": split, "val": split}, "x", photos=False)


WORDS = tensors(torch.from_numpy(text()["train"][0]))
TABLE = tensors(torch.zeros(5, 64))
SPECTRA = tensors(torch.zeros(5, 2, 16, 8))
IMAGES = tensors(torch.zeros(5, 1, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("data", "space", "message"),
    [
        (WORDS, {"mixup": (0.2,)}, "--mixup must be 0 .* got --mixup 0.2 .* int64 .* leave out"),
        (WORDS, {"mixup": (0.0, 0.4)}, "got --mixup 0.4"),
        (WORDS, {"cutmix": (1.0,)}, r"--cutmix must be 0 .* \[C, H, W\], .* shape \[12\]; leave"),
        (TABLE, {"cutmix": Range(0.1, 1.0)}, r"the shape \[64\]"),
        (TABLE, {"mixup": (0.2,)}, None),
        (SPECTRA, {"mixup": (0.2,), "cutmix": (1.0,)}, None),
        (IMAGES, {"mixup": (0.2,), "cutmix": (1.0,)}, None),
        (WORDS, {}, None),
    ],
)
def test_examples_that_cannot_be_mixed_are_refused(
    data: Data, space: dict[str, Any], message: str | None
) -> None:
    study = Study(name="s", run=Run(data="own"), space=space, search="random")
    if message is None:
        check_mixing(study, data)
        return
    with pytest.raises(InputError, match=message) as caught:
        check_mixing(study, data)
    assert "\n" not in str(caught.value)
