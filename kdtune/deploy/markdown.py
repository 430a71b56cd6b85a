"""Text of others in Markdown and YAML: names that mean nothing to either."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdtune.config.text import printable

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&])")
_BLOCK = re.compile(r"^(#+|[-+](?=\s|$)|[-=]+$|\d+(?=[.)](?:\s|$)))")
"""What begins a heading, a list, a quotation or an underline at the start of a line."""


def escape(text: object) -> str:
    """Return a text that Markdown shows as it is: one line, no markup, no HTML, no links."""
    line = printable(" ".join(str(text).split()))
    line = _SPECIAL.sub(r"\\\1", line)
    line = _BLOCK.sub(lambda found: "".join(f"&#{ord(c)};" for c in found[0]), line)
    # the Hub makes links of addresses without brackets, too
    return re.sub(r"(?i)\b(https?|ftp)://", r"\1&#58;//", line).replace("www.", "www\\.")


def code(text: object) -> str:
    """Return a text as a code span, in a fence longer than any in the text."""
    line = printable(" ".join(str(text).split()))
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    space = " " * line.startswith("`") or " " * line.endswith("`")
    # a cell of a table ends at a bar, also in code
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; its cells are escaped already."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def front_matter(values: Mapping[str, Any]) -> str:
    """Return the YAML block at the head of a model card; every value is JSON, which is YAML."""
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    lines = [f"{name}: {printable(text)}" for name, text in texts.items()]  # YAML has these escapes
    return "\n".join(["---", *lines, "---"])
