r"""EfficientNet-Lite2 -> Lite0 on ants and bees: the starting repository's study, another pair.

    pip install '.[timm]'
    python -m kdtune.search experiments/hymenoptera_lite.py --data hymenoptera_data \
        --teacher-weights tf_efficientnet_lite2.safetensors \
        --student-weights tf_efficientnet_lite0.safetensors

Weights are timm's ImageNet weights, from files or, with the internet, by default. Everything else
is as in hymenoptera.py, but for the views: 224 pixels for both, the larger model's input being 260.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from kdtune import Study

original: Study = runpy.run_path(str(Path(__file__).with_name("hymenoptera.py")))["study"]
study = replace(
    original,
    name="hymenoptera-lite",
    run=replace(
        original.run,
        image_size=224,
        teacher="timm/tf_efficientnet_lite2",
        student="timm/tf_efficientnet_lite0",
    ),
)
