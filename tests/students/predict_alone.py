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


def of_fashion(split: str) -> torch.Tensor:
    content = (resources.files("kdtune") / "assets" / "fashion.npz").read_bytes()
    return torch.from_numpy(np.load(io.BytesIO(content))[f"{split}_images"])[:, None]


def of_files(student: kdtune.TrainedStudent, folder: Path, split: str) -> torch.Tensor:
    files = sorted((folder / split).glob("*/*"))
    return torch.stack([student.view(file) for file in files])


def main(kind: str, place: str, data: str, repeat: int) -> dict[str, list[list[float]]]:
    student = kdtune.load_student(place, repeat)
    found = {}
    for split in ("val", "test"):
        if kind == "photos":
            batch = of_files(student, Path(data), split)
        elif kind == "fashion":
            batch = of_fashion(split)
        else:
            batch = torch.tensor(own_data.text()[split][0])
        with torch.inference_mode():
            found[split] = torch.cat([student(part) for part in batch.split(64)]).tolist()
    return found


if __name__ == "__main__":
    words = sys.argv[1:]
    torch.set_num_threads(1)
    cases = [words[i : i + 4] for i in range(0, len(words), 4)]
    print(json.dumps([main(kind, place, data, int(r)) for kind, place, data, r in cases]))
    assert "ray" not in sys.modules and "pandas" not in sys.modules
