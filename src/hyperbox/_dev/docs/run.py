"""One page's sandbox: a working folder, an environment and a shell in which its console blocks run in order."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from hyperbox._dev.docs.capabilities import PROVIDERS, CapabilityAbsent, Provider
from hyperbox._dev.docs.console import Step, complaint, parse_steps, update
from hyperbox._dev.docs.fences import Fence
from hyperbox._dev.docs.session import CommandTimeout, Session, SessionEnded

TIMEOUT: Final = 60.0
"""Seconds that one command may take when its block does not say otherwise (`timeout="300"`)."""


class BlockFailed(AssertionError):
    """A block did not do what the page says; the message is the difference, with page and line."""


class PageRun(AbstractContextManager["PageRun"]):
    """The sandbox of one page.

    `folder` is taken over: `work/` below it is where the commands begin, with a copy of the repository's `examples/`.
    `providers` start what blocks need, each once for the page, in reverse order ended with it.
    """

    def __init__(self, folder: Path, *, examples: Path, providers: Mapping[str, Provider] = PROVIDERS) -> None:
        self._folder = folder
        self._work = folder / "work"
        self._home = folder / "home"
        self._examples = examples
        self._providers = providers
        self._started: set[str] = set()
        self._absent: dict[str, CapabilityAbsent] = {}
        self._stack = ExitStack()
        self._session: Session | None = None
        self.failed = ""
        """The first failed block, empty so far."""

    def __enter__(self) -> Self:
        self._work.mkdir(parents=True)
        self._home.mkdir()
        if self._examples.is_dir():
            shutil.copytree(self._examples, self._work / "examples")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def environment(self) -> dict[str, str]:
        """What the shell starts with: little, and the same everywhere."""
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return {
            "PATH": f"{programs}{os.pathsep}/usr/sbin{os.pathsep}/sbin",
            "HOME": str(self._home),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "NO_COLOR": "1",
            "COLUMNS": "120",
            "PAGER": "cat",
            **{name: os.environ[name] for name in ("KUBECONFIG", "HYPERBOX_LAB") if name in os.environ},
        }

    def provide(self, needs: tuple[str, ...]) -> None:
        """Start what is needed and not running yet, and tell the shell where it is.

        Raises:
            CapabilityAbsent: This machine lacks something; found out once for the page.
            ProviderFailed: Something did not start.
        """
        for need in needs:
            name, _, argument = need.partition(":")
            if name not in self._providers or need in self._started:
                continue
            if need in self._absent:
                raise self._absent[need]
            try:
                variables = self._stack.enter_context(self._providers[name](self._folder, argument))
            except CapabilityAbsent as error:
                self._absent[need] = error
                raise
            self._started.add(need)
            for variable, value in variables.items():
                quoted = value.replace("'", "'\\''")
                self._shell().run(f"export {variable}='{quoted}'")

    def _shell(self) -> Session:
        if self._session is None:
            self._session = self._stack.enter_context(Session(self._work, self.environment()))
        return self._session

    def run(self, fence: Fence) -> None:
        """Run one block.

        Raises:
            BlockFailed: Output or exit status of a command differs from the page, or it did not end.
            CapabilityAbsent: This machine lacks something that the block needs.
        """
        try:
            for step in parse_steps(fence):
                printed, status = self._run_step(fence, step)
                difference = complaint(step, printed, status)
                if difference is not None:
                    raise BlockFailed(f"{fence.page}:{step.line}\n{difference}")
        except CapabilityAbsent:
            raise
        except BaseException:
            self.failed = self.failed or str(fence)
            raise

    def record(self, fence: Fence) -> list[Step]:
        """Run one block and give its steps as they would have to stand in the page."""
        return [update(step, *self._run_step(fence, step)) for step in parse_steps(fence)]

    def _run_step(self, fence: Fence, step: Step) -> tuple[list[str], int]:
        self.provide(fence.needs)
        try:
            return self._shell().run(step.command, float(fence.options.get("timeout", TIMEOUT)))
        except (CommandTimeout, SessionEnded) as error:
            raise BlockFailed(f"{fence.page}:{step.line}\n$ {step.command}\n{error}") from None
