"""What every tool of the benchmark is given: data, networks, settings, and a file for its results.

Nothing here imports kdtune, so that the scripts run where it is not installed. The data and the two
networks are those of kdtune's default study, or ants and bees with EfficientNet-Lite2 and Lite0.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

FASHION = Path(__file__).parents[2] / "kdtune" / "assets" / "fashion.npz"
WEIGHTS = {"teacher": "tf_efficientnet_lite2", "student": "tf_efficientnet_lite0"}
SIDE = 160
Setting = tuple[float, float]
"""Alpha (the weight of the labels) and temperature; alpha = 1 is the baseline."""


@dataclass(frozen=True)
class Task:
    """The work of one study: the same for all tools."""

    study: str
    repeats: int
    result: Path
    data: Path | None = None
    weights: Path | None = None
    settings: Sequence[Setting] = ((1.0, 1.0), (0.1, 1.0), (0.1, 4.0), (0.5, 1.0), (0.5, 4.0))
    epochs: int = 60
    teacher_epochs: int = 20
    lr: float = 0.02
    batch_size: int = 64
    classes: int = 10

    def network(self, role: str) -> nn.Module:
        """Return a new teacher or student."""
        if self.weights is None:
            return small_cnn(self.classes, {"teacher": 16, "student": 6}[role])
        return HeadOnly(WEIGHTS[role], self.weights, self.classes)

    def loader(self, split: str, images: int | None = None) -> DataLoader[Any]:
        """Return the batches of a split; train is shuffled and augmented anew in each epoch.

        Args:
            split: train or val.
            images: number of images, drawn with torch's global generator. None: all.
        """
        train = split == "train"
        source: Any = self.source(split)
        if images is not None:
            index = torch.randperm(len(source))[:images].tolist()
            source = torch.utils.data.Subset(source, index)
        make = collate_train if train else collate_val
        return DataLoader(source, self.batch_size if train else 256, shuffle=train, collate_fn=make)

    def source(self, split: str) -> "Images":
        """Return the examples of a split."""
        return Images(split) if self.data is None else Photos(self.data / split, split == "train")

    @property
    def images(self) -> int | None:
        """Labelled images of a student; the teacher has all of train."""
        return 300 if self.study == "default" else None

    def done(self, runs: Sequence["Outcome"]) -> None:
        """Write the results for the driver."""
        self.result.write_text(json.dumps([vars(run) for run in runs]))


@dataclass(frozen=True)
class Outcome:
    """A trained student."""

    alpha: float
    temperature: float
    repeat: int
    accuracies: list[float]
    """On val, after each epoch."""


def load_task() -> Task:
    """Return the task that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--study", choices=["default", "ants"], default="default")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--epochs", type=int, help="of a student and of the teacher")
    parser.add_argument("--result", type=Path, default=Path("result.json"))
    parser.add_argument("--data", type=Path, help="folder of ants and bees")
    parser.add_argument("--weights", type=Path, help="folder of the two files of weights")
    task = make_task(**vars(parser.parse_args()))
    if task.data is None:  # a small network is fastest with one thread
        torch.set_num_threads(1)
    return task


def make_task(
    study: str, repeats: int, result: Path, data: Any, weights: Any, epochs: int | None = None
) -> Task:
    """Return the task of a study."""
    task = Task(study, repeats, result)
    if study == "ants":
        settings = ((1.0, 4.0), (0.0, 4.0), (0.5, 4.0))
        task = Task(study, repeats, result, data, weights, settings, 2, 2, 0.01, 32, 2)
    return task if epochs is None else replace(task, epochs=epochs, teacher_epochs=epochs)


def accuracy(model: nn.Module, loader: DataLoader[Any]) -> float:
    """Return the share of images of which the model predicts the class."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y, *_ in loader)
    return right / len(loader.dataset)  # type: ignore[arg-type]


def show(runs: Sequence[Outcome]) -> None:
    """Print mean and standard deviation of the last epoch's accuracy by setting."""
    for alpha, temperature in sorted({(run.alpha, run.temperature) for run in runs}):
        last = [x.accuracies[-1] for x in runs if (x.alpha, x.temperature) == (alpha, temperature)]
        mean, sd = statistics.mean(last), statistics.stdev(last)
        print(f"alpha {alpha:g}, temperature {temperature:g}: {mean:.3f} ± {sd:.3f}")


# Networks.


def small_cnn(classes: int, width: int) -> nn.Module:
    """Return the network of kdtune's default study, for grey images of 28 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, width, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(2 * width, 4 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(4 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


class HeadOnly(nn.Module):
    """A network of timm with ImageNet weights, of which only the head is trained."""

    def __init__(self, name: str, folder: Path, classes: int) -> None:
        super().__init__()
        import timm

        file = str(folder / f"{name}.safetensors")
        overlay: dict[str, Any] = {"pretrained_cfg_overlay": {"file": file}, "pretrained": True}
        net: Any = timm.create_model(name, num_classes=classes, **overlay)
        self.head = net.get_classifier()  # with timm's initial weights
        net.reset_classifier(0)
        self.backbone = net.requires_grad_(False)

    def train(self, mode: bool = True) -> "HeadOnly":
        """Leave the backbone, whose batch norm keeps its statistics, in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits; there is no gradient of the backbone to keep."""
        with torch.no_grad():
            features = self.backbone(x)
        logits: Tensor = self.head(features)
        return logits


# Data.


class Images(Dataset[tuple[Tensor, int]]):
    """The images of Fashion-MNIST that kdtune embeds, as bytes."""

    def __init__(self, split: str) -> None:
        with np.load(FASHION) as arrays:
            self.images = torch.from_numpy(arrays[f"{split}_images"]).unsqueeze(1)
            self.labels = arrays[f"{split}_labels"].tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.images[i], self.labels[i]


class Photos(Images):
    """A folder of photographs, decoded whenever they are read, as torchvision's ImageFolder."""

    def __init__(self, folder: Path, train: bool) -> None:
        from torchvision.datasets import ImageFolder
        from torchvision.transforms import v2

        crop = [v2.RandomResizedCrop(SIDE, antialias=True), v2.RandomHorizontalFlip()]
        whole = [v2.Resize(round(SIDE / 0.875), antialias=True), v2.CenterCrop(SIDE)]
        change = v2.Compose([v2.PILToTensor(), *(crop if train else whole)])
        self.folder = ImageFolder(str(folder), change)

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image, label = self.folder[i]
        return image, label


def collate(examples: Sequence[Sequence[Any]], train: bool) -> Iterator[Any]:
    """Yield the normalised images and the labels of a batch, and torchdistill's third part."""
    images = torch.stack([example[0] for example in examples])
    grey = images.shape[1] == 1
    if grey and train:
        images = padded_crop(images)
    yield (images / 255 - (0.286 if grey else 0.5)) / (0.353 if grey else 0.5)
    yield torch.tensor([example[1] for example in examples])
    if len(examples[0]) > 2:
        yield {}


def collate_train(examples: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """Return an augmented batch."""
    return tuple(collate(examples, True))


def collate_val(examples: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """Return a batch."""
    return tuple(collate(examples, False))


def padded_crop(images: Tensor, pad: int = 3) -> Tensor:
    """Return images, each padded, cropped to its size at a random place, and perhaps flipped."""
    count, side = len(images), torch.arange(images.shape[-1])
    top, left = torch.randint(2 * pad + 1, (2, count, 1)) + side
    padded = F.pad(images, [pad] * 4).squeeze(1)
    crops = padded[torch.arange(count)[:, None, None], top[:, :, None], left[:, None, :]]
    flip = torch.rand(count) < 0.5
    crops[flip] = crops[flip].flip(-1)
    return crops.unsqueeze(1)
