"""ResNet50 -> ResNet18 on ants and bees: the study of the starting repository.

    python -m kdtune.search experiments/hymenoptera.py --data hymenoptera_data

Source: github.com/anvelezec/distillation. The teacher is fine-tuned for 25 epochs, all layers; of
the student only the head learns while its batch norm layers stay in train mode, as that code really
did. Weights are torchvision's ImageNet weights, which need the internet; without it
`--teacher-weights none --student-weights none --trainable all` trains whole models from random
weights.
"""

from kdtune import Run, Study

study = Study(
    name="hymenoptera",
    run=Run(
        data="hymenoptera_data",
        teacher="resnet50",
        eval_crop=224 / 256,
        eval_interpolation="bilinear",
        teacher_epochs=25,
        teacher_trainable="all",
        teacher_batch_norm="train",
        teacher_optimizer="sgd",
        teacher_lr=1e-3,
        teacher_momentum=0.9,
        teacher_weight_decay=0.0,
        teacher_schedule="step",
        teacher_lr_step_size=7,
        teacher_lr_gamma=0.1,
        teacher_batch_size=32,
        student="resnet18",
        trainable="head",
        batch_norm="train",
        loss="mse",
        optimizer="sgd",
        lr=1e-3,
        momentum=0.9,
        schedule="step",
        lr_step_size=7,
        lr_gamma=0.1,
        epochs=25,
        batch_size=32,
    ),
    space={"alpha": (0.0, 0.5, 1.0)},
    repeats=4,
)
