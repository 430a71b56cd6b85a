"""Parser of HTML pages for tests."""

import json
from html.parser import HTMLParser


class Reader(HTMLParser):
    """Elements of a page in order, and its texts with the element around each."""

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
        """Return the texts directly inside elements of a tag."""
        return [text for where, text in self.pieces if where == tag]

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.pieces)

    @property
    def words(self) -> str:
        """The visible text, with single spaces."""
        seen = (text for where, text in self.pieces if where not in ("script", "style"))
        return " ".join(" ".join(seen).split())

    @property
    def data(self) -> dict:
        return json.loads(next(text for text in self.within("script") if text.startswith("{")))
