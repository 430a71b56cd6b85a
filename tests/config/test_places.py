"""Paths, URIs and other text: what cannot be is one sentence, before anything is opened."""

import re
from dataclasses import replace
from typing import Any

import pytest

from kdtune.config.cli import parse
from kdtune.config.fields import declarations
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.storage.store import connect

PLACES = [
    (owner, name)
    for owner in (Run, Study)
    for name, declared in declarations(owner).items()
    if declared.setting.place
]
LONG = "a" * 256


@pytest.mark.parametrize(("owner", "name"), PLACES)
def test_a_path_that_cannot_be_is_refused(owner: type, name: str) -> None:
    for path in ("", "~nouser/x", LONG, "s3://", "ftp://a/b"):
        with pytest.raises(InputError):
            replace(owner(), **{name: path})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": "~nouser/x"}, "data must be a path, but got data='~nouser/x', and there is no"),
        ({"data": "s3://"}, "a URI must name a bucket, s3://BUCKET/PREFIX, but got s3://"),
        ({"data": "s3:///x"}, "a URI must name a bucket, s3://BUCKET/PREFIX, but got s3:///x"),
        ({"data": "s3://[x"}, "a URI must be SCHEME://BUCKET/PREFIX, but got s3://[x"),
        ({"data": "ftp://a/b"}, "the scheme of a URI must be one of s3, "),
        ({"student_weights": ("resnet18=~nouser/x",)}, "student_weights must be a path, but got"),
        ({"teacher": "~nouser/x.npz"}, "teacher must be a path, but got teacher='~nouser/x.npz'"),
        ({"data": LONG}, "data must be a path of at most 4095 bytes, with names of at most 255"),
    ],
)
def test_what_a_place_must_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        Run(**values)


@pytest.mark.parametrize("words", ["~nouser/x.py", f"{LONG}.py"])
def test_an_experiment_that_cannot_be_a_path(words: str) -> None:
    with pytest.raises(InputError, match=r"^EXPERIMENT must be a path"):
        parse("search", [words])


@pytest.mark.parametrize("uri", ["s3://", "gs:///x", "http://a/b", "s3://[x/y"])
def test_a_store_is_reached_only_by_a_whole_uri(uri: str) -> None:
    with pytest.raises(InputError):
        connect(uri, 1)


HIDDEN = ("\x1b[31m", "a\nb", "a\u202eb", "a\u200bb", "a\udcff", "\x00")


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Run, "data"), (Run, "student"), (Run, "loss"), (Study, "out"), (Study, "address")],
)
def test_text_that_acts_on_a_terminal_is_refused(owner: Any, name: str) -> None:
    for text in HIDDEN:
        with pytest.raises(InputError, match=f"^{name} must be UTF-8 text") as caught:
            replace(owner(), **{name: text})
        assert str(caught.value).isprintable()


def test_text_of_other_languages_is_allowed() -> None:
    for name in (
        "/data/Ärzte",
        "/data/می\u200cخواهم",
        "/data/新しい\u3000フォルダー",
        "/a b/🧑\u200d🔬",
    ):
        assert Run(data=name).data == name
    assert Study(notify="echo a\necho b").notify == "echo a\necho b"  # a script of the user's
