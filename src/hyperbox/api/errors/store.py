"""Errors of the `store` room: objects, layers, the catalogue and the state folder that holds them."""

from __future__ import annotations

from hyperbox.api.errors.base import ExitCode, GrpcStatus, HyperBoxError


class StoreLocked(HyperBoxError):
    """Another process has this state folder open."""

    code = "HB-STORE-001"
    exit_code = ExitCode.CONFLICT
    http_status = 409
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "the state folder {state} is in use by process {pid}"
    remedy = "Stop that process (`systemctl stop hyperboxd`), or give this one another `--state` folder."


class StoreUnusable(HyperBoxError):
    """The state folder cannot hold a store."""

    code = "HB-STORE-002"
    exit_code = ExitCode.CONFIG
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "the state folder {state} cannot be used: {reason}"
    remedy = "Give a folder on a local, writable ext4, xfs or btrfs file system that root owns; see `hyperbox doctor`."


class StoreFull(HyperBoxError):
    """The file system of the state folder has no blocks, inodes or quota left."""

    code = "HB-STORE-003"
    exit_code = ExitCode.EXHAUSTED
    http_status = 507
    grpc_status = GrpcStatus.RESOURCE_EXHAUSTED
    retryable = True
    template = "no space left while writing {path}: {reason}"
    remedy = "Free space on that file system, or run `hyperbox store gc`; nothing half-written has been kept."


class StoreWriteFailed(HyperBoxError):
    """The file system refused a write, rename or sync for another reason than space."""

    code = "HB-STORE-004"
    template = "cannot write {path}: {reason}"
    remedy = "Look at the kernel's log (`dmesg`) for errors of the disk, then run `hyperbox store verify`."


class ObjectSizeMismatch(HyperBoxError):
    """A good object has another size than the one a layer or table of contents claims for its digest."""

    code = "HB-STORE-005"
    exit_code = ExitCode.CORRUPT
    http_status = 422
    grpc_status = GrpcStatus.DATA_LOSS
    template = "object sha256:{digest} has {actual} bytes, not {expected}"
    remedy = "What names this object is wrong: pull the image again, and tell who made it if that does not help."


class ObjectDigestMismatch(HyperBoxError):
    """Content does not have the digest under which it was to be stored."""

    code = "HB-STORE-006"
    exit_code = ExitCode.CORRUPT
    http_status = 422
    grpc_status = GrpcStatus.DATA_LOSS
    template = "{path} has the digest sha256:{actual}, not sha256:{expected}"
    remedy = "The file changed while it was read, or its source is damaged: try again, then look at the source."


class LayerNotFound(HyperBoxError):
    """No layer of this name is in the store."""

    code = "HB-STORE-007"
    exit_code = ExitCode.NOT_FOUND
    http_status = 404
    grpc_status = GrpcStatus.NOT_FOUND
    template = "there is no layer {layer}"
    remedy = "List what is here with `hyperbox layer ls`; pull the image again to have it back."


class LayerIncomplete(HyperBoxError):
    """A layer was to be added before all of its objects were."""

    code = "HB-STORE-008"
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "the layer names {count} objects that are not in the store, the first is sha256:{digest}"
    remedy = "Pull the image again; report it if it happens twice."


class LayerDamaged(HyperBoxError):
    """A layer's EROFS image or object list is not what was written."""

    code = "HB-STORE-009"
    exit_code = ExitCode.CORRUPT
    grpc_status = GrpcStatus.DATA_LOSS
    template = "the files of layer {layer} are damaged: {reason}"
    remedy = "Run `hyperbox store verify`, which moves them aside, then pull the image again."


class CatalogueDamaged(HyperBoxError):
    """SQLite cannot read the catalogue."""

    code = "HB-STORE-010"
    exit_code = ExitCode.CORRUPT
    grpc_status = GrpcStatus.DATA_LOSS
    template = "the catalogue {path} is damaged: {reason}"
    remedy = (
        "Restore it from a backup, or start once with `hyperboxd --rebuild-catalogue`: layers are found again from "
        "their files, snapshots are not, so containers of this state folder have to be made again."
    )


class CatalogueLost(HyperBoxError):
    """The state folder holds layers or snapshots but no catalogue."""

    code = "HB-STORE-011"
    exit_code = ExitCode.CORRUPT
    grpc_status = GrpcStatus.DATA_LOSS
    template = "the catalogue {path} is missing, but the state folder is not empty"
    remedy = (
        "Restore it from a backup, or start once with `hyperboxd --rebuild-catalogue`: layers are found again from "
        "their files, snapshots are not, so containers of this state folder have to be made again."
    )


class CatalogueNewer(HyperBoxError):
    """The catalogue was written by a newer HyperBox."""

    code = "HB-STORE-012"
    exit_code = ExitCode.UNSUPPORTED
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "the catalogue {path} has schema {found}; this HyperBox knows schemas up to {known}"
    remedy = "Run the HyperBox version that wrote it, or a newer one."


class CatalogueFailed(HyperBoxError):
    """SQLite refused a statement for a reason that is neither space nor damage."""

    code = "HB-STORE-013"
    template = "the catalogue refused a request: {reason}"
    remedy = "Run `hyperbox store verify`; report it with the daemon's log if the store is well."


class SnapshotExists(HyperBoxError):
    """The catalogue has a snapshot of this key."""

    code = "HB-STORE-014"
    exit_code = ExitCode.CONFLICT
    http_status = 409
    grpc_status = GrpcStatus.ALREADY_EXISTS
    template = "snapshot {key} exists"
    remedy = "Remove it first, or use another key."


class SnapshotNotFound(HyperBoxError):
    """The catalogue has no snapshot of this key."""

    code = "HB-STORE-015"
    exit_code = ExitCode.NOT_FOUND
    http_status = 404
    grpc_status = GrpcStatus.NOT_FOUND
    template = "there is no snapshot {key}"
    remedy = "List the snapshots that the engine knows with `ctr snapshots --snapshotter hyperbox ls`."


class ImageNotFound(HyperBoxError):
    """The catalogue has no image of this reference."""

    code = "HB-STORE-016"
    exit_code = ExitCode.NOT_FOUND
    http_status = 404
    grpc_status = GrpcStatus.NOT_FOUND
    template = "there is no image {reference}"
    remedy = "List what is here with `hyperbox image ls`; an image appears when it is pulled through HyperBox."


class LeaseReleased(HyperBoxError):
    """A lease was used after its end, so nothing would protect what it stores."""

    code = "HB-STORE-017"
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "the lease for {purpose} has been released"
    remedy = "This is an error in HyperBox: report it with the daemon's log."
