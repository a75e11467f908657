"""Errors of the `snapshotter` room: what containerd asked for and the state does not allow."""

from __future__ import annotations

from hyperbox.api.errors.base import ExitCode, GrpcStatus, HyperBoxError


class SnapshotNotFound(HyperBoxError):
    """No snapshot has this key or name."""

    code = "HB-SNAPSHOTTER-001"
    exit_code = ExitCode.NOT_FOUND
    http_status = 404
    grpc_status = GrpcStatus.NOT_FOUND
    template = "snapshot {key} does not exist"
    remedy = "List what there is with `ctr snapshots --snapshotter hyperbox ls`; the engine may have removed it."


class SnapshotExists(HyperBoxError):
    """The key or name is taken."""

    code = "HB-SNAPSHOTTER-002"
    exit_code = ExitCode.CONFLICT
    http_status = 409
    grpc_status = GrpcStatus.ALREADY_EXISTS
    template = "snapshot {key} already exists"
    remedy = "Use another key, or remove the snapshot that has it."


class LayerAlreadyHere(HyperBoxError):
    """HyperBox has the layer itself: the engine need not fetch and unpack it. This is how success is told."""

    code = "HB-SNAPSHOTTER-003"
    exit_code = ExitCode.CONFLICT
    http_status = 409
    grpc_status = GrpcStatus.ALREADY_EXISTS
    template = "target snapshot {target} already exists"
    remedy = "Nothing to do: containerd goes on with the next layer."


class ParentNotCommitted(HyperBoxError):
    """Only a committed snapshot can be a parent."""

    code = "HB-SNAPSHOTTER-004"
    exit_code = ExitCode.USAGE
    http_status = 400
    grpc_status = GrpcStatus.INVALID_ARGUMENT
    template = "parent {parent} is not a committed snapshot"
    remedy = "Commit the parent first."


class SnapshotNotActive(HyperBoxError):
    """Only an active snapshot can be committed."""

    code = "HB-SNAPSHOTTER-005"
    exit_code = ExitCode.CONFLICT
    http_status = 409
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "snapshot {key} is not active"
    remedy = "Commit the key that Prepare was called with."


class SnapshotHasChildren(HyperBoxError):
    """A snapshot goes only after all that were made from it."""

    code = "HB-SNAPSHOTTER-006"
    exit_code = ExitCode.CONFLICT
    http_status = 409
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "cannot remove snapshot {key}: it has children"
    remedy = "Remove the containers and images that use it first."


class SnapshotCommitted(HyperBoxError):
    """A committed snapshot has no mounts of its own."""

    code = "HB-SNAPSHOTTER-007"
    exit_code = ExitCode.CONFLICT
    http_status = 409
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "snapshot {key} is committed and has no mounts"
    remedy = "Make a view of it and mount that."


class SnapshotFieldFixed(HyperBoxError):
    """Update may change labels and nothing else."""

    code = "HB-SNAPSHOTTER-008"
    exit_code = ExitCode.USAGE
    http_status = 400
    grpc_status = GrpcStatus.INVALID_ARGUMENT
    template = "cannot update field {field} of snapshot {key}"
    remedy = "Name `labels` or `labels.<key>` in the update mask."


class SnapshotParentFixed(HyperBoxError):
    """Commit named another parent than Prepare did."""

    code = "HB-SNAPSHOTTER-009"
    exit_code = ExitCode.USAGE
    http_status = 400
    grpc_status = GrpcStatus.INVALID_ARGUMENT
    template = "cannot change the parent of snapshot {key} to {parent} on commit"
    remedy = "Commit without a parent, or prepare the snapshot without one."


class SnapshotKeyMissing(HyperBoxError):
    """The request has no key."""

    code = "HB-SNAPSHOTTER-010"
    exit_code = ExitCode.USAGE
    http_status = 400
    grpc_status = GrpcStatus.INVALID_ARGUMENT
    template = "the request names no snapshot"
    remedy = "Give the snapshot a key."


class FilterInvalid(HyperBoxError):
    """A List filter does not follow containerd's grammar."""

    code = "HB-SNAPSHOTTER-011"
    exit_code = ExitCode.USAGE
    http_status = 400
    grpc_status = GrpcStatus.INVALID_ARGUMENT
    template = "filter [{filter}] is wrong at byte {position}: {reason}"
    remedy = 'Write filters like `kind==committed,labels."a.b"==value`.'


class IdMappingInvalid(HyperBoxError):
    """The labels that ask for mapped owners cannot be understood."""

    code = "HB-SNAPSHOTTER-012"
    exit_code = ExitCode.USAGE
    http_status = 400
    grpc_status = GrpcStatus.INVALID_ARGUMENT
    template = "ID mapping {mapping} is wrong: {reason}"
    remedy = "Write it as `container:host:length`, several separated by commas, and map the ID 0."


class SnapshotDamaged(HyperBoxError):
    """The files of a snapshot are not where the catalogue says."""

    code = "HB-SNAPSHOTTER-013"
    exit_code = ExitCode.CORRUPT
    http_status = 500
    grpc_status = GrpcStatus.DATA_LOSS
    template = "snapshot {key} is damaged: {reason}"
    remedy = "Run `hyperbox store verify`; remove the image and pull it again if that does not repair it."


class LayerNotProvided(HyperBoxError):
    """HyperBox could not bring a layer in; the engine unpacks it as it would without HyperBox."""

    code = "HB-SNAPSHOTTER-014"
    exit_code = ExitCode.UNAVAILABLE
    http_status = 502
    grpc_status = GrpcStatus.UNAVAILABLE
    retryable = True
    template = "layer {layer} was left to the engine: {reason}"
    remedy = "See `hyperbox image explain`; the container is not affected."


class CompactionFailed(HyperBoxError):
    """A layer that the engine unpacked stays an ordinary folder."""

    code = "HB-SNAPSHOTTER-015"
    exit_code = ExitCode.FAILURE
    http_status = 500
    grpc_status = GrpcStatus.INTERNAL
    template = "layer {key} was not compacted: {reason}"
    remedy = "The layer works as it is. `hyperbox layer ls` shows such layers; restart the daemon to try them again."


class SnapshotterStopping(HyperBoxError):
    """The daemon is shutting down."""

    code = "HB-SNAPSHOTTER-016"
    exit_code = ExitCode.UNAVAILABLE
    http_status = 503
    grpc_status = GrpcStatus.UNAVAILABLE
    retryable = True
    template = "the snapshotter is stopping"
    remedy = "Try again when the daemon is back."
