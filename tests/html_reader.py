"""A reader of HTML pages for tests."""

import json
from html.parser import HTMLParser


class Reader(HTMLParser):
    """The elements of a page in their order, and its text by the element that it is in."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.pieces: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        self.pieces.append((self._open[-1] if self._open else "", data))

    def within(self, tag: str) -> list[str]:
        """The texts of one kind of element."""
        return [text for where, text in self.pieces if where == tag]

    @property
    def text(self) -> str:
        """All of it, to the letter."""
        return "".join(text for _, text in self.pieces)

    @property
    def words(self) -> str:
        """What a reader sees, blanks made even."""
        seen = (text for where, text in self.pieces if where not in ("script", "style"))
        return " ".join(" ".join(seen).split())

    @property
    def data(self) -> dict:
        """The embedded data."""
        return json.loads("".join(self.within("script")))
