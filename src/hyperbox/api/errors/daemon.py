"""Errors of the daemon: configuration, start, control socket."""

from __future__ import annotations

from hyperbox.api.errors.base import ExitCode, GrpcStatus, HyperBoxError


class ConfigUnreadable(HyperBoxError):
    """A configuration file cannot be read or is not TOML."""

    code = "HB-DAEMON-001"
    exit_code = ExitCode.CONFIG
    http_status = 400
    grpc_status = GrpcStatus.INVALID_ARGUMENT
    template = "{source} is not a configuration file: {reason}"
    remedy = "Correct the line that the message names, then run `hyperbox config check`."


class ConfigInvalid(HyperBoxError):
    """A setting is unknown or has a value that it cannot have."""

    code = "HB-DAEMON-002"
    exit_code = ExitCode.CONFIG
    http_status = 400
    grpc_status = GrpcStatus.INVALID_ARGUMENT
    template = "{source}, line {line}: {key}: {reason}"
    remedy = "The configuration reference lists every key with its type and bounds."


class DaemonUnreachable(HyperBoxError):
    """Nothing answers on the control socket."""

    code = "HB-DAEMON-003"
    exit_code = ExitCode.UNAVAILABLE
    http_status = 503
    grpc_status = GrpcStatus.UNAVAILABLE
    retryable = True
    template = "no daemon answers at {socket}: {reason}"
    remedy = "Start `hyperboxd`, or name its socket with `--socket` or HYPERBOX_SOCKET."


class SocketInUse(HyperBoxError):
    """Another process listens on a socket that the daemon needs."""

    code = "HB-DAEMON-004"
    exit_code = ExitCode.CONFLICT
    http_status = 409
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "another process already listens on {socket}"
    remedy = "Stop it, or give this daemon another `--run` folder."


class RequestInvalid(HyperBoxError):
    """A request to the control socket does not have the declared form."""

    code = "HB-DAEMON-005"
    exit_code = ExitCode.USAGE
    http_status = 422
    grpc_status = GrpcStatus.INVALID_ARGUMENT
    template = "the request is not valid: {reason}"
    remedy = "The RPC reference lists every operation with its fields."


class OperationUnknown(HyperBoxError):
    """No operation has this method and path."""

    code = "HB-DAEMON-006"
    exit_code = ExitCode.NOT_FOUND
    http_status = 404
    grpc_status = GrpcStatus.NOT_FOUND
    template = "there is no operation {operation}"
    remedy = "Compare the versions of `hyperbox` and `hyperboxd` with `hyperbox version`."


class UnexpectedFailure(HyperBoxError):
    """A defect of HyperBox: something failed that nobody foresaw."""

    code = "HB-DAEMON-007"
    exit_code = ExitCode.FAILURE
    http_status = 500
    grpc_status = GrpcStatus.INTERNAL
    template = "unexpected failure: {reason}"
    remedy = "This is a defect. The daemon's log holds the traceback; please report it."


class GroupUnknown(HyperBoxError):
    """The group that should get access to the control socket does not exist."""

    code = "HB-DAEMON-008"
    exit_code = ExitCode.CONFIG
    http_status = 400
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "there is no group {group}"
    remedy = "Create it with `groupadd --system`, or change daemon.api_group."


class ShutdownOverdue(HyperBoxError):
    """A stop took longer than allowed, and the daemon went without the rest."""

    code = "HB-DAEMON-009"
    exit_code = ExitCode.EXHAUSTED
    http_status = 503
    grpc_status = GrpcStatus.UNAVAILABLE
    retryable = True
    template = "{task} did not end within {seconds} s"
    remedy = "Nothing is lost; raise daemon.shutdown_seconds if it happens often."


class LayerAmbiguous(HyperBoxError):
    """A prefix fits several layers."""

    code = "HB-DAEMON-010"
    exit_code = ExitCode.CONFLICT
    http_status = 409
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "{layer} fits {count} layers"
    remedy = "Give more of its digits."
