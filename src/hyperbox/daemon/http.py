"""The HTTP face: every declared operation as a route, errors as problem bodies, probes and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import structlog
import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from hyperbox import __version__
from hyperbox.api.errors import HyperBoxError
from hyperbox.api.errors.daemon import OperationUnknown, RequestInvalid, UnexpectedFailure
from hyperbox.api.messages import Health, Message, Problem
from hyperbox.api.operations import OPERATIONS, Operation

log = structlog.get_logger("hyperbox.http")
Handler = Callable[[Any], Message]
Handlers = Mapping[str, Handler]


def make_app(handlers: Handlers, health: Callable[[], Health], metrics: Callable[[], bytes]) -> FastAPI:
    """Build the application. `handlers` has one entry for each operation's name."""
    missing = {operation.name for operation in OPERATIONS} ^ handlers.keys()
    if missing:
        raise TypeError(f"operations and handlers differ: {sorted(missing)}")
    app = FastAPI(
        title="HyperBox control socket",
        version=__version__,
        description="HTTP/JSON over a unix socket.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    for operation in OPERATIONS:
        _add(app, operation, handlers[operation.name])
    _add_probes(app, health, metrics)
    _add_error_answers(app)
    return app


def _add(app: FastAPI, operation: Operation[Any, Any], handler: Handler) -> None:
    def endpoint(request: Any) -> Message:
        return handler(request)

    kind: Any = Annotated[operation.request, Query()] if operation.method == "GET" else operation.request
    endpoint.__annotations__ = {"request": kind, "return": operation.response}
    problems: dict[int | str, dict[str, Any]] = {}
    for error in operation.all_errors:
        entry = problems.setdefault(error.http_status, {"model": Problem, "description": ""})
        entry["description"] = ", ".join(filter(None, [entry["description"], f"{error.code} {error.__name__}"]))
    app.add_api_route(
        operation.path,
        endpoint,
        methods=[operation.method],
        name=operation.name,
        operation_id=operation.name,
        summary=operation.summary,
        description=operation.description,
        response_model=operation.response,
        responses=problems,
    )


def _add_probes(app: FastAPI, health: Callable[[], Health], metrics: Callable[[], bytes]) -> None:
    @app.get("/healthz", include_in_schema=False)
    def healthz() -> PlainTextResponse:
        state = health()
        failed = [f"{task.name}: {task.detail}" for task in state.tasks if task.state == "failed"]
        return PlainTextResponse("\n".join([state.status, *failed]) + "\n", 200 if state.status == "ok" else 503)

    @app.get("/readyz", include_in_schema=False)
    def readyz() -> PlainTextResponse:
        ready = health().ready
        return PlainTextResponse("ready\n" if ready else "not ready\n", 200 if ready else 503)

    @app.get("/metrics", include_in_schema=False)
    def scrape() -> Response:
        return Response(metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_error_answers(app: FastAPI) -> None:
    @app.exception_handler(HyperBoxError)
    async def declared(_: Request, error: HyperBoxError) -> JSONResponse:
        return _problem(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return _problem(RequestInvalid(reason=f"{where or 'body'}: {first['msg'].lower()}"))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        answer = _problem(OperationUnknown(operation=f"{request.method} {request.url.path}"))
        answer.status_code = error.status_code
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("operation failed", path=request.url.path, exc_info=error)
        return _problem(UnexpectedFailure(reason=f"{type(error).__name__}: {error}"))


def _problem(error: HyperBoxError) -> JSONResponse:
    body = Problem(
        code=error.code, message=error.message, remedy=error.remedy, retryable=error.retryable, values=error.values
    )
    return JSONResponse(body.model_dump(mode="json"), status_code=error.http_status)


class _QuietServer(uvicorn.Server):
    """uvicorn without its ten wake-ups a second: it sleeps until it is told to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ended = asyncio.Event()

    async def main_loop(self) -> None:
        """Wait for the stop."""
        await self.ended.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the daemon."""
        yield


class HttpServer:
    """Serves the application on a listening unix socket, in the running event loop."""

    def __init__(self, app: FastAPI, listener: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            date_header=False,
            server_header=False,
            http="h11",
            ws="none",
            loop="asyncio",
            timeout_graceful_shutdown=5,
        )
        self._server = _QuietServer(config)
        self._listener = listener
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to answer."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]), name="http")

    async def stop(self) -> None:
        """Finish the calls under way (at most 5 s) and stop."""
        self._server.should_exit = True
        self._server.ended.set()
        if self._task is not None:
            await self._task
