"""What every HyperBox error declares about itself.

An error is a class, and the class is the documentation: its stable code, what a program sees of it (exit status, HTTP
status, gRPC status), whether trying again can help, the one-line message and the remedy. The error reference, the
daemon's HTTP answers, the snapshotter's gRPC statuses and the CLI's exit codes are all read from here.
"""

from __future__ import annotations

import enum
import string
from typing import Any, ClassVar, Final


class ExitCode(enum.IntEnum):
    """Exit statuses of `hyperbox` and `hyperboxd`.

    0 and 2 are what shells and Typer use already; the others group errors by what the caller can do about them.
    """

    OK = 0
    """The command did what it was asked to."""
    FAILURE = 1
    """Something failed that has no more telling code."""
    USAGE = 2
    """The command line is wrong."""
    CONFIG = 3
    """A configuration file, variable or policy is wrong."""
    UNAVAILABLE = 4
    """The daemon, engine or registry did not answer: trying again may help."""
    NOT_FOUND = 5
    """What the command names does not exist."""
    CONFLICT = 6
    """The state does not allow it now: it exists already, is in use or is locked."""
    DENIED = 7
    """Permission or credentials are missing."""
    CORRUPT = 8
    """Bytes do not match their digest, or foreign data is malformed or hostile."""
    UNSUPPORTED = 9
    """This kernel, file system or engine cannot do it."""
    EXHAUSTED = 10
    """A disk, memory or time limit was reached."""
    FINDINGS = 11
    """The command worked, and what it checked is not all well (`doctor`, `store verify`, `config check`)."""


class GrpcStatus(enum.IntEnum):
    """The gRPC status codes that the snapshotter answers with (numbers of the gRPC specification)."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15


class HyperBoxError(Exception):
    """Base of all errors that HyperBox raises on purpose.

    A concrete subclass sets every class variable and takes the fields of its `template` as keyword arguments:
    `LayerNotFound(layer="…")`. Unknown or missing fields are a `TypeError` at once, so a message can never fail
    while something else is failing.
    """

    code: ClassVar[str]
    """Stable identifier, `HB-<ROOM>-<NUMBER>`; never reused for another meaning."""
    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE
    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[GrpcStatus] = GrpcStatus.INTERNAL
    retryable: ClassVar[bool] = False
    template: ClassVar[str]
    """One line with `{field}` places."""
    remedy: ClassVar[str]
    """What the reader should do, in one or two sentences."""
    fields: ClassVar[tuple[str, ...]] = ()

    _registry: Final[dict[str, type[HyperBoxError]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "code" not in cls.__dict__:
            return
        if cls.code in HyperBoxError._registry:
            raise TypeError(f"error code {cls.code} is declared twice")
        names = [name for _, name, _, _ in string.Formatter().parse(cls.template) if name]
        cls.fields = tuple(dict.fromkeys(names))
        HyperBoxError._registry[cls.code] = cls

    def __init__(self, **fields: Any) -> None:
        if set(fields) != set(self.fields):
            raise TypeError(f"{type(self).__name__} takes {self.fields}, not {tuple(fields)}")
        self.values = {name: value if isinstance(value, int) else str(value) for name, value in fields.items()}
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """The filled-in one-line message, without code and remedy."""
        return self.template.format(**self.values)

    def __reduce__(self) -> Any:
        return (_rebuild, (type(self), self.values))


def _rebuild(cls: type[HyperBoxError], values: dict[str, Any]) -> HyperBoxError:
    return cls(**values)


def catalogue() -> dict[str, type[HyperBoxError]]:
    """All declared errors by code, in code order."""
    return dict(sorted(HyperBoxError._registry.items()))
