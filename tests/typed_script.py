"""A script of a user, which mypy checks and nobody runs: type checkers see the public API.

An unneeded `type: ignore` is an error, so the wrong lines must be found.
"""

from pathlib import Path
from typing import assert_type

from matplotlib.figure import Figure

import kdtune

study = kdtune.Study(
    run=kdtune.Run(data="photos", student="resnet18", lr=0.01),
    space={"alpha": (0.1, 0.5, 1.0), "lr": kdtune.Range(1e-3, 1e-1, log=True)},
    search="random",
    repeats=8,
)
kdtune.Study(repeat=8)  # type: ignore[call-arg]
kdtune.Stduy()  # type: ignore[attr-defined]

results = kdtune.run(study)
assert_type(results, kdtune.Results)
assert_type(kdtune.load(Path("runs") / "photos"), kdtune.Results)

criterion = results.criterion("ce", baseline={"alpha": 0.5})
assert_type(results.verdict(criterion), str)
assert_type(results.by, list[str])
best: str | None = results.best()
figure: Figure = results.plot.curves("ce", last=5)
assert_type(results.plot.differences(criterion).caption, str)
results.plot.curve()  # type: ignore[attr-defined]
results.summary(full="yes")  # type: ignore[arg-type]

try:
    print(kdtune.compare("results.csv", by="alpha", repeat="seed", metric="acc"))
except kdtune.InputError as error:
    print(error)
