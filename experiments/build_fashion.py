"""Build the embedded data set: a stratified subset of Fashion-MNIST, kdtune/assets/fashion.npz.

    apt-get install dataset-fashion-mnist
    python experiments/build_fashion.py

train (2,000) and val (500) are drawn from the original's 60,000 training images, test (1,000)
from its 10,000 test images, each with equally many images of all ten classes.
"""

import gzip
import struct
from pathlib import Path

import numpy as np

SOURCE = Path("/usr/share/datasets/fashion-mnist")
TARGET = Path(__file__).parent.parent / "kdtune" / "assets" / "fashion.npz"
CLASSES = (
    *("T-shirt", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
SIZES = {"train": 2000, "val": 500, "test": 1000}


def read_idx(path: Path) -> np.ndarray:
    """Read the array of an idx file: two zero bytes, a type (8: uint8), rank, shape, data."""
    data = gzip.decompress(path.read_bytes())
    _, kind, rank = struct.unpack(">HBB", data[:4])
    if kind != 8:
        raise ValueError(f"{path} does not hold bytes")
    shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def draw(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Draw indices of per_class images of every class, shuffled."""
    of_class = [np.flatnonzero(labels == k) for k in range(len(CLASSES))]
    return rng.permutation(
        np.concatenate([rng.choice(i, per_class, replace=False) for i in of_class])
    )


def main() -> None:
    """Draw the three splits and write them."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {"classes": np.array(CLASSES)}
    used = {"train": np.array([], int), "t10k": np.array([], int)}
    for split, size in SIZES.items():
        part = "t10k" if split == "test" else "train"
        images = read_idx(SOURCE / f"{part}-images-idx3-ubyte.gz")
        labels = read_idx(SOURCE / f"{part}-labels-idx1-ubyte.gz")
        free = np.setdiff1d(np.arange(len(labels)), used[part])
        index = free[draw(labels[free], size // len(CLASSES), rng)]
        used[part] = np.concatenate([used[part], index])
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[index], labels[index]
    np.savez_compressed(TARGET, **arrays)  # type: ignore[arg-type]
    print(f"{TARGET.name}: {TARGET.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
