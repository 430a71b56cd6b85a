r"""EfficientNet-Lite2 -> Lite0 on ants and bees: the starting repository's question, another pair.

    pip install '.[timm]'
    python -m kdtune.search experiments/hymenoptera_lite.py --data hymenoptera_data \
        --teacher-weights tf_efficientnet_lite2.safetensors \
        --student-weights tf_efficientnet_lite0.safetensors

Weights are timm's ImageNet weights, from files or, with the internet, by default. The students'
recipe, epochs and frozen backbone are those of hymenoptera.py. What differs: alpha in steps of a
quarter, each with the learning rates 1e-3 (the starting repository's), 1e-2 and 1e-1, because alpha
and loss change the size of the gradient; both losses; 8 repeats instead of 4; views of 160 pixels
for both models, which take half of the time of 224; and a teacher of which the head alone is
trained, as kdtune does by default with `--teacher-trainable head`: trained as a whole, Lite2 was
less accurate on val (88 % after 9 epochs). 27 configurations x 8 repeats.

With `--folds 8 --name hymenoptera-folds` train and val are pooled and split anew in each repeat.
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
        image_size=160,
        teacher="timm/tf_efficientnet_lite2",
        teacher_epochs=10,
        teacher_trainable="head",
        teacher_batch_norm="eval",
        teacher_lr=0.1,
        student="timm/tf_efficientnet_lite0",
    ),
    space={
        "alpha": (0.0, 0.25, 0.5, 0.75, 1.0),
        "lr": (1e-3, 1e-2, 1e-1),
        "loss": ("mse", "kl"),
    },
    repeats=8,
)
