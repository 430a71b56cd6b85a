"""Progress on a terminal: lines that stay, and what is being built for the cache."""

import time
from typing import Any

from rich.console import Console

from kdtune.config.text import printable_lines

MIN_BUILD_SECONDS = 0.5
"""What is built in a shorter time is not shown."""
LINE_SECONDS = 15.0
"""Time between two lines of progress if the output is not a terminal."""


class Progress:
    """Lines that stay, and below them what is being built for the cache.

    If the output is not a terminal, a line every 15 s says what is being built.
    """

    def __init__(self) -> None:
        console = Console(highlight=False, soft_wrap=True)
        self.in_notebook = console.is_jupyter
        """Whether lines go to a notebook: Jupyter, Colab, ..."""
        if self.in_notebook:
            # rich would make an output of every line, and the kernel's stdout says that it is a
            # terminal
            plain: Any = {"force_jupyter": False, "force_terminal": False}
            console = Console(highlight=False, soft_wrap=True, **plain)
        self.console = console
        self._status = self.console.status("")
        self._what, self._since = "", 0.0
        self._last_line = time.monotonic()

    def print_line(self, text: object) -> None:
        """Print a line that stays."""
        self._status.stop()
        self.console.print(printable_lines(str(text)), markup=False)

    def show_build(self, what: str, done: int, total: int) -> None:
        """Show what is being built, and how much of it is done; a `ProgressCallback`."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._since = what, now
        text = describe_build(what, done, total)
        if done == total:
            self._status.stop()
        elif not self.console.is_terminal:
            if self.is_line_due():
                self.print_line(f"  {text}")
        elif now - self._since > MIN_BUILD_SECONDS:
            self._status.update(text)
            self._status.start()

    def is_line_due(self) -> bool:
        """Return True at most once every LINE_SECONDS."""
        now = time.monotonic()
        if now - self._last_line < LINE_SECONDS:
            return False
        self._last_line = now
        return True


def describe_build(what: str, done: int, total: int) -> str:
    """Return what is being built, for instance "building logits (3 of 10)"."""
    return f"building {what} ({done} of {total})"
