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
