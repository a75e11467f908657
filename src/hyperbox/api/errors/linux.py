"""Errors of the kernel room: what a system call said, in words."""

from __future__ import annotations

from hyperbox.api.errors.base import ExitCode, GrpcStatus, HyperBoxError


class KernelCallFailed(HyperBoxError):
    """A system call failed where HyperBox has no better explanation than the kernel's own."""

    code = "HB-LINUX-001"
    exit_code = ExitCode.FAILURE
    http_status = 500
    grpc_status = GrpcStatus.INTERNAL
    template = "{call} failed: {reason}"
    remedy = "Run `hyperbox doctor`; the kernel's log (`dmesg`) often says more."


class MountFailed(HyperBoxError):
    """The kernel refused a mount."""

    code = "HB-LINUX-002"
    exit_code = ExitCode.UNSUPPORTED
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "cannot mount {fstype} on {target}: {reason}"
    remedy = "Run `hyperbox doctor` to see what this kernel and file system allow."


class FeatureMissing(HyperBoxError):
    """This kernel lacks something that the request cannot do without."""

    code = "HB-LINUX-003"
    exit_code = ExitCode.UNSUPPORTED
    http_status = 501
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "the kernel lacks {feature}"
    remedy = "Use kernel 6.12 or newer for everything; `hyperbox doctor` lists what is missed without it."


class NotPrivileged(HyperBoxError):
    """A capability is missing."""

    code = "HB-LINUX-004"
    exit_code = ExitCode.DENIED
    http_status = 403
    grpc_status = GrpcStatus.PERMISSION_DENIED
    template = "{call} needs {capability}"
    remedy = "Run as root, or give the unit the capability in AmbientCapabilities=."


class MountBusy(HyperBoxError):
    """A mount is still in use, or something is mounted below it."""

    code = "HB-LINUX-005"
    exit_code = ExitCode.CONFLICT
    http_status = 409
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    retryable = True
    template = "{target} is busy: {reason}"
    remedy = "Stop the container that uses it; `fuser -vm <path>` lists who holds it open."


class NotMounted(HyperBoxError):
    """Nothing is mounted where something was to be unmounted or changed."""

    code = "HB-LINUX-006"
    exit_code = ExitCode.NOT_FOUND
    http_status = 404
    grpc_status = GrpcStatus.NOT_FOUND
    template = "nothing is mounted on {target}"
    remedy = "Check the path; `findmnt` lists all mounts of this mount namespace."
