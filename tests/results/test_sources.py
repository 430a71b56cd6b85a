"""Files as tables of results, and the command that reads them."""

import json
from pathlib import Path

import pandas as pd
import pytest

import kdtune.analysis
from kdtune.analysis import TableFlags, is_table
from kdtune.analysis import parse as parse_reading
from kdtune.config.text import InputError
from kdtune.results.sources import read_table, read_tables

SEED_RESULTS = Path(__file__).parents[1] / "data" / "seed_results.csv"
FRAME = pd.DataFrame(
    [
        {"alpha": alpha, "T": t, "seed": seed, "acc": 0.7 + 0.05 * (alpha < 1) + seed**2 / 1000 * t}
        for alpha, t in ((0.5, 4.0), (1.0, 1.0))
        for seed in range(4)
    ]
)
ROLES = ["--by", "alpha", "T", "--repeat", "seed", "--metric", "acc"]


def analyse(*words: object) -> int:
    flags = parse_reading([str(word) for word in words])
    return kdtune.analysis.main(flags)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.csv", {}),
        ("german.csv", {"sep": ";", "decimal": ","}),
        ("semicolon.csv", {"sep": ";"}),
        ("x.tsv", {"sep": "\t"}),
        ("unicode.txt", {"sep": "\t", "encoding": "utf-16"}),
        ("excel.csv", {"sep": ";", "encoding": "utf-8-sig"}),
    ],
)
def test_csv_in_any_usual_form(name: str, options: dict, tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / name, index=False, **options)
    pd.testing.assert_frame_equal(read_table(str(tmp_path / name)), FRAME)


def test_parquet_is_told_by_its_content(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "results.csv")
    pd.testing.assert_frame_equal(read_table(str(tmp_path / "results.csv")), FRAME)
    FRAME.set_index("alpha").to_parquet(tmp_path / "x.parquet")
    pd.testing.assert_frame_equal(read_table(str(tmp_path / "x.parquet")), FRAME)


def test_several_files_are_one_table(tmp_path: Path) -> None:
    for seed, rows in FRAME.groupby("seed"):
        rows.drop(columns="seed").to_csv(tmp_path / f"run{seed}.csv", index=False)
    places = sorted(map(str, tmp_path.iterdir()))
    frame = read_tables(places)
    assert frame.file.tolist() == [f"run{seed}" for seed in range(4) for _ in range(2)]
    assert len(frame) == len(FRAME)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", "x.csv is empty"),
        ("x.csv", b"\xff\xfe", "x.csv is empty"),
        (
            "x.csv",
            b"alpha,T,seed,acc\n",
            "the table must have rows, but it holds column names only",
        ),
        ("x.csv", b"alpha,T,seed,acc\n1,1,0,\xe9\n", "must be UTF-8, but byte 23 is 0xe9"),
        ("x.csv", b"\xfe\xff\0a\0,S", "must be UTF-16, as its first two bytes say, but byte 6 is"),
        ("x.csv", b"alpha,T,seed,acc\n1,1,0,.5,7\n", "must have the 4 fields .*but they have more"),
        (
            "x.csv",
            b"alpha,T,seed,acc\n1,1,0,1\n1,1,0,1,5\n",
            "cannot be read as a csv file .*line 3",
        ),
        ("x.csv", b"alpha,T,acc,acc\n1,1,0,.5\n", "different names, but .* has 'acc' twice"),
        ("x.csv", b"1.0,1.0,0,0.7\n1.0,1.0,1,0.7\n", "the first line of .* must name the columns"),
        ("x.xlsx", b"PK\x03\x04", "Save the table as CSV UTF-8"),
        ("x.parquet", b"PAR1 not really", "cannot be read as parquet"),
        ("x.db", b"SQLite format 3\0", "must be csv or parquet, but .*x.db is a database"),
    ],
)
def test_files_that_are_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        analyse(tmp_path / name, *ROLES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{}/result.csv", *ROLES], r"result.csv does not exist; did you mean .*results.csv\?"),
        (["{}/results.csv"], "--by must name a column of .*results.csv"),
        (["{}/results.csv", *ROLES[:3]], "--repeat must name a column"),
        (["{}/results.csv", *ROLES[:-2]], "--metric must name a column"),
        (["{}/results.csv", *ROLES, "--scope", "best"], "--scope must be used with a study"),
        (["{}/results.csv", *ROLES, "--max-ms=3"], "--max-ms must be used with a study"),
        (["runs/x", "--repeat", "seed"], "--repeat must be used with a table .*but got runs/x"),
        (["{}/results.csv", *ROLES, "--baseline", "lr=1"], r"the columns of --by \(alpha, T\)"),
        (["{}/results.csv", *ROLES, "--baseline", "alpha=2"], "alpha: 0.5, 1.0.*got alpha=2"),
        (["{}/results.csv", *ROLES, "--lower-is-better", "--higher-is-better"], "must not be used"),
        (["{}/results.csv", "{}", *ROLES], "a table of results must be a file"),
    ],
)
def test_command_lines_that_are_refused(words: list[str], message: str, tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "results.csv", index=False)
    with pytest.raises(InputError, match=message):
        analyse(*(word.replace("{}", str(tmp_path)) for word in words))


def test_the_command(tmp_path: Path, capsys) -> None:
    file = tmp_path / "results.csv"
    FRAME.to_csv(file, index=False)
    assert analyse(*ROLES[:3], file, *ROLES[3:], "--strict") == 0  # not a hyperparameter
    text = capsys.readouterr().out
    assert text.rstrip() == repr(kdtune.compare(file, ["alpha", "T"], "seed", "acc"))
    assert analyse(file, *ROLES, "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"summary", "comparisons", "verdict"}
    assert found["comparisons"][0]["n"] == 4
    assert analyse(file, *ROLES, "--format", "csv") == 0
    assert capsys.readouterr().out.startswith("alpha,T,label,acc/mean,acc/std,acc/n,acc/low")
    assert analyse(file, *ROLES, "--format", "latex") == 0
    assert r"$\pm$" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "yes"),
    [
        *[("x.csv", True), ("x.db", True), ("a/b.parquet", True), ("-x.csv", False)],
        *[("runs/x", False), ("s3://b/x.csv", False), (".", False), ("study.json", False)],
    ],
)
def test_tables_are_told_from_studies(word: str, yes: bool) -> None:
    assert is_table(word) == yes


def test_a_wrong_file_is_said_before_missing_flags(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must be a file, but .*nofile.csv does not exist"):
        parse_reading([str(tmp_path / "nofile.csv"), "--by", "a", "--metric", "b"])
    (tmp_path / "x.csv").write_text("a,b\n")
    flags = parse_reading([str(tmp_path / "x.csv"), *ROLES])
    assert isinstance(flags, TableFlags) and flags.direction is None
    with pytest.raises(InputError, match="--repeat must name a column"):
        parse_reading([str(tmp_path / "x.csv"), "--by", "a", "--metric", "b"])
