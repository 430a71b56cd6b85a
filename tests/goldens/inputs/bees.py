from kdtune import Run, Study

study = Study(
    name="bees",
    run=Run(data="/data/bees", lr=0.3, epochs=7, student="timm/resnet10t"),
    space={"alpha": (0.2, 1.0), "weight_decay": (0.0, 0.1)},
    repeats=3,
)
