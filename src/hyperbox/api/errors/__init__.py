"""Errors of HyperBox, one module a room; each class carries its code, statuses, message and remedy."""

from hyperbox.api.errors.base import ExitCode, GrpcStatus, HyperBoxError, catalogue

__all__ = ["ExitCode", "GrpcStatus", "HyperBoxError", "catalogue"]
