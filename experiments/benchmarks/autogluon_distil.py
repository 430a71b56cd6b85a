"""Distil ants and bees with AutoGluon, and tune that: seconds and accuracy of one epoch each.

In an environment of its own, without the internet: the weights are put where the hub's cache is.

    python -m venv ag && ag/bin/pip install "autogluon.multimodal" "autogluon.core[raytune]"
    ag/bin/python experiments/benchmarks/autogluon_distil.py hymenoptera_data \
        tf_efficientnet_lite2.safetensors tf_efficientnet_lite0.safetensors
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

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
from ray import tune  # noqa: E402

TRIALS = 4

train, val = (
    pd.DataFrame([{"image": str(f), "label": f.parent.name} for f in (data / split).rglob("*.jpg")])
    for split in ("train", "val")
)


def fit(name: str, teacher: str | None = None, **tuner: Any) -> str:
    """Train a network for an epoch on the CPU, print its accuracy, and return its folder.

    Args:
        name: Of the network.
        teacher: Folder of the teacher, as the tuner needs it.
        tuner: Its arguments; it draws the learning rate and the weight of the labels.
    """
    began, predictor = time.time(), MultiModalPredictor("label", problem_type="binary")
    settings = {
        "model.names": ["timm_image"],
        "model.timm_image.checkpoint_name": name,
        "optim.max_epochs": 1,
        "env.num_gpus": 0,
        "env.num_workers": 0,
        "env.precision": 32,
    }
    if tuner:
        settings |= {"optim.lr": tune.loguniform(1e-4, 1e-2)}
        settings |= {"distiller.hard_label_weight": tune.uniform(0.1, 0.9)}
    predictor.fit(
        train,
        tuning_data=val,
        hyperparameters=settings,
        teacher_predictor=teacher,
        hyperparameter_tune_kwargs=tuner or None,
    )
    acc, seconds = predictor.evaluate(val, metrics=["acc"])["acc"], time.time() - began
    how = f", {tuner['num_trials']} trials" if tuner else ""
    print(
        f"{name}{' distilled' if teacher else ''}{how}: {100 * acc:.1f} % of val, {seconds:.0f} s"
    )
    return str(predictor.path)


large, small = (file.stem for file in weights)
fitted = fit(large)
fit(small)
fit(small, fitted)
fit(small, fitted, num_trials=TRIALS, searcher="random", scheduler="FIFO")
