"""What the terminal shows while a study runs: a bar where there is a terminal, else plain lines."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kdtune.cache import Cache

BEAT_SECONDS = 1.0
LINE_SECONDS = 15.0


class Show:
    """Lines that stay, above a bar of runs done.

    Args:
        total: runs to do; None where that is not known.
        cache: whose builders are named while they build.
    """

    def __init__(self, total: int | None, cache: Cache):
        self.console = Console(highlight=False, soft_wrap=True)
        self.cache = cache
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[building]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("runs", total=total, building="")
        self._last = 0.0

    def __enter__(self) -> "Show":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._bar.stop()

    def line(self, text: str) -> None:
        """A line that stays."""
        self._bar.console.print(text, markup=False)

    def advance(self) -> None:
        """One more run has ended."""
        self._bar.advance(self._task)

    def beat(self) -> None:
        """Name what is being built now, now and then."""
        pause = BEAT_SECONDS if self.console.is_terminal else LINE_SECONDS
        if time.monotonic() - self._last < pause:
            return
        self._last = time.monotonic()
        first = next(self.cache.building(), None)
        text = f"building {first[0]} ({first[1]} of {first[2]})" if first else ""
        self._bar.update(self._task, building=text)
        if text and not self.console.is_terminal:
            self.line(f"  {text}")
