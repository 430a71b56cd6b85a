"""Random photographs as image files, for tests of folders of images."""

import pandas as pd
import torch
from PIL import Image


def photo(seed, height=60, width=80):
    """Return a smooth random picture, uint8 [3, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (fine[0].clamp(0, 1) * 255).to(torch.uint8)


def save_photos(root, count):
    """Write train/ and val/ with so many photographs each of two classes, ant and bee."""
    for i, split in enumerate(("train", "val")):
        for k, name in enumerate(("ant", "bee")):
            for j in range(count):
                save(photo(10 * i + 4 * k + j), root / split / name / f"{j}.png")


def save(image, file, grey=False):
    """Write a picture, uint8 [3, H, W], in the format that the file's suffix names."""
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    (picture.convert("L") if grey else picture).save(file)


def write_table(root, **changes):
    """Write a table of the folder's images, of val before train; with other values in row 3."""
    files = sorted(root.rglob("*.png"), reverse=True)
    table = pd.DataFrame({"path": [file.relative_to(root).as_posix() for file in files]})
    table[["split", "label"]] = [file.parts[-3:-1] for file in files]
    table["group"] = [file.stem for file in files]
    for column, value in changes.items():
        table.loc[2, column] = value
    table.to_csv(root / "t.csv", index=False)
    return table
