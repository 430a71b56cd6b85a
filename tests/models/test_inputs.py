"""Inputs that are no images reach a network as they are; images are scaled."""

import pytest
import torch
from torch import Tensor, nn

from kdtune.models.checks import probe
from kdtune.models.classifier import Classifier, Preprocessing

CPU = torch.device("cpu")


class Recording(nn.Module):
    """A network that keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return self.head(x.float().flatten(1).mean(1, keepdim=True))


@pytest.mark.parametrize(
    "views",
    [
        torch.arange(6).view(2, 3),
        torch.rand(2, 3, 8, 8),  # images that are scaled already
        torch.randint(0, 255, (2, 4, 8, 8), dtype=torch.uint8),  # four channels
        torch.rand(2, 3, 4, 8, 8, dtype=torch.float64),
    ],
    ids=lambda x: f"{list(x.shape)} {x.dtype}",
)
def test_other_tensors_are_given_as_they_are(views: Tensor) -> None:
    net = Recording()
    model = Classifier("own", net, Preprocessing(size=4, channels=3, mean=(0.5,), std=(0.5,)))
    model.place(CPU, "fp32")(views)
    assert net.seen.dtype == views.dtype and torch.equal(net.seen, views)


def test_images_are_scaled() -> None:
    net, views = Recording(), torch.randint(0, 255, (2, 3, 8, 8), dtype=torch.uint8)
    Classifier("own", net, Preprocessing(mean=(0.5,), std=(0.5,))).place(CPU, "fp32")(views)
    assert torch.allclose(net.seen, views.double().sub(127.5).div(127.5).float(), atol=1e-6)


def test_three_dimensional_convolutions_can_be_placed() -> None:
    net = nn.Sequential(nn.Conv3d(1, 2, 2), nn.Flatten(), nn.Linear(2 * 27, 2))
    model = Classifier("video", net, Preprocessing()).place(CPU, "fp32")
    probe(model, torch.rand(2, 1, 4, 4, 4), 2, whole=False)
