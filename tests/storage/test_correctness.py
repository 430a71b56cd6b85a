"""Correctness of each example as text: a round trip, a hand-worked text, damage."""

import numpy as np
import pytest

from kdtune.storage.records import pack_correct, unpack_correct


@pytest.mark.parametrize("count", [1, 7, 8, 9, 500])
def test_round_trip(count: int) -> None:
    correct = np.random.default_rng(count).uniform(size=count) < 0.7
    text = pack_correct(correct)
    assert len(text) <= count / 6 + 4
    got = unpack_correct({"n_examples": count, "correct": text})
    assert got is not None and got.dtype == bool and got.tolist() == correct.tolist()


def test_by_hand() -> None:
    # the bits 10100000 1 (then seven zeros of padding) are the bytes a0 80, in base64 oIA=
    assert pack_correct([True, False, True, False, False, False, False, False, True]) == "oIA="


@pytest.mark.parametrize(
    "line",
    [
        {"n_examples": 9},  # an older version
        {"n_examples": 9, "correct": None},
        {"n_examples": 17, "correct": "oIA="},  # three bytes
        {"n_examples": 9, "correct": "not base64"},
        {"correct": "oIA="},
    ],
)
def test_records_that_lack_it(line: dict) -> None:
    assert unpack_correct(line) is None
