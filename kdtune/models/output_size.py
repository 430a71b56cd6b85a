"""Size of a file of outputs in memory, before it is read: a small file may unpack to any size."""

import os
import zipfile
from collections.abc import Collection
from pathlib import Path

import pyarrow.parquet as pq


def check_npz_size(file: Path) -> None:
    """Raise ValueError if the arrays of a .npz file do not fit into the memory."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            _check(sum(part.file_size for part in archive.infolist()))


def check_parquet_size(file: Path, columns: Collection[str]) -> None:
    """Raise ValueError if columns of a .parquet file do not fit into the memory.

    What counts is the number of values: encoded, one value may stand for millions.
    """
    metadata, count = pq.read_metadata(file), 0
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            if chunk.path_in_schema.partition(".")[0] in columns:
                count += chunk.num_values
    _check(8 * count)


def _check(nbytes: int) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if nbytes > memory // 2:
        raise ValueError(
            f"it unpacks to {nbytes / 1e9:,.1f} GB, more than half of the memory, which has "
            f"{memory / 1e9:,.1f} GB"
        )
