"""Where a study's students are: the study's folder, its students/, one file, an object store."""

from dataclasses import dataclass
from pathlib import Path

from kdtune.config.errors import InputError
from kdtune.config.files import PROVENANCE, STUDENTS, STUDENTS_CONFIG, STUDY, student_file
from kdtune.config.student_record import StudentsRecord, read_students_record
from kdtune.storage.fetch import fetch_file, fetch_students
from kdtune.storage.records import read_lines, read_provenance, read_study

SUFFIX = ".safetensors"
WANTED = (
    f"a study's folder, its {STUDENTS}/, an s3:// place of a study or a file in {STUDENTS}/ "
    f"({student_file(0)})"
)


@dataclass(frozen=True)
class FoundStudents:
    """A folder of students, and what is known of them."""

    folder: Path
    """Holds students.json and files of weights; of an object store only those that were asked
    for."""
    record: StudentsRecord
    repeats: tuple[int, ...]
    """Repeats that have a file of weights, ascending."""
    named: int | None = None
    """The repeat whose file the user named."""
    classes: tuple[str, ...] = ()
    """Names of the classes, if the record or the study around it has them."""
    uri: str | None = None
    """The study on an object store, if it is on one."""

    def file(self, repeat: int) -> Path:
        """Return the file of weights of a repeat; one on an object store is downloaded."""
        file = self.folder / student_file(repeat)
        if self.uri is not None and not file.exists():
            fetch_file(self.uri, f"{STUDENTS}/{file.name}", self.folder.parent)
        return file


def find_students(place: str | Path) -> FoundStudents:
    """Return the students of a place.

    Args:
        place: A study's folder, an s3:// place of a study, a folder students/ or a file in it.

    Raises:
        InputError: There is no such place, or it has no students.
    """
    if "://" in str(place):
        uri = str(place).rstrip("/").removesuffix(f"/{STUDENTS}")
        folder, names = fetch_students(uri)
        return _read(folder, [Path(name).name for name in names], uri=uri)
    path = Path(place).expanduser()
    if path.is_file():
        return _of_file(path)
    if not path.is_dir():
        raise InputError(f"STUDENT must be {WANTED}, but {path} does not exist")
    if (path / STUDY).is_file():
        if not (path / STUDENTS).is_dir():
            raise InputError(_why_none(path))
        path = path / STUDENTS
    elif not (path / STUDENTS_CONFIG).is_file() and not list(path.glob(f"*{SUFFIX}")):
        raise InputError(f"STUDENT must be {WANTED}, but {path} holds neither")
    return _read(path, [file.name for file in path.iterdir()])


def _of_file(file: Path) -> FoundStudents:
    repeat = _repeat(file.name)
    if repeat is None:
        raise InputError(f"STUDENT must be {WANTED}, but got the file {file}")
    found = _read(file.parent, [one.name for one in file.parent.iterdir()])
    return FoundStudents(found.folder, found.record, found.repeats, repeat, found.classes)


def _read(folder: Path, names: list[str], uri: str | None = None) -> FoundStudents:
    record = read_students_record(folder)
    repeats = sorted(repeat for name in names if (repeat := _repeat(name)) is not None)
    if not repeats:
        raise InputError(
            f"a folder of students must hold files {student_file(0)}, ..., but {uri or folder} "
            f"holds none; copy the whole folder {STUDENTS}/ of the study"
        )
    classes = record.classes
    if not classes and (folder.parent / PROVENANCE).is_file() and folder.name == STUDENTS:
        classes = tuple(map(str, read_provenance(folder.parent).get("classes", ())))
    return FoundStudents(folder, record, tuple(repeats), None, classes, uri)


def _repeat(name: str) -> int | None:
    """Return the repeat of a file of weights in students/; None for other files."""
    number = name.removeprefix("repeat-").removesuffix(SUFFIX)
    is_one = number.isdecimal() and student_file(int(number)) == name
    return int(number) if is_one else None


def _why_none(study: Path) -> str:
    """Return why a study has no students, and what would do."""
    saved = read_study(study)
    if not saved.task.is_distillation:
        return (
            f"{study} has no students, since its trials are a training function of your own; load "
            f"what that function has saved"
        )
    ended = [line for line in read_lines(study)[0] if line["kind"] == "end"]
    if not any(line["status"] == "completed" for line in ended):
        return f"{study} has no students yet, since no run has completed; run the study's command"
    if saved.keep == "none":
        return (
            f"{study} has no students, since the study was run with --keep none; run it again with "
            f"--keep best and another --name"
        )
    return (
        f"{study} has no folder {STUDENTS}/, which is written when the study is complete; repeat "
        f"the study's command"
    )
