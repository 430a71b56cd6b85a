"""Distil ants and bees with AutoGluon: seconds and accuracy of an epoch of teacher and students.

In an environment of its own, without the internet: the weights are put where the hub's cache is.

    python -m venv ag && ag/bin/pip install autogluon.multimodal
    ag/bin/python experiments/benchmarks/autogluon_distil.py hymenoptera_data \
        tf_efficientnet_lite2.safetensors tf_efficientnet_lite0.safetensors
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

data, *weights = (Path(argument).resolve() for argument in sys.argv[1:])
hub = tempfile.mkdtemp()
os.environ |= {"HF_HOME": hub, "HF_HUB_OFFLINE": "1"}
for file in weights:
    model = Path(hub, "hub", f"models--timm--{file.stem}.in1k")
    (snapshot := model / "snapshots" / "0").mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0")
    (snapshot / "model.safetensors").symlink_to(file)
    (snapshot / "config.json").write_text(json.dumps({"architecture": file.stem}))

import pandas as pd  # noqa: E402 - reads HF_HOME
from autogluon.multimodal import MultiModalPredictor  # noqa: E402

train, val = (
    pd.DataFrame([{"image": str(f), "label": f.parent.name} for f in (data / split).rglob("*.jpg")])
    for split in ("train", "val")
)


def fit(name: str, teacher: MultiModalPredictor | None = None) -> MultiModalPredictor:
    """Train a network for an epoch on the CPU, with a teacher or without; print its accuracy."""
    began, predictor = time.time(), MultiModalPredictor("label", problem_type="binary")
    settings = {
        "model.names": ["timm_image"],
        "model.timm_image.checkpoint_name": name,
        "optim.max_epochs": 1,
        "env.num_gpus": 0,
        "env.num_workers": 0,
        "env.precision": 32,
    }
    predictor.fit(train, tuning_data=val, hyperparameters=settings, teacher_predictor=teacher)
    acc, seconds = predictor.evaluate(val, metrics=["acc"])["acc"], time.time() - began
    print(f"{name}{' distilled' if teacher else ''}: {100 * acc:.1f} % of val, {seconds:.0f} s")
    return predictor


large, small = (file.stem for file in weights)
fitted = fit(large)
fit(small)
fit(small, fitted)
