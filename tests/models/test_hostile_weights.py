"""Weights with other numbers than a network's, and files that only look like weights."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kdtune.config.text import InputError
from kdtune.models.classifier import fashion_student
from kdtune.models.registry import build
from kdtune.models.weights import METADATA, WEIGHTS, read_finished

STUDENT = "kdtune.models:fashion_student"
FIRST = "0.weight"


def state() -> dict[str, Tensor]:
    return {key: value.clone() for key, value in fashion_student(10).state_dict().items()}


def refused(file: Path) -> str:
    with pytest.raises(InputError) as caught:
        build(STUDENT, str(file), 10, seed=1)
    text = str(caught.value)
    assert str(file) in text and text.isprintable() and len(text) < 500
    return text


def with_nan(value: Tensor) -> Tensor:
    value.view(-1)[:3] = torch.tensor([float("nan"), float("inf"), float("nan")])
    return value


CHANGES: list[tuple[Callable[[Tensor], Tensor], str]] = [
    (
        lambda value: value.to(torch.complex64),
        "other types: 1, first 0.weight, complex numbers",
    ),
    (
        lambda value: value.long(),
        "other types: 1, first 0.weight, whole numbers inst",
    ),
    (lambda value: value > 0, "other types: 1, first 0.weight, whole numbers instead"),
    (with_nan, "hold 3 that are NaN or infinite, 3 of them in 0.weight; their training"),
    (lambda value: value.double() + 1e300, "hold 150 that are NaN or infinite, 150 of them in 0.w"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_numbers_of_another_kind_are_refused(
    tmp_path: Path, change: Callable[[Tensor], Tensor], words: str, suffix: str
) -> None:
    own, file = state(), tmp_path / f"weights.{suffix}"
    own[FIRST] = change(own[FIRST])
    save_file(own, file) if suffix == "safetensors" else torch.save(own, file)
    assert words in refused(file)


def test_running_statistics_are_weights_and_counters_are_not(tmp_path: Path) -> None:
    file, own = tmp_path / "weights.pt", state()
    own["1.num_batches_tracked"] = own["1.num_batches_tracked"].float()
    own[FIRST] = own[FIRST].half()
    torch.save(own, file)
    filled = build(STUDENT, str(file), 10, seed=1).net.state_dict()
    assert torch.equal(filled[FIRST], own[FIRST].float())
    own["1.running_var"][0] = float("inf")
    torch.save(own, file)
    assert "hold 1 that are NaN or infinite, 1 of them in 1.running_var" in refused(file)


def test_infinities_of_the_network_itself_are_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in masks of attention."""
    (tmp_path / "masked.py").write_text(
        "import torch\nfrom kdtune.models import fashion_student\n\n"
        "def net(classes):\n    net = fashion_student(classes)\n"
        "    net.register_buffer('mask', torch.tensor([0.0, float('-inf')]))\n    return net\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "weights.pt"
    torch.save(build("masked:net", "none", 10, seed=1).net.state_dict(), file)
    build("masked:net", str(file), 10, seed=1)


@pytest.mark.filterwarnings("ignore")
def test_tensors_without_plain_values_are_refused(tmp_path: Path) -> None:
    file, own = tmp_path / "weights.pt", state()
    nested = torch.nested.nested_tensor([torch.zeros(3), torch.zeros(2)])
    for value in (own[FIRST].to_sparse(), own[FIRST].to("meta"), nested):
        torch.save({**own, FIRST: value}, file)
        assert "must hold a state dict, names to tensors" in refused(file)


def test_names_reach_a_message_short_and_without_codes_of_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    for name in ("\x1b[31mred", "x" * 100_000):
        torch.save({**state(), name: torch.zeros(1)}, file)
        assert "unexpected keys: 1, first " in refused(file)


def test_prefixes_and_entries_may_be_nested_deeply(tmp_path: Path) -> None:
    file, own = tmp_path / "weights.pt", state()
    torch.save({f"{'module.' * 3000}{key}": value for key, value in own.items()}, file)
    filled = build(STUDENT, str(file), 10, seed=1).net.state_dict()
    assert all(torch.equal(filled[key], value) for key, value in own.items())
    content: Any = own
    for _ in range(200):
        content = {"model": content}
    torch.save(content, file)
    assert "must hold a state dict" in refused(file)


def safetensors(header: bytes | dict[str, Any], length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(8)


def entry(*shape: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        safetensors({"a": entry(2)}, length=10**10),
        safetensors({"a": entry(2)}, length=2**64 - 1),
        safetensors({"a": entry(2), "b": entry(2)}),  # overlap
        safetensors({"a": entry(-2)}),
        safetensors({"a": entry(2**40, 2**40)}),
        safetensors(b'{"a":' + b"[" * 50_000),
        safetensors({"__metadata__": {"kdtune_teacher": 3}, "a": entry(2)}),
        safetensors(b'{"a":1,"a":1}'),
        safetensors(b'{"\xff":1}'),
    ],
)
def test_a_hostile_header_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(content)
    assert "is not a whole safetensors file" in refused(file)
    assert read_finished(file) is None


GOOD = {"model": "m:net", "classes": ["a", "b"], "preprocessing": {"mean": [0.2], "std": [0.3]}}


@pytest.mark.parametrize(
    "said",
    [
        *("[" * 50_000, "[1]", "3", "null", "{", "{}", '{"model": ' + "9" * 5000 + "}"),
        *({**GOOD, "classes": 5}, {**GOOD, "classes": [{}]}, {**GOOD, "classes": "ab"}),
        *({**GOOD, "model": 5}, {**GOOD, "data": 5}, {**GOOD, "has_cut_val": "maybe"}),
        *({**GOOD, "preprocessing": None}, {**GOOD, "preprocessing": [1]}),
        *({**GOOD, "preprocessing": own} for own in ({"mean": "x"}, {"mean": [10**400]}, {"z": 1})),
        *({**GOOD, "preprocessing": {"size": 10**9}}, {**GOOD, "from_the_future": 1}),
    ],
)
def test_a_damaged_record_of_a_finished_teacher_is_not_ignored(tmp_path: Path, said: Any) -> None:
    """Without the preprocessing in it, the teacher's predictions would be wrong."""
    file, text = tmp_path / WEIGHTS, said if isinstance(said, str) else json.dumps(said)
    save_file(state(), file, {METADATA: text})
    with pytest.raises(InputError, match="is damaged or of a newer version") as caught:
        read_finished(file)
    assert str(file) in str(caught.value) and len(str(caught.value)) < 600


def test_a_whole_record_of_a_finished_teacher_is_read(tmp_path: Path) -> None:
    file = tmp_path / "other-name.safetensors"
    save_file(state(), file, {METADATA: json.dumps(GOOD)})
    found = read_finished(file)
    assert found is not None and (found.model, found.classes) == ("m:net", ("a", "b"))


def test_files_that_no_weights_can_be_in_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    assert read_finished(tmp_path / "pipe.pt") is None  # without waiting for a writer
    assert "pipe.pt is not one" in refused(tmp_path / "pipe.pt")
    assert "/proc/self/mem cannot be read (Input/output error)" in refused(Path("/proc/self/mem"))
    with pytest.raises(InputError, match="cannot be imported"):
        build(f"{'x' * 5000}:net", "none", 10, seed=1)
