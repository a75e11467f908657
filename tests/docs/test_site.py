"""The built site reads without a network: nothing in it is loaded from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
LOADED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest"}
REMOTE = re.compile(r"^(?:https?:)?//")


class _Loads(HTMLParser):
    """Addresses that a page loads by itself, without a click."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in LOADING:
            self.found.append(values.get(LOADING[tag]) or "")
        if tag == "link" and LOADED_LINKS & set((values.get("rel") or "").split()):
            self.found.append(values.get("href") or "")


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    remote = {}
    for path in site.rglob("*.html"):
        parser = _Loads()
        parser.feed(path.read_text())
        assert parser.found, f"{path} loads nothing at all: the parser no longer fits"
        remote |= {path.relative_to(site).as_posix(): [x] for x in parser.found if REMOTE.match(x)}
    assert remote == {}


def test_styles_load_nothing_from_elsewhere(site: Path) -> None:
    pattern = re.compile(r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')]+)")
    remote = {path.name: found for path in site.rglob("*.css") if (found := pattern.findall(path.read_text()))}
    assert remote == {}


def test_local_files_that_pages_load_are_there(site: Path) -> None:
    missing = []
    for path in site.rglob("*.html"):
        parser = _Loads()
        parser.feed(path.read_text())
        for address in parser.found:
            file = (site / address.lstrip("/")) if address.startswith("/") else path.parent / address
            if not address.startswith(("data:", "#")) and not Path(str(file).partition("?")[0]).exists():
                missing.append(f"{path.relative_to(site)}: {address}")
    assert missing == []


def test_licences_of_shipped_programs_are_shipped(site: Path) -> None:
    for folder in (site / "assets" / "vendor").iterdir():
        assert (
            "MIT" in (folder / "LICENSE.txt").read_text()
            or "Permission is hereby" in (folder / "LICENSE.txt").read_text()
        )
