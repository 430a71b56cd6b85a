"""ResNet-56 -> ResNet-20 on CIFAR-100 by the recipe of the published tables.

    python -m kdtune.search experiments/cifar_recipe.py --download --gpus 1
    python -m kdtune.analysis runs/cifar-recipe

The recipe is that of RepDistiller (github.com/HobbitLong/RepDistiller, train_teacher.py and
train_student.py), which mdistiller's table shares: SGD with momentum 0.9, without Nesterov's and
without warm-up; learning rate 0.05, multiplied by 0.1 after 150, 180 and 210 of 240 epochs; batch
64; weight decay 5e-4; images padded by 4 pixels, cropped and flipped; 0.1 CE + 0.9 T^2 KL at T = 4,
which is alpha = 0.1; the last epoch counts. The teacher is trained by the same recipe, and the
baseline is alpha = 1. The ResNets are RepDistiller's (option B, names that end with `_b`).

Published test accuracy: teacher 72.34 %, student alone 69.06 %, with kl 70.66 %; users who repeated
the last one report 71.4 to 71.5 % (RepDistiller, issue 62). What differs here: 1,000 of the 50,000
training images are val, which the tables do not have; and each configuration has five repeats.
Compare the accuracy on test.

This study has not been run by kdtune's authors, who had neither CIFAR-100 nor a GPU. The command
has been, on 100 of the embedded images: `--data fashion --train-images 100 --teacher-train-images
100 --teacher-epochs 1 --epochs 4 --repeats 2 --gpus 0`, which teaches nothing.
"""

from typing import Any

from kdtune import Run, Study

RECIPE: dict[str, Any] = {
    "optimizer": "sgd",
    "lr": 0.05,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "multistep",
    "lr_milestones": (150 / 240, 180 / 240, 210 / 240),
    "lr_gamma": 0.1,
    "epochs": 240,
    "batch_size": 64,
}

study = Study(
    name="cifar-recipe",
    run=Run(
        data="torchvision:CIFAR100",
        val_share=0.02,
        augment="crop",
        teacher="cifar_resnet56_b",
        teacher_weights="none",
        **{f"teacher_{name}": value for name, value in RECIPE.items()},
        student="cifar_resnet20_b",
        student_weights="none",
        **RECIPE,
        loss="kl",
        temperature=4.0,
    ),
    space={"alpha": (0.1, 1.0)},
    repeats=5,
)
