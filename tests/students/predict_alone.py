"""Predict val and test with students that were copied out of their studies, and print them.

The images come from their files or arrays, not from kdtune's views. Run as a process:
python predict_alone.py kind students-folder data-folder repeat ...
"""

import io
import json
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import own_data
import torch

import kdtune


def examples(student: kdtune.TrainedStudent, kind: str, data: str, split: str) -> torch.Tensor:
    """Return all examples of a split, as a reader without kdtune has them."""
    if kind == "photos":
        return torch.stack([student.view(file) for file in sorted(Path(data, split).glob("*/*"))])
    if kind == "fashion":
        content = (resources.files("kdtune") / "assets" / "fashion.npz").read_bytes()
        return torch.from_numpy(np.load(io.BytesIO(content))[f"{split}_images"])[:, None]
    return torch.tensor(own_data.text()[split][0])


def main(kind: str, place: str, data: str, repeat: int) -> dict[str, list[list[float]]]:
    student, found = kdtune.load_student(place, repeat), {}
    with torch.inference_mode():
        for split in ("val", "test"):
            parts = examples(student, kind, data, split).split(64)
            found[split] = torch.cat([student(part) for part in parts]).tolist()
    return found


if __name__ == "__main__":
    words = sys.argv[1:]
    torch.set_num_threads(1)
    cases = [words[i : i + 4] for i in range(0, len(words), 4)]
    print(json.dumps([main(kind, place, data, int(r)) for kind, place, data, r in cases]))
    assert "ray" not in sys.modules and "pandas" not in sys.modules
