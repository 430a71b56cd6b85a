"""Configuration of the site: sphinx-build -W -c docs . build/site.

The source folder is that of the repository, so that a relative link works on the site and in the
repository.
"""

import contextlib
import inspect
import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import MISSING
from pathlib import Path
from typing import Any, get_type_hints
from unittest import mock

import tyro
from sphinx.application import Sphinx

import kdtune
from kdtune.config import cli

project = "kdtune"
author = copyright = "kdtune developers"
release = kdtune.__version__
root_doc = "docs/index"
include_patterns = ["docs/**.md", "experiments/README.md", "*.md"]
exclude_patterns = ["README.md", "build", "dist", "kdtune", "runs", "tests", "**/.*", ".*"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 4  # the same anchors as in the repository
myst_enable_extensions = ["colon_fence"]
smartquotes = False  # or --flag would be printed with one dash
autodoc_member_order = "bysource"
default_role = "py:obj"  # `name` in a docstring is code, and a link where there is a target
autodoc_typehints = "none"  # annotations hold bounds; the docstrings say them in words

html_theme = "furo"
html_title = f"kdtune {release}"
html_copy_source = False
html_additional_pages = {"index": "to_docs.html"}
templates_path = ["templates"]

REFERENCE = Path(__file__).parent / "reference"
"""Folder of the pages on commands; each build writes them."""


def write_reference(_: Sphinx) -> None:
    """Write a page on each command, from the declarations of which --help is made."""
    REFERENCE.mkdir(exist_ok=True)
    for command in cli.COMMANDS:
        title = f"kdtune {command}"
        parts = [f"# {title}", about_flags(title, parser_of(command))]
        if command == "analysis":
            parts += ["## Of a table", about_flags(f"{title} TABLE", parser_of(command, "t.csv"))]
        (REFERENCE / f"{command}.md").write_text("\n\n".join(parts), "utf-8")
    for owner in (kdtune.Study, kdtune.Run):
        parts = [f"# Fields of kdtune.{owner.__name__}", *about_fields(owner)]
        (REFERENCE / f"{owner.__name__.lower()}_fields.md").write_text("\n\n".join(parts), "utf-8")


def parser_of(command: str, *words: str) -> ArgumentParser:
    """Return the parser that would answer --help after some words of a command line."""
    parsers = []

    def note(flags: Any, args: Any, **options: Any) -> None:
        parsers.append(tyro.extras.get_parser(flags, **options))
        raise SystemExit

    with mock.patch.object(tyro, "cli", note), contextlib.suppress(SystemExit):
        cli.parse_command(command, words)
    return parsers[0]


def about_flags(program: str, parser: ArgumentParser) -> str:
    """Return Markdown: the description of a command, and each flag with its help."""
    parts = [escaped(str(parser.description)), f"```{{program}} {program}\n```"]
    for action in parser._actions:
        words = ", ".join(action.option_strings)
        signature = f"{words} {action.metavar or ''}".strip()
        parts.append(f"````{{option}} {signature}\n{escaped(str(action.help))}\n````")
    return "\n\n".join(parts)


def about_fields(owner: type) -> Iterator[str]:
    """Yield Markdown for each field of a class of settings: type, default and docstring."""
    types = get_type_hints(owner)
    for flag in cli.flags_of(owner):
        name = f"kdtune.{owner.__name__}.{flag.name}"
        kind = re.sub(r"\b[\w.]+\.", "", inspect.formatannotation(types[flag.name]))
        options = f":type: {kind}"
        if flag.default is not MISSING:
            options += f"\n:value: {flag.default!r}"
        text = escaped(flag.kind.__metadata__[-1].help)
        yield f"````{{py:attribute}} {name}\n{options}\n\n{text}\n````"


def escaped(text: str) -> str:
    """Return text in which Markdown sees no markup but `code`."""
    return re.sub(r"(`[^`]*`)|([\\*_\[\]<>#|~$])", lambda part: part[1] or f"\\{part[2]}", text)


def undo_type(_: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Restore "Subject: text", of which napoleon makes the type and the text of an attribute."""
    if what in ("attribute", "property"):
        for kind in [line for line in lines if line.startswith(":type: ")]:
            lines.remove(kind)
            lines[0] = f"{kind.removeprefix(':type: ')}: {lines[0]}"


def link_gallery(_: Sphinx, page: str, text: list[str]) -> None:
    """Let pictures of the gallery lead to its pages; in the repository they lead to records."""
    if page == "docs/gallery":
        link = r'<a href="gallery/\2.html">\n\n\1\n\n</a>'
        text[0] = re.sub(r"^\[(!\[.*\))\]\(gallery/(.*)/\)$", link, text[0], flags=re.M)


def write_gallery(app: Sphinx, error: Exception | None) -> None:
    """Write the pages of the gallery into the site."""
    sys.path.append(str(Path(__file__).parents[1] / "experiments"))
    import gallery

    if error is None and app.builder.format == "html":
        list(gallery.pages(Path(app.outdir) / "docs" / "gallery"))


def setup(app: Sphinx) -> None:
    """Connect the hooks."""
    app.connect("builder-inited", write_reference)
    app.connect("source-read", link_gallery)
    app.connect("build-finished", write_gallery)
    app.connect("autodoc-process-docstring", undo_type, priority=900)
