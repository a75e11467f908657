"""The composition root: makes the parts, starts them in order, and stops them in the reverse one."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time

import structlog

from hyperbox import linux
from hyperbox.api.settings import Settings
from hyperbox.daemon.http import HttpServer
from hyperbox.daemon.logs import configure_logs
from hyperbox.daemon.sockets import listen

log = structlog.get_logger("hyperbox.daemon")


def run_daemon(settings: Settings, source: str) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        HyperBoxError: The daemon cannot start: another one has the state folder or a socket, the kernel lacks what the
            configuration insists on, the catalogue is damaged, …
    """
    configure_logs(settings.daemon)
    asyncio.run(_serve(settings, source))


async def _serve(settings: Settings, source: str) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    began = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        daemon = Daemon(settings, source)
        stack.callback(daemon.close)
        daemon.start()
        http = HttpServer(daemon.app(), listen(daemon.api_socket, settings.daemon.api_group))
        stack.callback(daemon.api_socket.unlink, missing_ok=True)
        await http.start()
        stack.push_async_callback(http.stop)
        daemon.started_after(time.monotonic() - began)
        await ended.wait()
        linux.notify_systemd(stopping=True)
        log.info("stopping")
        daemon.ready = False
