"""Headless Chromium, driven over the two pipes of its DevTools protocol, with the standard library alone."""

from __future__ import annotations

import base64
import json
import os
import selectors
import shutil
import subprocess
import time
from collections import deque
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome")


class BrowserError(Exception):
    """Chromium refused a call, ended, or did not answer in time."""


def find_browser() -> str | None:
    """Path of Chromium, or None where there is none."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Browser(AbstractContextManager["Browser"]):
    """One Chromium with one tab. What the page logged and what it asked the network for is kept in lists."""

    def __init__(self, program: str, profile: Path, *, timeout: float = 30.0) -> None:
        self.console: list[str] = []
        """Errors and warnings of the page's console, uncaught exceptions included."""
        self.requests: list[str] = []
        """Addresses that the page asked for."""
        self._timeout = timeout
        self._events: deque[dict[str, Any]] = deque()
        self._buffer = bytearray()
        self._number = 0
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        # Chromium reads commands from fd 3 and answers on fd 4.
        wrapper = f'exec "$@" 3<&{commands} 4>&{answers}'
        options = ["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        options += ["--disable-dev-shm-usage", "--disable-background-networking", "--disable-extensions"]
        self._process = subprocess.Popen(
            ["bash", "-c", wrapper, "bash", program, *options, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(commands, answers),
        )
        os.close(commands)
        os.close(answers)
        self._session = ""

    def __enter__(self) -> Self:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, /, **parameters: Any) -> dict[str, Any]:
        """Call one method of the DevTools protocol.

        Raises:
            BrowserError: Chromium refused it or did not answer.
        """
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        deadline = time.monotonic() + self._timeout
        while True:
            answer = self._message(deadline, method)
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])
            self._notice(answer)

    def _message(self, deadline: float, waiting_for: str) -> dict[str, Any]:
        with selectors.DefaultSelector() as selector:
            selector.register(self._read, selectors.EVENT_READ)
            while b"\0" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise BrowserError(f"no answer while waiting for {waiting_for}")
                data = os.read(self._read, 1 << 16)
                if not data:
                    raise BrowserError(f"the browser ended while waiting for {waiting_for}")
                self._buffer.extend(data)
        text, _, rest = bytes(self._buffer).partition(b"\0")
        self._buffer = bytearray(rest)
        return dict(json.loads(text))

    def _notice(self, event: dict[str, Any]) -> None:
        method, parameters = event.get("method", ""), event.get("params", {})
        self._events.append(event)
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.console.append(" ".join(str(a.get("value", a.get("description"))) for a in parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.console.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}".strip())

    def open(self, address: str) -> None:
        """Load a page and wait for its load event."""
        self._events.clear()
        self.call("Page.navigate", url=address)
        deadline = time.monotonic() + self._timeout
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._notice(self._message(deadline, f"the load of {address}"))

    def evaluate(self, expression: str) -> Any:
        """Evaluate JavaScript in the page; promises are waited for."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise BrowserError(f"{expression}: {result['exceptionDetails']['exception'].get('description')}")
        return result["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 20.0) -> Any:
        """Wait until a JavaScript expression is truthy, looked at every 30 ms; give its value."""
        return self.evaluate(
            f"new Promise((resolve, reject) => {{ const end = Date.now() + {seconds * 1000};"
            f" const look = () => {{ const value = ({expression});"
            " if (value) resolve(value); else if (Date.now() > end) reject(new Error('did not become true'));"
            " else setTimeout(look, 30); }; look(); })"
        )

    def screen(self, width: int, height: int, *, dark: bool = False, mobile: bool = False) -> None:
        """Set the size of the screen and the colour scheme that the reader prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        """Write what the screen shows as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
