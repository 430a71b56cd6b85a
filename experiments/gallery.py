"""Pages of real studies, and docs/gallery.md about them, from small copies of their folders.

    python experiments/gallery.py --pack runs/fashion   # copies what a report reads to docs/gallery
    python experiments/gallery.py                       # writes pages, pictures and docs/gallery.md

A copy has no weights, checkpoints and caches, six digits of what an epoch recorded and two decimals
of a probability. Settings, command and what the conclusion is computed from are whole. Paths in the
repository and in the working folder become relative; a copy that names another folder or this
machine is refused. A folder of docs/gallery with several studies gets one page that compares them.
Pictures need Chromium.
"""

import argparse
import json
import lzma
import math
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

import kdtune
from kdtune.config.files import EPOCHS, PREDICTIONS, PROVENANCE, STUDY, TEACHER, THUMBNAILS
from kdtune.reporting.build import write, write_comparison
from kdtune.results.several import conclusions, load_several, split_conclusion
from kdtune.storage.records import read_provenance

ROOT = Path(__file__).parents[1]
STUDIES, BUILD, PAGE = ROOT / "docs/gallery", ROOT / "build/gallery", ROOT / "docs/gallery.md"
RECORDS = "epochs.jsonl.xz"
ORDER = ("fashion", "hymenoptera-lite", "text", "label-curve", "rivals")
WIDTH, HEIGHT = 1280, 640
README_PICTURE = {"fashion": ROOT / "docs/first_screen.png"}


# -- a small copy ------------------------------------------------------------------------------


def pack(study: Path, target: Path) -> None:
    """Copy what a report reads."""
    shutil.rmtree(target, ignore_errors=True)
    (target / TEACHER).mkdir(parents=True)
    results = kdtune.load(study)
    texts = [study / STUDY, study / PROVENANCE, study / "costs.json"]
    for file in [f for f in texts if f.exists()] + sorted((study / TEACHER).rglob("*.json")):
        copy = target / file.relative_to(study)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(masked(file.read_text("utf-8")), "utf-8")
    if (study / THUMBNAILS).is_dir():
        shutil.copytree(study / THUMBNAILS, target / THUMBNAILS)
    nodes: dict[str, str] = {}
    parts = sorted((study / EPOCHS).glob("*.jsonl"))
    lines = [json.loads(line) for part in parts for line in part.read_text("utf-8").splitlines()]
    text = "\n".join(json.dumps(short(line, nodes)) for line in lines)
    (target / RECORDS).write_bytes(lzma.compress(masked(text + "\n").encode(), preset=9))
    frames = [results.predictions(split) for split in ("val", "test")]
    frame = pd.concat([f for f in frames if len(f)])
    frame = frame.drop(columns=["config_id", "configuration", "repeat", "kl", "logit_diff"])
    for name in ("p_predicted", "p_label"):
        frame[name] = frame[name].astype("float32").round(2)
    # where the label is predicted, p_label is p_predicted; and equal neighbours compress well
    frame["p_label"] = frame.p_label.where(~frame.correct)
    frame.sort_values(["split", "example", "trial_id"]).to_parquet(
        target / PREDICTIONS, index=False, compression="zstd", compression_level=19
    )


def short(line: dict[str, Any], nodes: dict[str, str]) -> dict[str, Any]:
    """Return a record with short numbers and without the name of a machine."""
    if line.get("node"):
        line["node"] = nodes.setdefault(line["node"], f"node{len(nodes) + 1}")
    if line["kind"] != "epoch":
        return line
    values = {n: float(f"{v:.6g}") if isinstance(v, float) else v for n, v in line.items()}
    return values | {"time": round(line["time"])}


def masked(text: str) -> str:
    """Return a text with relative paths; raise ValueError if it names this machine."""
    for folder in (ROOT, Path.cwd()):
        text = text.replace(f"{folder}/", "")
    text = re.sub(r'("system": "\w+)[^"]*', r"\1", text)  # not the build of a kernel
    names = rf"(/(home|root|tmp|work|usr|Users)/|{re.escape(socket.gethostname())}[\s\":.])"
    if found := re.search(rf"[\s\"=@]{names}", text):
        raise ValueError(f"a copy must not name a machine or its folders, but has {found[0]}")
    return text


def unpack(packed: Path, target: Path) -> Path:
    """Make of a copy a folder that kdtune reads; return it."""
    shutil.copytree(packed, target)
    text = lzma.decompress((target / RECORDS).read_bytes()).decode()
    (target / EPOCHS).mkdir()
    (target / EPOCHS / "00000.jsonl").write_text(text, "utf-8")
    frame = pd.read_parquet(target / PREDICTIONS)
    frame["p_label"] = frame.p_label.fillna(frame.p_predicted)
    frame.to_parquet(target / PREDICTIONS, index=False)
    return target


def unpacked(scratch: Path) -> Iterator[tuple[str, list[Path]]]:
    """Yield each name in the gallery with the folders of its studies."""
    names = [path.name for path in STUDIES.iterdir() if path.is_dir()]
    for name in sorted(names, key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), n)):
        files = STUDIES.glob(f"{name}/**/{STUDY}")
        studies = [unpack(f.parent, scratch / f.parent.relative_to(STUDIES)) for f in files]
        yield name, sorted(studies, key=began)


def began(folder: Path) -> float:
    """Return the time of a study's first epoch: of several, the first one is the reference."""
    return float(next(epoch_records(folder))["time"])


def epoch_records(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of epochs, in the order of their writing."""
    lines = (folder / EPOCHS / "00000.jsonl").read_text("utf-8").splitlines()
    yield from (line for line in map(json.loads, lines) if "elapsed" in line)


# -- what is made of it ------------------------------------------------------------------------


def entry(name: str, folders: list[Path]) -> str:
    """Return what docs/gallery.md says of one page."""
    results = [kdtune.load(folder) for folder in folders]
    first = results[0]
    if len(results) > 1:
        texts = conclusions(load_several([str(f) for f in folders]))
        sentences = [split_conclusion(text)[0] for text in texts]
    else:
        sentences = [first.verdict(brief=True), first.best_text(), teacher_sentence(first)]
    seconds = sum(wall_seconds(folder) for folder in folders)
    runs = sum(len(r.trials) for r in results)
    commands = dict.fromkeys(map(command, folders))
    facts = f"{runs} runs in {timedelta(seconds=seconds)} (h:mm:ss), {machine(folders[0])}."
    return "\n\n".join(
        [
            f"## {name}",
            "\n".join(f"    {text}" for text in commands),
            f"[![The first screen of the page of {name}](gallery/{name}.png)](gallery/{name}/)",
            facts,
            *[text.replace("\n", " ") for text in sentences if text],
        ]
    )


def teacher_sentence(results: kdtune.Results) -> str:
    """Return the accuracy of a study's teacher, in words; "" if it has none."""
    epochs = results.epochs
    last = epochs[epochs.split == "val"].groupby("trial_id").teacher_acc.last()
    return f"The teacher's accuracy on val is {100 * last.mean():.1f} %." if len(last) else ""


def wall_seconds(folder: Path) -> int:
    """Return the time from the study's start, with its teacher, to the end of the last run."""
    return math.ceil(max(float(line["elapsed"]) for line in epoch_records(folder)))


def command(folder: Path) -> str:
    """Return the command that ran a study."""
    return shlex.join(read_provenance(folder)["command"])


def machine(folder: Path) -> str:
    """Return what a study ran on."""
    found = read_provenance(folder)["machine"]
    return f"{found['cores']} cores of {found['processor']}"


def markdown() -> str:
    """Return docs/gallery.md."""
    head = (
        "# Gallery\n\nReal studies, each with the command that ran it and what its page says "
        "first. A picture leads to the page on the site, in the repository to the study's records. "
        "`python experiments/gallery.py` makes the pages, the pictures and this text of them."
    )
    with tempfile.TemporaryDirectory() as scratch:
        return "\n\n".join([head, *(entry(*each) for each in unpacked(Path(scratch)))]) + "\n"


def pages(target: Path) -> Iterator[Path]:
    """Write NAME.html for each name of the gallery into a folder; yield their paths."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name, folders in unpacked(Path(scratch)):
            file = target / f"{name}.html"
            if len(folders) > 1:
                write_comparison(load_several([str(f) for f in folders]), file)
            else:
                results = kdtune.load(folders[0])
                page = write(results, results.default_criterion, folders[0])
                shutil.copyfile(page, file)
            yield file


def photograph(page: Path, picture: Path) -> None:
    """Write the first screen of a page as PNG with few colours."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("pictures need Chromium; give --no-pictures")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    flags += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={picture}"]
    subprocess.run([chromium, *flags, page.resolve().as_uri()], check=True, capture_output=True)  # noqa: S603
    with Image.open(picture) as image:
        few = image.convert("RGB").quantize(48, dither=Image.Dither.NONE)
    few.save(picture, optimize=True)


def main() -> None:
    """Copy studies, or write pages, pictures and docs/gallery.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", nargs="+", type=Path, default=[], metavar="STUDY")
    parser.add_argument("--into", default="", help="folder in docs/gallery that is to hold them")
    parser.add_argument("--no-pictures", action="store_true")
    options = parser.parse_args()
    for study in options.pack:
        target = STUDIES / options.into / study.name
        pack(study, target)
        size = sum(file.stat().st_size for file in target.rglob("*"))
        print(f"{target.relative_to(ROOT)}: {size / 1000:.0f} kB")
    if options.pack:
        return
    for page in pages(BUILD):
        print(page.relative_to(ROOT), f"{page.stat().st_size / 1e6:.2f} MB")
        if not options.no_pictures:
            photograph(page, STUDIES / f"{page.stem}.png")
            if target := README_PICTURE.get(page.stem):
                shutil.copyfile(STUDIES / f"{page.stem}.png", target)
    PAGE.write_text(markdown(), "utf-8")


if __name__ == "__main__":
    main()
