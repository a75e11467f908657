"""Errors of HyperBox, one module a room; each class carries its code, statuses, message and remedy."""

from hyperbox.api.errors import daemon, engines, images, linux, registry, snapshotter, store
from hyperbox.api.errors.base import ExitCode, GrpcStatus, HyperBoxError, catalogue

__all__ = [
    "ExitCode",
    "GrpcStatus",
    "HyperBoxError",
    "catalogue",
    "daemon",
    "engines",
    "images",
    "linux",
    "registry",
    "snapshotter",
    "store",
]
