"""Section of the report on the images on which distilled and plain students differ most."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kdtune.config.names import is_named_data
from kdtune.config.text import printable
from kdtune.reporting.page import Table
from kdtune.results.arms import Arms
from kdtune.results.shown_images import (
    count_differences,
    image_type,
    most_different,
    read_thumbnail,
)
from kdtune.results.study_results import Results

MAX_BYTES = 20_000
"""Of a thumbnail; a larger file in the folder is not one of kdtune's."""


@dataclass(frozen=True)
class ShownImage:
    """An image with what both arms make of it."""

    source: str
    """data: URI of its thumbnail; "" without."""
    name: str
    """Its file, or its index."""
    label: str
    lines: tuple[str, str]
    """What distilled and plain students make of it."""


@dataclass(frozen=True)
class Examples:
    """The section on single images."""

    note: str
    groups: dict[str, list[ShownImage]]
    """Images with thumbnails by heading."""
    table: Table | None
    """The same images as a table, if there are no thumbnails."""


def examples(results: Results, arms: Mapping[str, Arms]) -> Examples | None:
    """Return the val images on which both arms differ most; None if there are none."""
    if (own := arms.get("val")) is None or not len(table := most_different(own)):
        return None
    pictures = {int(i): _thumbnail(results, own, int(i)) for i in table["image"]}
    more, same, fewer = count_differences(own)
    labels = [results.label(config) for config in own.configs]
    note = (
        f"The val images on which students of {labels[0]} (distilled) and of {labels[1]} "
        f"(baseline) differ most, of {len(own.repeats)} students each. More distilled students are "
        f"correct on {more:,} of {len(own.label):,} images, fewer on {fewer:,}, as many on "
        f"{same:,}. Beside the number of correct students stands the most frequent wrong class, "
        f"with its number of students. These are extremes: on new students the differences will be "
        f"smaller."
    )
    if not any(pictures.values()):
        note += " There are no thumbnails: the data are no images, or are no longer there."
        return Examples(note, {}, _as_table(table))
    headings = {
        "More often correct than the baseline": table[table["diff"] > 0],
        "Less often correct than the baseline": table[table["diff"] < 0],
    }
    groups = {
        heading: [_shown(row, pictures[int(row["image"])]) for _, row in rows.iterrows()]
        for heading, rows in headings.items()
        if len(rows)
    }
    return Examples(note, groups, None)


def _thumbnail(results: Results, arms: Arms, image: int) -> bytes:
    data = results.study.run.data
    root = None if is_named_data(data) else Path(data).expanduser()
    orientation = results.study.run.orientation
    content = read_thumbnail(
        results.folder, root, arms.split, image, arms.files[image], orientation
    )
    return content if len(content) <= MAX_BYTES else b""


def _shown(row: pd.Series, content: bytes) -> ShownImage:
    source = ""
    if content:
        text = base64.b64encode(content).decode()
        source = f"data:image/{image_type(content)};base64,{text}"
    lines = (_line("distilled", row), _line("baseline", row))
    return ShownImage(source, _name(row), str(row["label"]), lines)


def _line(arm: str, row: pd.Series) -> str:
    wrong = f"; {row[f'wrong_{arm}']}" if row[f"wrong_{arm}"] else ""
    return f"{arm} {row[arm]} of {row['n']}{wrong}"


def _name(row: pd.Series) -> str:
    return printable(str(row["file"])) if row["file"] is not None else f"val image {row['image']}"


def _as_table(table: pd.DataFrame) -> Table:
    head = ["image", "label", "distilled", "wrong class", "baseline", "wrong class"]
    rows = [
        [
            *(_name(row), str(row["label"])),
            *(f"{row.distilled} of {row.n}", row.wrong_distilled or "-"),
            *(f"{row.baseline} of {row.n}", row.wrong_baseline or "-"),
        ]
        for _, row in table.iterrows()
    ]
    return Table(head, rows)
