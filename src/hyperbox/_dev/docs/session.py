"""One bash process for one page: commands run in it one after the other, with output and exit status of each.

Commands reach the shell through a pipe of their own and statuses come back through another, so a command can neither
read the rest of the page as its input nor print something that looks like a status. `cd`, variables and functions live
on from command to command, as for a reader. Standard output and error are one stream, as on a terminal.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_LOOP: Final = """
while IFS= read -r -d '' -u {commands} _command; do
  eval "$_command" </dev/null {commands}<&- {statuses}>&-
  printf '%d\\n' "$?" >&{statuses}
done
"""
_GRACE: Final = 2.0
"""Seconds between the polite and the hard end of what a page left running."""


class SessionEnded(Exception):
    """The shell ended during a command (`exit`, or `exec`)."""


class CommandTimeout(Exception):
    """A command did not end in its time; the message holds what it had printed."""


class Session:
    """A shell with its own working folder and environment; a context manager that ends all it started.

    A background job that leaves its process group (a daemon that forks twice) has to be stopped by the page.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        commands, self._commands = os.pipe()
        self._statuses, statuses = os.pipe()
        self._output, output = os.pipe()
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-c", _LOOP.format(commands=commands, statuses=statuses)],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(commands, statuses),
            start_new_session=True,
        )
        for fd in (commands, statuses, output):
            os.close(fd)
        os.set_blocking(self._output, False)

    def run(self, command: str, timeout: float = 60.0) -> tuple[list[str], int]:
        """Run one command; give the lines that it printed and its exit status.

        Args:
            command: bash source, may have several lines.
            timeout: seconds.

        Raises:
            CommandTimeout: It did not end in time; the session is of no more use.
            SessionEnded: The shell itself ended.
        """
        os.write(self._commands, command.encode() + b"\0")
        printed = bytearray()
        status = bytearray()
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ, printed)
            selector.register(self._statuses, selectors.EVENT_READ, status)
            while not status.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise CommandTimeout(f"no end after {timeout:g} s; printed so far:\n{_text(printed)}")
                for key, _ in selector.select(left):
                    data = os.read(key.fd, 1 << 16)
                    key.data.extend(data)
                    if data:
                        continue
                    if key.fd == self._statuses:
                        raise SessionEnded(f"the shell ended; printed:\n{_text(printed)}")
                    selector.unregister(key.fd)
        self._drain(printed)
        return _text(printed).splitlines(), int(status)

    def _drain(self, printed: bytearray) -> None:
        """Take what the command wrote before its status; a pipe keeps that order."""
        while True:
            try:
                data = os.read(self._output, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                return
            printed.extend(data)

    def close(self) -> None:
        """End the shell and everything in its process group."""
        for fd in (self._commands, self._statuses, self._output):
            os.close(fd)
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, sign)
            except ProcessLookupError:
                break
            try:
                self._process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _text(data: bytes | bytearray) -> str:
    return bytes(data).decode(errors="replace").replace("\r\n", "\n")
