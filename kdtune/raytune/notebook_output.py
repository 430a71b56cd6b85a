"""Outputs of a notebook's cell: one that is replaced at each update, and one that is folded.

IPython is imported where it is used: kdtune does not need it, and a notebook has it.
"""

from collections.abc import Sequence
from html import escape
from typing import Any


class NotebookOutput:
    """Text below a notebook's cell that an update replaces, as a terminal redraws its last lines.

    A saved notebook holds the last text only.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._text = ""

    def show(self, text: str) -> None:
        """Show a text in place of the last one."""
        if text == self._text:
            return
        self._text = text
        content = {"text/plain": text}
        if self._handle is None:
            from IPython.display import display

            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def show_folded(title: str, lines: Sequence[str]) -> None:
    """Show a title in a notebook, and the lines below it once the reader clicks on it."""
    from IPython.display import display

    text = "\n".join(lines)
    html = f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"
    display({"text/plain": f"{title}\n{text}", "text/html": html}, raw=True)
