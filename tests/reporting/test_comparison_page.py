"""The page that compares studies."""

from pathlib import Path

import pytest
from html_reader import Reader
from study_folders import draw, make

import kdtune.report as report_command
from kdtune.config.text import InputError
from kdtune.report import ReportFlags


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return two studies; the name of one has characters of HTML."""
    folder = tmp_path_factory.mktemp("runs")
    make(folder / "a", draw({0.5: 0.03, 1.0: 0.0}, 4), name="a")
    make(folder / "b", draw({0.5: 0.0, 1.0: 0.0}, 4, seed=1), name="b", level=0.01)
    return str(folder / "a"), str(folder / "b")


def test_one_page_with_tables_and_figures(
    places: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report_command.main(ReportFlags(places)) == 0
    page = Reader((tmp_path / "comparison-a-b.html").read_text())
    assert page.within("h2") == [
        *("Studies", "Warnings", "Best configurations", "Differences"),
        *("Settings that differ", "Conclusion of each study"),
    ]
    assert sum(tag == "svg" for tag, _ in page.tags) == 2
    assert "test accuracy" in page.words and "It is not known whether the data" in page.words
    links = [a for _, a in page.tags if a.get("src") or a.get("href", "").startswith("http")]
    assert links == []  # works offline
    first = (tmp_path / "comparison-a-b.html").read_bytes()
    report_command.main(ReportFlags(places, out="again/x.html"))
    assert (tmp_path / "again" / "x.html").read_bytes() == first


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("{a}/report.html", "must not be the report of one study"),
        ("{a}", "must be a file that ends in .html"),
        ("page.htm", "must be a file that ends in .html"),
        ("s3://bucket/page.html", "must be on this machine"),
    ],
)
def test_files_that_are_refused(places: tuple[str, str], out: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        report_command.main(ReportFlags(places, out=out.format(a=places[0])))
    assert not (Path(places[0]) / "report.html").exists()
