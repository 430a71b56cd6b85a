from kdtune import Study


def train(config, repeat):
    for epoch in range(2):
        yield {"val/acc": 0.1 * epoch + config["alpha"] / 10}


study = Study(
    train=train,
    space={"alpha": (0.5, 1.0), "depth": (1, 2, 3)},
    baseline={"alpha": 1.0},
    unless={"depth": {"alpha": 1.0}},
    epochs=2,
    repeats=4,
)
