"""Studies that are run in this process, without Ray: two students each, in seconds."""

from dataclasses import replace
from pathlib import Path

from photos import photo
from PIL import Image

import kdtune
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.data.sources import StudyData
from kdtune.raytune.distillation import prepare
from kdtune.raytune.folder import finish, write_study
from kdtune.results.results import Results
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import Records
from kdtune.streams.views import Resources
from kdtune.training.recipe import resolve_study
from kdtune.training.run import distill

PLAIN = Run(
    teacher_weights="none",
    teacher_epochs=0,
    student_weights="none",
    alpha=1.0,
    optimizer="adamw",
    lr=0.01,
    epochs=1,
    batch_size=16,
)
FASHION = replace(
    PLAIN, train_images=100, teacher="factories:tiny_teacher", student="factories:tiny_student"
)
TEXT = replace(
    PLAIN, data="own_data:text", teacher="own_data:encoder", student="own_data:small_reader"
)


def of_photos(folder: Path, student: str) -> Run:
    """Return a run on photographs of all kinds: grey, palette, transparent, rotated, 16 bits."""
    for split, count in (("train", 4), ("val", 6), ("test", 5)):
        for number, name in enumerate(("ant", "bee")):
            for k in range(count):
                seed = 100 * number + 10 * count + k
                image = photo(seed, 50 + 9 * k, 70 - 5 * k).permute(1, 2, 0).numpy()
                _save(Image.fromarray(image), folder / split / name, k)
    return replace(
        PLAIN,
        **{"data": str(folder), "image_size": 48, "teacher": student, "student": student},
        batch_norm="eval",
    )


def _save(image: Image.Image, folder: Path, kind: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    match kind:
        case 0:
            image.save(folder / "plain.png")
        case 1:
            image.convert("L").save(folder / "grey.jpg")
        case 2:
            image.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
        case 3:
            image.putalpha(100)
            image.save(folder / "transparent.png")
        case 4:
            exif = Image.Exif()
            exif[0x0112] = 6  # orientation: rotated by 90 degrees
            image.save(folder / "rotated.jpg", exif=exif)
        case _:
            grey = image.convert("L").point(lambda value: 257 * value, "I")
            grey.convert("I;16").save(folder / "deep.png")


def run_here(run: Run, out: Path, name: str, repeats: int = 2, **own: object) -> Results:
    """Run a study to its end and return its results."""
    study = Study(name=name, out=str(out), run=run, repeats=repeats, **own)  # type: ignore[arg-type]
    data = StudyData(run)
    study = resolve_study(study, data)
    study.folder.mkdir(parents=True)
    write_study(study, {}, prepare(study, study, None, data).provenance)
    with Records(study.folder) as records:
        for config in study.runs():
            for repeat in range(repeats):
                one = replace(config, repeat=repeat)
                records.start(one, 0)
                place = study.folder / "trials" / one.trial_id
                for epoch in distill(one, study.folder / "teacher", Resources(), place, data=data):
                    records.epoch(one, 0, vars(epoch))
                records.end(one, 0, "completed")
    finish(study.folder, Mirror(study))
    return kdtune.load(study.folder)
