"""Write the goldens anew: python tests/goldens/write.py [WORDS OF A GROUP ...].

With words, only the groups whose names have one of them, such as "report".
"""

import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import torch  # noqa: E402 - the paths come first
from collect import GROUPS, prepare  # noqa: E402


def main(asked: list[str]) -> None:
    """Write the files of groups; without words all, and delete what no group has."""
    torch.set_num_threads(1)
    written = set()
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place))
        os.chdir(place)
        for name, group in GROUPS.items():
            if asked and not any(word in name for word in asked):
                continue
            for file, text in group().items():
                (target := HERE / file).parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, "utf-8")
                written.add(target)
    for kind in ("numbers", "words") if not asked else ():
        for file in (HERE / kind).rglob("*.*"):
            if file not in written:
                file.unlink()
    print(f"{len(written)} files written")


if __name__ == "__main__":
    main(sys.argv[1:])
