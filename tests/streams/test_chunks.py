"""Laws of rebatching, and the order that a repeat fixes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdtune.config.run import Run
from kdtune.streams import views as chunks
from kdtune.streams.views import Batch, collect, epoch_order, rebatched, seed_step

SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=8)


@given(SIZES, st.integers(1, 9))
def test_rebatched_images_are_the_same_images(sizes: list[int], size: int) -> None:
    total = sum(sizes)
    a, b = torch.arange(total), torch.arange(2 * total).view(total, 2)
    parts = zip(a.split(sizes), b.split(sizes), strict=True)
    batches = list(rebatched((Batch(x, teacher=y) for x, y in parts), size))
    assert [len(batch) for batch in batches] == [len(x) for x in a.split(size)]
    assert torch.equal(torch.cat([batch.labels for batch in batches]), a)
    assert torch.equal(torch.cat([batch.teacher for batch in batches]), b)
    assert all(batch.views is None and batch.features is None for batch in batches)


@given(SIZES)
def test_collected_batches_are_their_concatenation(sizes: list[int]) -> None:
    whole = torch.arange(3 * sum(sizes), dtype=torch.uint8).view(-1, 3)
    said: list[tuple[int, int]] = []
    found = collect(whole.split(sizes), lambda *so_far: said.append(so_far), len(whole))
    assert torch.equal(found, whole) and found.dtype == torch.uint8
    assert said[-1] == (len(whole), len(whole)) and len(said) == len(sizes)


def test_the_order_depends_on_repeat_seed_and_epoch_alone() -> None:
    order = epoch_order(Run(repeat=1), 50, 2)
    assert sorted(order.tolist()) == list(range(50))
    assert torch.equal(epoch_order(Run(repeat=1, lr=0.5, batch_size=7), 50, 2), order)
    for other in (Run(repeat=2), Run(repeat=1, seed=3)):
        assert not torch.equal(epoch_order(other, 50, 2), order)
    assert not torch.equal(epoch_order(Run(repeat=1), 50, 3), order)


def test_a_step_seeds_the_generators_of_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    monkeypatch.setattr(torch.mps, "manual_seed", seeds.append)
    seed_step(Run(), 1, 2)
    monkeypatch.setattr(chunks, "HAS_MPS", True)
    seed_step(Run(), 1, 2)
    assert seeds == [torch.default_generator.initial_seed()] * 3  # of cuda, then of cuda and mps
