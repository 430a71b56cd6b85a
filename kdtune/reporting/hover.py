"""Titles of elements of a figure, which browsers show when the pointer is on them.

They are `<title>` elements of the SVG and need no script. An element gets a name with
`Artist.set_gid`; names of elements that belong to a configuration come from `config_gid`, so that
the page's script can hide them.
"""

import re
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

Titles = str | Sequence[str]
"""Title of an element, or of each of its markers in the order drawn."""
_CONFIG = "config-"


def config_gid(config_id: str, part: str) -> str:
    """Return the name of the part of a figure that belongs to a configuration."""
    return f"{_CONFIG}{config_id}-{part}"


def with_titles(svg: str, titles: Mapping[str, Titles]) -> str:
    """Return a figure of matplotlib with titles.

    Args:
        svg: the figure.
        titles: by gid. Elements that matplotlib has not drawn, such as empty lines, are skipped.
    """
    for gid, title in titles.items():
        opening = f'<g id="{gid}">'
        before, found, after = svg.partition(opening)
        if not found:
            continue
        tag = opening
        if gid.startswith(_CONFIG):
            config_id = gid.removeprefix(_CONFIG).partition("-")[0]
            tag = f'<g id="{gid}" data-config="{config_id}">'
        if isinstance(title, str):
            svg = f"{before}{tag}<title>{escape(title)}</title>{after}"
        else:
            svg = f"{before}{tag}{_with_titled_markers(after, title)}"
    return svg


def _with_titled_markers(rest: str, titles: Sequence[str]) -> str:
    """Return what follows the opening tag of a group, with a title in each of its markers.

    Markers are left as they are if matplotlib has not drawn all of them.
    """
    end = _end_of_group(rest)
    group = rest[:end]
    marks = re.findall(r"<use [^>]*/>", group)
    if len(marks) != len(titles):
        return rest
    left = iter(titles)

    def titled(mark: re.Match[str]) -> str:
        return f"{mark[0][:-2]}><title>{escape(next(left))}</title></use>"

    return re.sub(r"<use [^>]*/>", titled, group) + rest[end:]


def _end_of_group(rest: str) -> int:
    """Return where the group ends whose opening tag the text follows."""
    depth = 1
    for tag in re.finditer(r"<g\b|</g>", rest):
        depth += 1 if tag[0] == "<g" else -1
        if depth == 0:
            return tag.start()
    return len(rest)
