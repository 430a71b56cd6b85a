"""The default study."""

from kdtune.config.run import Run
from kdtune.config.study import Study


def fashion() -> Study:
    """Return the default study: does distillation help with 300 labelled images of Fashion-MNIST?

    It has eight repeats, since four rarely reach significance after Holm's correction. A trial
    takes about two seconds on one core.
    """
    run = Run(
        train_images=300,
        teacher="kdtune.models:fashion_teacher",
        teacher_weights="none",
        teacher_epochs=20,
        teacher_lr=2e-2,
        teacher_optimizer="adamw",
        teacher_weight_decay=1e-2,
        teacher_schedule="onecycle",
        teacher_batch_size=64,
        student="kdtune.models:fashion_student",
        student_weights="none",
        optimizer="adamw",
        lr=2e-2,
        weight_decay=1e-2,
        schedule="onecycle",
        epochs=60,
        batch_size=64,
    )
    return Study(run=run, space={"alpha": (0.1, 0.5, 1.0), "temperature": (1.0, 4.0)}, repeats=8)
