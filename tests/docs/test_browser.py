"""The built site in headless Chromium: what a reader sees, on a desk and on a phone, by day and by night."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hyperbox._dev.docs import DOCS
from hyperbox._dev.docs.browser import Browser, find_browser
from hyperbox._dev.docs.fences import read_pages

PHONE = (390, 844)
DESK = (1280, 900)
DIAGRAMS = sorted(
    page.relative_to(DOCS).with_suffix(".html").as_posix()
    for page, fences in read_pages(DOCS).items()
    if any(fence.language == "mermaid" for fence in fences)
)
PAGES = sorted(
    {"index.html", "reference/cli.html", "reference/errors.html", "reference/configuration.html"} | set(DIAGRAMS)
)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever, name="site")
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no chromium on this machine")
    with Browser(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser with nothing noted yet; at the end, nothing may have gone wrong and nothing left the machine."""
    chromium.console.clear()
    chromium.requests.clear()
    chromium.screen(*DESK)
    yield chromium
    assert chromium.console == []
    assert [url for url in chromium.requests if urlsplit(url).hostname not in (None, "127.0.0.1")] == []


def _keep(browser: Browser, name: str) -> None:
    """Write a screenshot where DOCS_SCREENSHOTS says, for people to look at."""
    folder = os.environ.get("DOCS_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.screenshot(Path(folder) / f"{name}.png")


def _search(browser: Browser, words: str) -> list[str]:
    browser.evaluate("document.querySelector('[data-md-toggle=search]').click()")
    typed = "document.querySelector('[data-md-component=search-query]')"
    browser.evaluate(f"{typed}.focus(); {typed}.value = '{words}'")
    browser.evaluate(f"{typed}.dispatchEvent(new KeyboardEvent('keyup', {{bubbles: true}}))")
    links = "[...document.querySelectorAll('.md-search-result__item a')].map(a => a.href)"
    return list(browser.wait_for(f"{links}.length ? {links} : null"))


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("hyperbox store verify", "reference/cli.html"),
        ("HB-DAEMON-003", "reference/errors.html"),
        ("HYPERBOX_SOCKET", "reference/environment.html"),
    ],
)
def test_search_finds(browser: Browser, address: str, words: str, page: str) -> None:
    browser.open(f"{address}/index.html")
    found = _search(browser, words)
    _keep(browser, f"search-{words.rsplit(maxsplit=1)[-1]}")
    assert any(page in link for link in found), found


def test_search_works_from_the_disk(browser: Browser, site: Path) -> None:
    browser.open((site / "index.html").as_uri())
    assert any("reference/cli.html" in link for link in _search(browser, "hyperbox store verify"))


@pytest.mark.parametrize("page", DIAGRAMS)
@pytest.mark.parametrize("dark", [False, True], ids=["day", "night"])
def test_diagrams_are_drawn(browser: Browser, address: str, page: str, dark: bool) -> None:
    browser.screen(*DESK, dark=dark)
    browser.open(f"{address}/{page}")
    # The theme draws into a closed shadow root: what can be seen from outside is that the element got a drawing's size.
    drawn = "[...document.querySelectorAll('div.mermaid')].map(e => e.getBoundingClientRect().height)"
    browser.wait_for(
        f"document.querySelector('div.mermaid') && !document.querySelector('pre.mermaid') && {drawn}.every(h => h > 40)"
    )
    _keep(browser, f"diagram-{page.replace('/', '-')}-{'night' if dark else 'day'}")
    assert len(browser.evaluate(drawn)) >= 1


@pytest.mark.parametrize("page", PAGES)
def test_a_phone_shows_the_whole_width(browser: Browser, address: str, page: str) -> None:
    browser.screen(*PHONE, mobile=True)
    browser.open(f"{address}/{page}")
    browser.wait_for("document.readyState === 'complete'")
    _keep(browser, f"phone-{page.replace('/', '-')}")
    assert browser.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    assert browser.evaluate("document.documentElement.clientWidth") == PHONE[0]


def test_the_reader_s_colours_are_taken_and_can_be_changed(browser: Browser, address: str) -> None:
    browser.screen(*DESK, dark=True)
    browser.open(f"{address}/index.html")
    scheme = "document.body.getAttribute('data-md-color-scheme')"
    assert browser.evaluate(scheme) == "slate"
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = [int(part) for part in background.strip("rgba()").split(",")[:3]]
    assert max(brightness) < 80
    _keep(browser, "night")
    browser.evaluate("document.querySelector('[data-md-component=palette] label:not([hidden])').click()")
    browser.wait_for(f"{scheme} === 'default'")
