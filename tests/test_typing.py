"""Type checkers see the public API: a script of a user under `mypy --strict`."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import kdtune

SCRIPT = '''
"""A script of a user; an unneeded `type: ignore` is an error, so the wrong lines must be found."""

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
'''

CONFIG = f"""
[mypy]
strict = True
mypy_path = {Path(kdtune.__file__).parent.parent}
# as for an installed package: errors inside it are its own
[mypy-kdtune.*]
ignore_errors = True
# their types take a minute to read, and no public name shows them
[mypy-torch.*,torchvision.*,ray.*,optuna.*,timm.*,scipy.*,obstore.*,rich.*,tyro.*,numpy.*,PIL.*]
follow_imports = skip
[mypy-pandas.*,pyarrow.*]
ignore_missing_imports = True
"""


def test_a_strictly_typed_script_passes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "mypy.ini").write_text(CONFIG)
    command = [sys.executable, "-m", "mypy", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_says_that_it_is_typed() -> None:
    assert (files("kdtune") / "py.typed").is_file()
