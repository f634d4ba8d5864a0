"""What an HTML page is made of: is it closed, safe, and in need of nothing else?"""

from __future__ import annotations

import re
from html.parser import HTMLParser


class Outline(HTMLParser):
    """Tags that are open or closed wrongly, what is loaded, headings, scripts."""

    VOID = frozenset({"meta", "img", "br", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"<{tag} {name}>"
            if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
                self.loaded.append(value or "")
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, text: str) -> None:
        if self.stack and self.stack[-1] == "h2":
            self.headings.append(text)


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    assert found.stack == [], "every tag is closed"
    assert not {"script", "link", "iframe", "object", "form", "base"} & set(found.tags)
    assert all(each.startswith(("data:image/", "#")) for each in found.loaded), "nothing from afar"
    assert not re.search(r"url\((?!#)|@import", page)
    return found
