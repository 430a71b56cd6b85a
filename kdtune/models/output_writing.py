"""Writing a file of a teacher's outputs, .parquet or .npz."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kdtune.config.files import atomic_write
from kdtune.models.outputs import METADATA, OutputsRecord


@dataclass(frozen=True)
class SplitOutputs:
    """Logits of a split that are to be written."""

    logits: NDArray[np.float32]
    """[N, K] in the split's own order."""
    files: tuple[str, ...] | None
    """Of each example; None where examples are no files."""


def write_outputs(
    file: Path,
    splits: Mapping[str, SplitOutputs],
    classes: tuple[str, ...],
    record: OutputsRecord,
) -> None:
    """Write a teacher's logits as .parquet or .npz.

    Args:
        file: Its ending decides the format.
        splits: By name.
        classes: Of the data.
        record: What the logits were made of.
    """
    if file.suffix == ".npz":
        arrays: dict[str, Any] = {"classes": np.array(classes), METADATA: np.array(record.text)}
        for split, own in splits.items():
            arrays[f"{split}_logits"] = own.logits
            ids = np.arange(len(own.logits)) if own.files is None else np.array(own.files)
            arrays[f"{split}_ids"] = ids
        with atomic_write(file) as part, part.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
        return
    table = pa.concat_tables(_tables(splits))
    metadata = {"classes": json.dumps(classes), METADATA: record.text}
    with atomic_write(file) as part:
        # logits seldom repeat, so a dictionary of them is only slow
        columns = ["split", "file"]
        pq.write_table(table.replace_schema_metadata(metadata), part, use_dictionary=columns)


def _tables(splits: Mapping[str, SplitOutputs]) -> Iterator[pa.Table]:
    """Yield the rows of each split."""
    for split, own in splits.items():
        count, width = own.logits.shape
        offsets = pa.array(np.arange(count + 1) * width, type=pa.int32())
        values = pa.array(own.logits.ravel(), type=pa.float32())
        yield pa.table(
            {
                "split": pa.array([split] * count, type=pa.string()),
                "example": pa.array(np.arange(count), type=pa.int64()),
                "file": pa.array(own.files or [None] * count, type=pa.string()),
                "logits": pa.ListArray.from_arrays(offsets, values),
            }
        )
