"""Errors of the engines: Docker and containerd as clients, and their set-up."""

from __future__ import annotations

from hyperbox.api.errors.base import ExitCode, GrpcStatus, HyperBoxError


class ImageUnknown(HyperBoxError):
    """No engine that HyperBox knows has this image."""

    code = "HB-ENGINE-001"
    exit_code = ExitCode.NOT_FOUND
    http_status = 404
    grpc_status = GrpcStatus.NOT_FOUND
    template = "no image {image} on this node"
    remedy = "`hyperbox image ls` lists the images that are here; pull it with your engine first."


class EngineUnreachable(HyperBoxError):
    """An engine's socket does not answer."""

    code = "HB-ENGINE-002"
    exit_code = ExitCode.UNAVAILABLE
    http_status = 503
    grpc_status = GrpcStatus.UNAVAILABLE
    retryable = True
    template = "{engine} does not answer at {address}: {reason}"
    remedy = "Start the engine, or name its socket in engine.containerd_address."


class EngineConfigUnreadable(HyperBoxError):
    """An engine's configuration file cannot be parsed, so nothing is changed in it."""

    code = "HB-ENGINE-003"
    exit_code = ExitCode.CONFIG
    http_status = 400
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "{file} cannot be read as {form}: {reason}"
    remedy = "Correct the file by hand; `hyperbox setup` changes only files that it understands."


class EngineConfigVersion(HyperBoxError):
    """The containerd configuration has a version that HyperBox does not know how to change."""

    code = "HB-ENGINE-004"
    exit_code = ExitCode.UNSUPPORTED
    http_status = 400
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "{file} has configuration version {version}; 2, 3 and 4 are known"
    remedy = "Migrate it with `containerd config migrate`, then run the set-up again."


class BackupMissing(HyperBoxError):
    """There is nothing to take back."""

    code = "HB-ENGINE-005"
    exit_code = ExitCode.NOT_FOUND
    http_status = 404
    grpc_status = GrpcStatus.NOT_FOUND
    template = "no set-up of HyperBox is recorded for {file}"
    remedy = "It was never applied here, or was undone already; compare the file with the guide by hand."


class ConfigChangedSince(HyperBoxError):
    """The engine's configuration was changed after the set-up, so the backup would lose that change."""

    code = "HB-ENGINE-006"
    exit_code = ExitCode.CONFLICT
    http_status = 409
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "{file} was changed after HyperBox was set up (backup: {backup})"
    remedy = "Take HyperBox's lines out by hand, or put the backup back yourself."


class SetupCheckFailed(HyperBoxError):
    """The engine refused its new configuration; the old one is back in place."""

    code = "HB-ENGINE-007"
    exit_code = ExitCode.FAILURE
    http_status = 500
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "{engine} refuses the new {file}: {reason}"
    remedy = "The file is as it was. Report the message together with the file."


class BlobRefused(HyperBoxError):
    """The engine's content store does not take a compressed layer that `images.keep_blobs` has for it."""

    code = "HB-ENGINE-008"
    exit_code = ExitCode.FAILURE
    http_status = 502
    grpc_status = GrpcStatus.UNAVAILABLE
    retryable = True
    template = "{engine} does not take the blob {digest}: {reason}"
    remedy = "The image runs. To push or save it, mend what the message says, remove the image and pull it again."
