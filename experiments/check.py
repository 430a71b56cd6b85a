"""What `search --check` says of ten recipes that are broken on purpose, and of five sound studies.

    python experiments/check.py [--only WORDS] [--full]      # minutes; writes a temporary folder

The data are the embedded Fashion-MNIST images, as they are and as coloured PNG files, each class in
a hue of its own; and a table. Each recipe is a command line. A broken one counts as named if a
finding, or the refusal, has the words that tell this fault from others.
"""

import argparse
import colorsys
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from kdtune.data.sources import load_fashion
from kdtune.models import Preprocessing

CLASSES = 10
DEFAULT = "--gpus 0 --teacher-weights {default}"
PHOTOS = (
    "--gpus 0 --data {photos} --name photos --teacher check:wide --teacher-weights {weights} "
    "--teacher-epochs 0 --student check:narrow --student-weights none --alpha 0.1 0.5 "
    "--temperature 4 --optimizer adamw --lr 0.02 --schedule onecycle --epochs 20 --batch-size 64"
)
TENSORS = (
    "--gpus 0 --data check:tables --name tables --teacher check:deep --teacher-weights none "
    "--teacher-epochs 10 --student check:flat --student-weights none --alpha 0.1 0.5 --lr 0.01 "
    "--optimizer adamw --epochs 20 --batch-size 32"
)
HEAD = "--trainable head --student-weights {student} --alpha 0.5 1 --optimizer adamw --lr 0.02"


class Recipe(NamedTuple):
    """A study, and the words by which its fault is named."""

    name: str
    words: str
    """Command line."""
    fault: str = ""
    """Regular expression; "": it is sound."""


RECIPES = (
    Recipe(
        "wrong mean and std",
        f"{PHOTOS} --teacher-mean 0.485 0.456 0.406 --teacher-std 0.229 0.224 0.225",
        "Give --teacher-mean and --teacher-std",
    ),
    Recipe("BGR", PHOTOS.replace("{weights}", "{bgr}"), "order BGR of its channels"),
    Recipe(
        "labels shuffled in train",
        PHOTOS.replace("{photos}", "{shuffled}"),
        "labels of train may be wrong",
    ),
    Recipe("lr 100 times too large", f"{DEFAULT} --lr 2", "learning rate is probably too large"),
    Recipe(
        "wrong class order of the teacher",
        PHOTOS.replace("{weights}", "{permuted}"),
        "classes .* in another order",
    ),
    Recipe("frozen random backbone", f"{DEFAULT} --trainable head", "backbone .* is random"),
    Recipe("resized-crop on small images", f"{PHOTOS} --augment resized-crop", "training views"),
    Recipe("val inside train", PHOTOS.replace("{weights}", "{knows_val}"), "val may be among"),
    Recipe("batch norm", f"{DEFAULT} {HEAD} --batch-norm train", "batch norm .* in train mode"),
    Recipe("T = 1000", f"{DEFAULT} --alpha 0.1 --temperature 1000", "temperature 1000 is far"),
    Recipe("default study", "--gpus 0"),
    Recipe("PNG files, crop", PHOTOS),
    Recipe("frozen backbone with weights", f"{DEFAULT} {HEAD}"),
    Recipe("tensors", TENSORS),
    Recipe(
        "kl and mse, ranges of alpha and T",
        f"{DEFAULT} --loss kl mse --search random --samples 8 --alpha 0.05..0.9 "
        "--temperature 1..20 --lr 0.001..0.1:log",
    ),
)


# Models and data, named as users name theirs: `check:wide`.


def convolutions(classes: int, width: int) -> nn.Module:
    """Return a small network for colour images, float32 [B, 3, H, W]."""
    layers: list[nn.Module] = []
    before = 3
    for channels, stride in ((width, 2), (2 * width, 1), (4 * width, 2)):
        layers += [nn.Conv2d(before, channels, 3, stride, 1, bias=False)]
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        before = channels
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))
    steps = Preprocessing(mean=(0.2, 0.2, 0.2), std=(0.3, 0.3, 0.3), size=28)
    net.preprocessing = steps  # type: ignore[assignment]
    return net


def wide(classes: int) -> nn.Module:
    """Return the teacher of the PNG files."""
    return convolutions(classes, 16)


def narrow(classes: int) -> nn.Module:
    """Return the student of the PNG files."""
    return convolutions(classes, 6)


def deep(classes: int) -> nn.Module:
    """Return the teacher of the table."""
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, classes))


def flat(classes: int) -> nn.Module:
    """Return the student of the table."""
    return nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, classes))


def tables() -> Mapping[str, Any]:
    """Return rows of 20 numbers in four classes, each around a mean of its own."""
    rng = np.random.default_rng(0)
    means = rng.normal(0, 0.7, (4, 20))
    splits = {}
    for split, count in (("train", 800), ("val", 300), ("test", 300)):
        labels = rng.integers(0, 4, count)
        rows = (means[labels] + rng.normal(0, 1, (count, 20))).astype(np.float32)
        splits[split] = (rows, labels)
    return splits


def write_photos(folder: Path, shuffled: bool = False) -> None:
    """Write the images as PNG files, [H, W, 3], each in the hue of its class but for some noise.

    Args:
        folder: Gets train, val and test with a folder for each class.
        shuffled: Whether the labels of train are drawn anew.
    """
    rng = np.random.default_rng(0)
    for name, split in load_fashion().splits.items():
        labels = split.labels.numpy()
        folders = rng.permutation(labels) if shuffled and name == "train" else labels
        for i, (grey, label) in enumerate(zip(split.inputs[:, 0].numpy(), labels, strict=True)):  # type: ignore[call-overload]
            hue = (label / CLASSES + rng.normal(0, 0.12)) % 1
            colour = np.array(colorsys.hsv_to_rgb(hue, 0.6, 1.0))
            file = folder / name / str(folders[i]) / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((grey[..., None] * colour).astype(np.uint8)).save(file)


# The commands.


def run(command: str, words: str, folder: Path) -> tuple[int, str, float, float]:
    """Run a command of kdtune; return exit code, output, wall time and CPU time in seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    paths = [str(Path(__file__).parent), *sys.path]
    ended = subprocess.run(  # noqa: S603 - a command of this file
        [sys.executable, "-m", f"kdtune.{command}", *words.split(), "--cache", f"{folder}/cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return ended.returncode, ended.stdout, time.perf_counter() - started, cpu


def prepare(folder: Path) -> dict[str, Path]:
    """Write the data and train the networks of the recipes; return where each of them is."""
    write_photos(folder / "photos")
    write_photos(folder / "shuffled", shuffled=True)
    both = folder / "both"  # its train has the images of val, too
    for split, target in (("train", "train"), ("val", "train"), ("val", "val"), ("test", "test")):
        for file in (folder / "photos" / split).glob("*/*"):
            link = both / target / file.parent.name / f"{split}-{file.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(file)
    photos = "--gpus 0 --teacher check:wide --teacher-weights none --teacher-lr 0.02"
    state = {}
    for name, words in {
        "default": "--gpus 0",
        "student": "--gpus 0 --teacher kdtune.models:fashion_student",
        "weights": f"{photos} --data {folder}/photos --teacher-epochs 12",
        "knows_val": f"{photos} --data {both} --teacher-epochs 40 --teacher-augment none",
    }.items():
        print(f"Training {name} ...", flush=True)
        code, output, *_ = run("teacher", f"{words} --out {folder}/teachers --name {name}", folder)
        if code:
            raise SystemExit(output)
        print(output.splitlines()[-2])
        # without kdtune's record, as another framework would write them
        state[name] = load_file(folder / "teachers" / name / "teacher" / "teacher.safetensors")
    weights, order = state["weights"], torch.arange(CLASSES).roll(1)
    state["bgr"] = weights | {"0.weight": weights["0.weight"].flip(1)}
    head = {name: weights[name][order] for name in ("11.weight", "11.bias")}
    state["permuted"] = weights | head
    paths = {name: folder / name for name in ("photos", "shuffled")}
    for name, values in state.items():
        paths[name] = folder / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in values.items()}, paths[name])
    return paths | {"default": folder / "teachers" / "default"}


def check(recipe: Recipe, paths: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """Run the check of a recipe; return a row of the table."""
    code, output, wall, cpu = run("search", f"{recipe.words.format(**paths)} --check", folder)
    findings = re.findall(r"^(?:\d+\. |error: )(.*)$", output, re.M)
    named = [text for text in findings if recipe.fault and re.search(recipe.fault, text)]
    if code not in (0, 1, 2) or (code == 0) != (not findings):
        raise SystemExit(output)
    return {
        "recipe": recipe.name,
        "is": "broken" if recipe.fault else "sound",
        "result": "named" if named else "accused" if findings else "nothing found",
        "exit code": str(code),
        "wall (CPU), s": f"{wall:.0f} ({cpu:.0f})",
        "finding": (named or findings or [""])[0],
        "others": str(len(findings) - bool(findings)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table and the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="recipes with this text in their names")
    parser.add_argument("--full", action="store_true", help="print whole findings")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as name:
        folder = Path(name)
        paths, rows = prepare(folder), []
        for recipe in RECIPES:
            if options.only in recipe.name:
                rows.append(row := check(recipe, paths, folder))
                text = row["finding"] if options.full else row["finding"][:80]
                print(" | ".join({**row, "finding": text}.values()), flush=True)
    for kind, result in (("broken", "named"), ("sound", "nothing found")):
        of_kind = [row["result"] for row in rows if row["is"] == kind]
        print(f"{of_kind.count(result)} of {len(of_kind)} {kind}: {result}")


if __name__ == "__main__":
    main()
