"""Records: writer, reader, what is refused, escaped and kept."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_folders import write_small_study
from tiny_run import TINY

import kdtune
from kdtune.config.files import atomic_write, not_writable_by_all
from kdtune.config.text import FolderUnusableError, InputError
from kdtune.report import ReportFlags
from kdtune.report import main as report
from kdtune.results.results import Results
from kdtune.storage import folder as module
from kdtune.storage import records as storage_records
from kdtune.storage.folder import FULL, describe_folder_fault, folder_faults_described, lock_study
from kdtune.storage.records import Records, pack_correct, read_lines, unpack_correct


def test_an_incomplete_record_is_named_and_a_trial_without_its_last_epochs(tmp_path: Path) -> None:
    with Records(tmp_path) as records:
        for attempt in range(2):
            records.start(TINY, attempt)
    part = tmp_path / "epochs" / "00000.jsonl"
    whole = part.read_bytes()
    damaged = [whole[:-20], whole + b"[1]\n", whole + b'{"kind": "start"}\n', whole + b"\xff\n"]
    for content in damaged:
        part.write_bytes(content)
        lines, incomplete = read_lines(tmp_path)
        number = content.rstrip(b"\n").count(b"\n") + 1
        assert incomplete == [f"00000.jsonl:{number}"]
        assert [line["attempt"] for line in lines] == list(range(number - 1))
    with Records(tmp_path) as records:  # a new part: nothing is appended to a damaged one
        records.start(TINY, 7)
    assert read_lines(tmp_path)[0][-1]["attempt"] == 7
    assert json.loads((tmp_path / "epochs" / "00001.jsonl").read_text())["attempt"] == 7
    values = {"val": {"n_examples": 2, "loss": 1.0, "ce": 1.0, "acc": 0.5}}
    for epochs, ends in ((TINY.epochs, 1), (TINY.epochs - 1, 0)):
        folder = tmp_path / str(epochs)
        with Records(folder) as records:
            records.start(TINY, 0)
            for epoch in range(epochs):
                records.epoch(TINY, 0, {"number": epoch, "seconds": 1.0, "splits": values})
            records.roll()
            records.end(TINY, 0, "completed")
        kinds = [line["kind"] for line in read_lines(folder)[0]]
        assert kinds == ["start", *["epoch"] * epochs, *["end"] * ends]


def test_correctness_as_text_by_hand() -> None:
    # the bits 10100000 1 (then seven zeros of padding) are the bytes a0 80, in base64 oIA=
    assert pack_correct([True, False, True, False, False, False, False, False, True]) == "oIA="
    of_groups = {"n_examples": 9, "correct": pack_correct(np.array([0.25, 1.75]))}
    values = unpack_correct(of_groups)
    assert values is not None and values.tolist() == [0.25, 1.75]
    for line in (
        {"n_examples": 9},  # an older version
        {"n_examples": 9, "correct": None},
        {"n_examples": 17, "correct": "oIA="},  # three bytes
        {"n_examples": 9, "correct": "not base64"},
        {"correct": "oIA="},
    ):
        assert unpack_correct(line) is None


DATA = Path(__file__).parents[1] / "data"
DEEP = "[" * 100_000
PART = "epochs/00000.jsonl"

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def whole() -> Results:
    return kdtune.load(DATA / "study_schema_3")


@pytest.fixture
def folder(whole: Results, tmp_path: Path) -> Path:
    """A copy of the study without its predictions and teacher."""
    place = tmp_path / whole.folder.name
    (place / "epochs").mkdir(parents=True)
    for name in ("study.json", "provenance.json", PART):
        shutil.copy(whole.folder / name, place / name)
    return place


def spoil(folder: Path, kind: str, change: Change) -> str:
    """Change the first record of a kind, and return its place."""
    file = folder / PART
    lines = [json.loads(text) for text in file.read_text("utf-8").splitlines()]
    number = next(n for n, x in enumerate(lines) if x["kind"] == kind)
    changed = change(lines[number])
    texts = [json.dumps(line) for line in lines]
    texts[number] = changed if isinstance(changed, str) else json.dumps(lines[number])
    file.write_text("\n".join(texts) + "\n", "utf-8")
    return f"00000.jsonl:{number + 1}"


def set_to(**values: Any) -> Change:
    return lambda line: line.update(values)


EPOCHS = {
    "an unknown split": set_to(split="dev"),
    "a trial that is a path": set_to(trial_id="../../../etc"),
    "a list": lambda line: "[1, 2]",
    "deep nesting": lambda line: DEEP,
}
STARTS = {
    "no configuration": lambda line: line.pop("config") and None,
    "an unknown phase": set_to(phase="later"),
}
ENDS = {"an unknown status": set_to(status="done"), "no error": lambda line: line.pop("error")}
RECORDS = [("epoch", EPOCHS), ("start", STARTS), ("end", ENDS)]
CASES = [
    pytest.param(kind, change, id=f"{kind}: {name}")
    for kind, changes in RECORDS
    for name, change in changes.items()
]


@pytest.mark.parametrize(("kind", "change"), CASES)
def test_a_wrong_record_is_skipped(whole: Results, folder: Path, kind: str, change: Change) -> None:
    """Of a trial without a start nothing is read, so that the plan runs it again."""
    lines, _ = read_lines(folder, whole.study)
    wrong = next(line for line in lines if line["kind"] == kind)
    place = spoil(folder, kind, change)
    without = [line for line in lines if line is not wrong]
    if kind == "start":
        without = [line for line in lines if line.get("trial_id") != wrong["trial_id"]]
    assert read_lines(folder, whole.study) == (without, [place])


def test_the_tables_lack_what_was_skipped_and_say_so(whole: Results, folder: Path) -> None:
    place = spoil(folder, "epoch", set_to(split="dev"))
    results = kdtune.load(folder)
    assert f"unreadable record skipped: {place}" in results.warnings
    assert len(results.frames.epochs) == len(whole.frames.epochs) - 1
    assert results.text() and "nan" not in results.verdict()
    ended = spoil(folder, "end", set_to(status="done"))
    results = kdtune.load(folder)
    assert results.frames.incomplete == [place, ended]
    assert list(results.trials.status).count("truncated") == 1


def test_texts_of_records_are_escaped(folder: Path) -> None:
    spoil(folder, "end", set_to(status="failed", error="\x1b]0;owned\x07\u202e", node="a\nb"))
    trials = kdtune.load(folder).trials
    (failed,) = trials[trials.status == "failed"].itertuples()
    assert failed.error == r"\x1b]0;owned\x07\u202e" and failed.node == r"a\nb"


STUDIES = {
    "a list": b"[]",
    "no space": b'{"schema": 4, "run": {}, "fingerprints": {}}',
    "a space of numbers": b'{"schema": 4, "run": {}, "space": {"alpha": 1}, "fingerprints": {}}',
    "an unknown field": b'{"schema": 4, "space": {}, "run": {}, "fingerprints": {}, "speed": 1}',
    "a name that is a path": b'{"schema": 4, "space": {}, "run": {}, "name": ".."}',
}


@pytest.mark.parametrize("text", STUDIES.values(), ids=STUDIES)
def test_a_study_file_that_is_none_is_one_sentence(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_bytes(text)
    with pytest.raises(InputError, match=r"study\.json is not a study") as error:
        storage_records.read_study(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


PROVENANCES = {
    "a list": (b"[]", "an object"),
    "deep nesting": (DEEP.encode(), "Invalid JSON"),
}


@pytest.mark.parametrize(("text", "fault"), PROVENANCES.values(), ids=PROVENANCES)
def test_a_damaged_provenance_is_left_out_and_said(text: bytes, fault: str, folder: Path) -> None:
    (folder / "provenance.json").write_bytes(text)
    faults: list[str] = []
    assert storage_records.read_provenance(folder, faults) == {}
    (sentence,) = faults
    assert sentence.startswith(f"provenance.json is damaged ({fault}")
    if fault == "an object":
        assert sentence in kdtune.load(folder).warnings


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's folder, with a temporary folder beside it."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    folder = tmp_path / "runs" / "s"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> dict[Path, int]:
    """Folders that take no new file, with the number of the error: root may write anywhere."""
    numbers: dict[Path, int] = {}
    make = tempfile.TemporaryFile

    def refuse(dir: Path) -> object:
        if dir in numbers:
            raise OSError(numbers[dir], os.strerror(numbers[dir]))
        return make(dir=dir)

    monkeypatch.setattr(module.tempfile, "TemporaryFile", refuse)
    return numbers


def error(number: int, file: Path | None = None) -> OSError:
    return OSError(number, os.strerror(number), *([] if file is None else [str(file)]))


def sentence(place: Path, number: int) -> str:
    return f"{place} cannot be used any more ({os.strerror(number)}"


def in_driver(raised: Exception, study: Path) -> str | None:
    return describe_folder_fault(raised, study, in_driver=True)


@pytest.mark.parametrize("number", (errno.EROFS, errno.ENOENT))
def test_a_folder_that_takes_no_file(number: int, study: Path, refused: dict[Path, int]) -> None:
    """Errors of other files, as of the user's data or training function, are those of the run.

    torch, Ray and safetensors raise errors of their own in place of the system's.
    """
    file, data = study / "trials" / "t" / "x", study.parent / "data" / "1.png"
    of_torch, of_ray = RuntimeError("unexpected pos 576 vs 534"), RuntimeError("a task")
    of_torch.__context__ = of_ray.cause = error(number)  # type: ignore[attr-defined]
    own = (error(number), of_torch, of_ray, RuntimeError(f"I/O error: ... (os error {number})"))
    for raised in (*own, error(number, data), error(number, file.parent / "files" / "a")):
        assert describe_folder_fault(raised, study) is None
    for raised in (error(number), error(number, data)):
        assert in_driver(raised, study) is None
    refused[study] = number
    for raised in (*own, error(number, file)):
        for described in (describe_folder_fault(raised, study), in_driver(raised, study)):
            assert described is not None and described.startswith(f"{sentence(study, number)}); ")
            assert "run the same command again to resume" in described


def test_a_study_that_is_gone(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that was named by a relative path."""
    monkeypatch.chdir(study.parents[1])
    study.rmdir()
    for raised in (error(errno.ENOENT, study / "trials" / "x"), error(errno.EIO)):
        for place in (study, Path("runs/s")):
            described = describe_folder_fault(raised, place)
            assert described is not None and described.startswith(sentence(study, errno.ENOENT))


def test_a_full_disk_is_kdtunes_unless_the_error_names_another(study: Path, tmp_path: Path) -> None:
    of_ray = tmp_path / "tmp" / "kdtune-1" / "ray" / "x"
    for number in FULL:
        for raised, place in ((error(number), study), (error(number, of_ray), tmp_path / "tmp")):
            described = describe_folder_fault(raised, study)
            assert described is not None and described.startswith(sentence(place, number))
            assert "MB are free" in described
        for mine in (tmp_path / "x", tmp_path / "tmp" / "x"):
            assert describe_folder_fault(error(number, mine), study) is None
            described = in_driver(error(number, mine), study)  # which runs no function of users
            assert described is not None and described.startswith(sentence(mine, number))
    inside = error(errno.ENOSPC, study / "trials" / "t" / "checkpoint.pt")
    assert describe_folder_fault(inside, study) is not None  # a part that was deleted


def test_an_error_of_a_folder_stands_for_its_effect(study: Path, refused: dict[Path, int]) -> None:
    with pytest.raises(RuntimeError, match="a bug"), folder_faults_described(study):
        raise RuntimeError("a bug")
    refused[study] = errno.EROFS
    read_only = pytest.raises(FolderUnusableError, match="Read-only")
    with read_only as raised, folder_faults_described(study):
        raise RuntimeError("of torch") from error(errno.EROFS, study / "teacher" / "x")
    assert raised.value.exit_code == 1
    of_input = pytest.raises(InputError, match="the image")
    with of_input, folder_faults_described(study, in_driver=True):
        raise InputError("the image 1.png cannot be read") from error(errno.EIO)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_study(tmp_path_factory.mktemp("runs") / "small").folder


@pytest.fixture
def copied(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "small"))


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A folder that must stay as it is."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "file").write_text("precious")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_text() == "precious"


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    assert os.umask(before) == 0  # restored


@pytest.mark.usefixtures("one_figure")
def test_a_report_replaces_links_and_nothing_of_it_is_every_users_to_write(
    copied: Path, victim: Path, tmp_path: Path, no_umask: None
) -> None:
    """The study itself may be reached through a link."""
    link, new, figures = tmp_path / "link", tmp_path / "new", copied / "figures"
    link.symlink_to(copied)
    (copied / "data.csv").symlink_to(tmp_path / "elsewhere")  # the user's own, not written
    for name in ("report.html", "figures/loss.svg"):
        (copied / name).parent.mkdir(exist_ok=True, mode=0o755)
        (copied / name).symlink_to(victim / "file")
    with not_writable_by_all():
        assert report(ReportFlags(runs=(str(link),))) == 0
        with lock_study(new):
            (new / "trials").mkdir()
    with atomic_write(copied / "alone") as part:
        part.write_text("")
    assert "<html" in (copied / "report.html").read_text()
    assert [path.name for path in copied.rglob("*") if path.is_symlink()] == ["data.csv"]
    assert not list(copied.rglob("*.part"))
    made = [copied / "report.html", copied / "alone", new, *figures.rglob("*"), *new.iterdir()]
    assert {path for path in made if path.stat().st_mode & 0o002} == set()
    assert (copied / "report.html").stat().st_mode & 0o777 == 0o664  # the rest is the umask's
    assert link.is_symlink() and kdtune.load(link).status == kdtune.load(copied).status


def test_a_file_is_written_aside_under_a_name_that_nobody_foresees(tmp_path: Path) -> None:
    names = set()
    for _ in range(3):
        with atomic_write(tmp_path / "file") as part:
            names.add(part.name)
            assert part.parent == tmp_path
            part.write_text("new")
    assert len(names) == 3 and not any(str(os.getpid()) == n.split(".")[1] for n in names)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
