"""Progress of a run on a terminal."""

import time

from rich.console import Console

MOMENT_SECONDS = 0.5


LINE_SECONDS = 15.0


class Progress:
    """Lines that stay; below them what is being built (a line every 15 s where no terminal is)."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self._status = self.console.status("")
        self._what, self._since, self._said = "", 0.0, time.monotonic()

    def line(self, text: object) -> None:
        """Print a line that stays."""
        self._status.stop()
        self.console.print(str(text), markup=False)

    def watch(self, what: str, done: int, total: int) -> None:
        """Say what is being built, and how far it is, where it takes more than a moment."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._since = what, now
        text = f"building {what} ({done} of {total})"
        if done == total:
            self._status.stop()
        elif self.console.is_terminal and now - self._since > MOMENT_SECONDS:
            self._status.update(text)
            self._status.start()
        elif not self.console.is_terminal and now - self._said > LINE_SECONDS:
            self._said = now
            self.line(f"  {text}")
