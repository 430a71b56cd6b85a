"""Changes of a study's data while it runs.

What a run reads must be what the study's fingerprint says. Each file is compared with its stamp
when it is decoded, and where that is another with its content (`Split.example`); a process that
reads the data later compares their fingerprint (`Contents.check`); and at its end a study looks at
all files once more (`find_changes`).
"""

from dataclasses import dataclass, field
from uuid import uuid4

from kdtune.config.errors import DataChangedError, InputError
from kdtune.config.names import REST, is_named_extra
from kdtune.config.run import Run
from kdtune.config.text import printable
from kdtune.data.extra import extra_differs, with_extra
from kdtune.data.sources import clear_cached_data, folder_differs, load_data

MAX_NAMED = 3
"""Files that a sentence names."""


@dataclass(frozen=True)
class Contents:
    """Fingerprints of the data that a study began with, for the processes of its runs."""

    data: str
    extra: str = ""
    """Of the images without labels; "" if there are none, or if they are part of train."""
    token: str = field(default_factory=lambda: uuid4().hex, compare=False)
    """Tells the call that has read them from all others."""

    @staticmethod
    def of(run: Run) -> "Contents":
        """Return those of the run's data as this process has read them."""
        data = with_extra(load_data(run), run)
        if data.extra is None or data.extra.source == REST:
            return Contents(data.study_fingerprint)
        return Contents(data.study_fingerprint, data.extra.fingerprint)

    def check(self, run: Run) -> None:
        """Raise DataChangedError if this process has read other data."""
        try:
            now = Contents.of(run)
        except InputError as error:
            raise DataChangedError(
                f"the data have changed since the study read them: {error}"
            ) from None
        if now != self:
            what = f"data in {run.data}"
            if now.data == self.data:
                what = f"images without labels in {run.extra}"
            raise DataChangedError(
                f"the {what} have changed since the study read them; restore them, and the same "
                f"command goes on"
            )


def forget_changed_data(run: Run) -> None:
    """Drop what this process has read of a folder of images whose files have changed since.

    Raises:
        InputError: The data do not exist.
    """
    data = with_extra(load_data(run), run)
    if any(split.changed_files() for split in data.splits.values()) or _differ(run, False):
        clear_cached_data()


def find_changes(run: Run) -> str:
    """Return a sentence on files that have changed since this process read them; "" if none have.

    Files that were only touched, whose contents are the same, have not.
    """
    data = with_extra(load_data(run), run)
    changed = [file for split in data.splits.values() for file in split.changed_files()]
    if not _differ(run, bool(changed)):
        return ""
    names = list(dict.fromkeys(changed))
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    what = f"image files were changed or removed ({_listed(names)}{more})"
    if not names:
        what = "image files were added"
    return (
        f"{what} while the study ran: its results are of the images as they were when it read "
        f"them, and it cannot be continued until they are restored"
    )


def _differ(run: Run, changed: bool) -> bool:
    """Return True if the contents of the files are others than this process has read.

    Args:
        run: Names the data.
        changed: Whether a file has another content.
    """
    try:
        differs = folder_differs(run)
        # a function is not called again
        others = (
            run.extra is not None and not is_named_extra(run.extra) and extra_differs(run.extra)
        )
    except InputError:
        return True
    return changed if differs is None else differs or others


def _listed(files: list[str]) -> str:
    return ", ".join(map(printable, files[:MAX_NAMED]))
