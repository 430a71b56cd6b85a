"""Sending what a tracker lacks, again and again; a failure is a warning and is tried again."""

import re
from collections.abc import Callable
from pathlib import Path
from threading import Event

from kdtune.config.errors import first_line
from kdtune.config.study import Study
from kdtune.tracking.records import RecordReader, Trials, study_id
from kdtune.tracking.tracker import Conclusion, Tracker, make_tracker

POLL_SECONDS = 2.0
"""Time between two readings of the records."""
MAX_WAIT_SECONDS = 60.0
"""Longest time between two attempts to reach a tracker that has failed."""
MAX_RECORDS = 2000
"""Records that are sent together: some MB in memory."""


class Sync:
    """The sending of a study's records to one tracker.

    The records are the truth. What the tracker has is asked from it at each connection, so nothing
    is sent twice, and nothing recorded during an outage is lost.

    Args:
        name: Of the tracker.
        study: The study.
        folder: Its folder.
        say: Is given lines for the terminal.
    """

    def __init__(self, name: str, study: Study, folder: Path, say: Callable[[str], None]):
        self.name, self.study, self.folder, self.say = name, study, folder, say
        self._tracker: Tracker | None = None
        self._reader, self._trials = RecordReader(folder, study), Trials()
        self._is_announced = self._has_failed = self._has_warned = False

    def follow(self, over: Event, conclusion: Callable[[], Conclusion | None]) -> bool:
        """Send new records until the search has ended, then the conclusion.

        Args:
            over: Set when no more records will be written.
            conclusion: Called then; returns None if the study is not complete.

        Returns:
            True if the tracker has everything.
        """
        wait = POLL_SECONDS
        while True:
            is_last = over.is_set()  # asked first: what was written before is read below
            try:
                self._send_new()
                if is_last:
                    self._finish(conclusion())
                    return True
                wait = POLL_SECONDS
            except Exception as error:  # of a client, its server or the network
                self._tracker = None
                self._warn(error, is_last)
                if is_last:
                    return False
                wait = min(2 * wait, MAX_WAIT_SECONDS)
            over.wait(wait)

    def _send_new(self) -> None:
        """Send all records that the tracker lacks; connect to it if need be."""
        if self._tracker is None:
            if (own_id := study_id(self.folder)) is None:
                return
            tracker = make_tracker(self.name, self.study, own_id, self.folder)
            place = tracker.connect()
            if not self._is_announced:
                self.say(f"{tracker.title}: {without_credentials(place)}")
                self._is_announced = True
            self._tracker, self._trials = tracker, Trials()
            self._reader = RecordReader(self.folder, self.study)
        while records := self._reader.read(MAX_RECORDS):
            for update in self._trials.updates(records, self._tracker.positions):
                self._tracker.send(update)
        if self._has_failed:
            self.say(f"{self._tracker.title} can be reached again and has all records")
            self._has_failed = False

    def _finish(self, conclusion: Conclusion | None) -> None:
        if self._tracker is None:
            return
        if conclusion is None:
            self._tracker.pause()
        else:
            self._tracker.conclude(conclusion)

    def _warn(self, error: Exception, is_last: bool) -> None:
        """Say once that the tracker has failed, and at the end what sends the rest."""
        reason = without_credentials(f"{type(error).__name__}: {first_line(error)}")
        if is_last:
            self.say(
                f"warning: {self.name} has not received everything ({reason}); python -m "
                f"kdtune.track {self.folder} --tracker {self.name} sends the rest"
            )
        elif not self._has_warned:
            self.say(
                f"warning: {self.name} has failed ({reason}); the study goes on, and {self.name} "
                f"is tried again"
            )
        self._has_failed = self._has_warned = True


def without_credentials(text: str) -> str:
    """Return the text without the user names and passwords of its URLs."""
    return re.sub(r"://[^/\s@]+@", "://", text)
