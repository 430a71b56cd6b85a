"""Int8: how models are quantized, and what it costs and gains."""

import math

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import ttest_1samp

from kdtune.deploy import onnx as quantize
from kdtune.deploy.int8 import accuracy_cost, describe_accuracy
from kdtune.results.design import ONE_TEACHER, Design
from kdtune.statistics.intervals import crossed


def test_the_share_of_linear_layers() -> None:
    """8 x 4 of a MatMul, 4 x 2 of a Gemm, 10 of a convolution; a bias does not count."""
    sizes = {"m": (8, 4), "g": (4, 2), "b": (99,), "c": (1, 1, 2, 5)}
    weights = [numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in sizes.items()]
    nodes = [
        helper.make_node("MatMul", ["x", "m"], ["y"]),
        helper.make_node("Gemm", ["y", "g", "b"], ["z"]),
        helper.make_node("Conv", ["z", "c"], ["u"]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], weights))
    assert quantize.linear_share(model) == pytest.approx(40 / 50)


def test_of_linear_layers_the_method_with_the_smaller_error_is_taken() -> None:
    """Two layers by hand; the errors are those of onnxruntime's logits on the same examples."""
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(size=s).astype(np.float32) for n, s in (("v", (6, 8)), ("w", (8, 3)))}
    nodes = [
        helper.make_node("MatMul", ["inputs", "v"], ["x"]),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("MatMul", ["y", "w"], ["logits"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("inputs", 6), ("logits", 3))
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    views = torch.from_numpy(rng.normal(size=(40, 6)).astype(np.float32))
    want = np.maximum(views.numpy() @ weights["v"], 0) @ weights["w"]
    taken = quantize.quantize(model, views, "inputs")
    errors = {}
    for method in (quantize.STATIC, quantize.DYNAMIC):
        small = quantize.quantize(model, views, "inputs", method).model
        session = onnxruntime.InferenceSession(small.SerializeToString())
        logits = session.run(None, {"inputs": views.numpy()})[0]
        errors[method] = abs(logits - want).mean()
    assert taken.error == pytest.approx(min(errors.values()), rel=1e-3) and taken.error > 0
    assert errors[taken.method] == min(errors.values())
    assert taken.others == pytest.approx({k: v for k, v in errors.items() if k != taken.method})
    assert taken.calibrated == 40


def test_calibration_images_are_spread_over_all() -> None:
    for count, shape, most in (
        (5, (1, 28, 28), 5),
        (1000, (1, 28, 28), 128),
        (1000, (3, 260, 260), 41),  # 2^23 / (3 x 260 x 260) = 41.4
        (1000, (3, 600, 600), 32),
    ):
        chosen = quantize.calibration_index(3 + torch.arange(count), math.prod(shape))
        assert len(chosen) == len(set(chosen.tolist())) == most
        assert (chosen[0], chosen[-1]) == (3, count + 2)
        assert chosen.diff().max() <= math.ceil((count - 1) / (most - 1))


def outcomes(seed: int, repeats: int = 4, images: int = 200) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    full = rng.random((repeats, images)) < 0.8
    small = np.where(rng.random((repeats, images)) < 0.05, ~full, full)
    return [(s.astype(float), f.astype(float)) for s, f in zip(small, full, strict=True)]


def test_the_cost_in_accuracy_is_paired_by_image_and_repeat() -> None:
    pairs = outcomes(1)
    cost = accuracy_cost(pairs, 9, range(4), ONE_TEACHER, "test")
    d = np.stack([s - f for s, f in pairs])
    low, high = ttest_1samp(d[0], 0).confidence_interval()
    ends = ("difference", "low", "high")
    student, configuration = ([cost[k][e] for e in ends] for k in ("student", "configuration"))
    assert student == pytest.approx([d[0].mean(), low, high])
    assert configuration == [crossed(d).mean, *crossed(d).interval()]
    text = describe_accuracy(cost)
    assert "over 4 repeats" in text and "9 of 200 predictions differ" in text
    assert "for new repeats on these training images with this teacher and new images like" in text


def test_fewer_than_three_independent_repeats_have_no_interval() -> None:
    """Repeats 0, 3 and 6 share a teacher, and teachers are the units."""
    for repeats, design in (([0, 1], ONE_TEACHER), ([0, 3, 6], Design(teachers=3))):
        cost = accuracy_cost(outcomes(2, len(repeats)), 9, repeats, design, "test")
        assert "configuration" not in cost and "over" not in describe_accuracy(cost)


def test_folds_have_other_images_and_no_change_has_a_limit() -> None:
    """On val images are no sample, and lengths differ; the interval is about new splits."""
    pairs = [(s[: 100 + r], f[: 100 + r]) for r, (s, f) in enumerate(outcomes(3))]
    cost = accuracy_cost(pairs, 9, range(4), Design(folds=4), "val")
    assert "train/val splits" in cost["configuration"]["holds_for"]
    want = np.mean([(s - f).mean() for s, f in pairs])
    assert cost["configuration"]["difference"] == pytest.approx(want)
    # Wilson's upper limit for 0 of 200 is z^2 / (n + z^2) = 3.8415 / 203.84 = 1.88 %
    right = np.ones(200)
    text = describe_accuracy(accuracy_cost([(right, right)], 0, [0], ONE_TEACHER, "test"))
    assert "+0.00 percentage points; 0 of 200 predictions differ" in text
    assert "at most 1.9% do" in text
