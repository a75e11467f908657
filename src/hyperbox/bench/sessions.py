"""A run of the lab that is always cleared up, whenever an interrupt comes."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from hyperbox._dev.lab import LabHome, Run, say, step, sweep

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Interrupts:
    """Raises `KeyboardInterrupt` for the first signal; once clearing up has begun, says so and goes on."""

    def __init__(self) -> None:
        self.closing = False

    def __call__(self, _number: int, _frame: object) -> None:
        if self.closing:
            say("is clearing up already; a moment, please")
            return
        self.closing = True
        raise KeyboardInterrupt


@contextlib.contextmanager
def _handlers(interrupts: _Interrupts) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupts) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def lab_run(home: LabHome) -> Iterator[Run]:
    """A run that ends with everything taken away, also after SIGINT, SIGTERM or SIGHUP at any moment.

    The signals raise `KeyboardInterrupt` in the block once; those that come while it clears up change nothing. What a
    SIGKILL leaves is taken away by the next run.
    """
    interrupts = _Interrupts()
    with _handlers(interrupts):
        sweep(home)
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # no half-made run: nobody would own its folders
        try:
            run = Run(home)
        except BaseException:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            raise
        try:
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
                say(f"begins run {run.id}; Ctrl-C ends it and clears up")
                yield run
            finally:
                interrupts.closing = True
        finally:
            with step("clearing up: stopping engines, unmounting, deleting"):
                run.close()
