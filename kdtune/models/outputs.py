"""Teachers that are only a table of outputs: their logits on the examples of a data set."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from kdtune.config.errors import first_line
from kdtune.models.preprocessing import Preprocessing

METADATA = "kdtune"
"""Entry of a file's metadata with its `OutputsRecord`, as JSON."""


@dataclass(frozen=True)
class OutputsRecord:
    """Record that kdtune keeps in a file of outputs which it has written."""

    teacher: str
    """Name of the network."""
    data: str
    """Fingerprint of the data."""
    has_cut_val: bool
    """Whether val was cut from train in these data."""
    views: dict[str, Any]
    """`image_size`, `orientation`, `eval_crop` and `eval_interpolation` of the images that the
    network saw; {} for data that are no images."""

    @property
    def text(self) -> str:
        """The record as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def of(text: str | bytes | None) -> "OutputsRecord | None":
        """Return the record of `text`; None if there is none, or another version's.

        Raises:
            ValueError: It is damaged.
        """
        try:
            values = json.loads(text or "null")
            record = OutputsRecord(**values)
            record.preprocessing_of_views  # noqa: B018 - checks the values
        except TypeError:  # null, or other fields
            return None
        except (AttributeError, OverflowError, RecursionError, ValueError) as error:
            raise ValueError(f"its entry {METADATA} is damaged: {first_line(error, 120)}") from None
        texts = all(isinstance(text, str) for text in (record.teacher, record.data))
        if not texts or not isinstance(record.has_cut_val, bool):
            raise ValueError(f"its entry {METADATA} is damaged: a value has another type")
        return record

    @property
    def preprocessing_of_views(self) -> Preprocessing:
        """The views in the form of a preprocessing; raises InputError for impossible values."""
        size, crop = self.views.get("image_size"), self.views.get("eval_crop")
        interpolation = self.views.get("eval_interpolation", "bilinear")
        return Preprocessing(size=size, crop=crop, interpolation=interpolation)


@dataclass(frozen=True, eq=False)
class OutputTeacher:
    """A teacher without a network: its logits on the examples of a data set."""

    name: str
    """Of the teacher in its study: that of the file, unless this was renamed."""
    digest: str
    """16 hex digits that change with the numbers of the file."""
    logits: Mapping[str, Tensor] = field(repr=False)
    """Of each split, float32 [N, K] in the split's own order; NaN for examples of train that the
    file lacks."""
    record: OutputsRecord | None = None
    """What the file says about itself."""

    is_normalized = True
    """It has no input that a wrong preprocessing could spoil."""

    @property
    def preprocessing(self) -> Preprocessing:
        """The views that the outputs were made of, as far as they are known."""
        return Preprocessing() if self.record is None else self.record.preprocessing_of_views

    def fingerprint(self) -> str:
        """Return the digest, as `Classifier.fingerprint` returns a network's."""
        return self.digest

    def place(self, device: torch.device, precision: str) -> "OutputTeacher":
        """Return the teacher, which stays on the CPU: its logits are put into batches there."""
        return self
