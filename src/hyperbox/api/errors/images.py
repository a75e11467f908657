"""Errors of the image room: layers that cannot be read (1xx) and layer images that cannot be written or read (2xx)."""

from __future__ import annotations

from hyperbox.api.errors.base import ExitCode, GrpcStatus, HyperBoxError


class CompressionTruncated(HyperBoxError):
    """A compressed layer ends before its compressed stream does."""

    code = "HB-IMAGE-101"
    exit_code = ExitCode.CORRUPT
    http_status = 502
    grpc_status = GrpcStatus.DATA_LOSS
    retryable = True
    template = "the {format} stream of the layer ends too early, after {read} compressed bytes"
    remedy = "Pull again; if it stays, the blob in the registry is incomplete and has to be pushed again."


class CompressionCorrupt(HyperBoxError):
    """A compressed layer is not valid in the format that its first bytes promise."""

    code = "HB-IMAGE-102"
    exit_code = ExitCode.CORRUPT
    http_status = 502
    grpc_status = GrpcStatus.DATA_LOSS
    template = "the {format} stream of the layer is damaged: {reason}"
    remedy = (
        "Push the image again. Bytes after the end of a gzip or zstd stream count as damage, as they do in containerd."
    )


class CompressionUnsupported(HyperBoxError):
    """A layer is compressed in a way that HyperBox does not read."""

    code = "HB-IMAGE-103"
    exit_code = ExitCode.UNSUPPORTED
    http_status = 501
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "the layer is compressed with {format}, which HyperBox does not read"
    remedy = (
        "Nothing has to be done: the engine unpacks this layer itself. Push it as gzip or zstd to have HyperBox do it."
    )


class LayerTooLarge(HyperBoxError):
    """Unpacking went over a limit that protects the node from decompression bombs and endless archives."""

    code = "HB-IMAGE-104"
    exit_code = ExitCode.EXHAUSTED
    http_status = 413
    grpc_status = GrpcStatus.RESOURCE_EXHAUSTED
    template = "the layer goes over the limit of {limit} {what}"
    remedy = "If you trust the image, let the engine unpack it: HyperBox refuses only its own fast path."


class TarTruncated(HyperBoxError):
    """A layer's archive ends inside an entry."""

    code = "HB-IMAGE-110"
    exit_code = ExitCode.CORRUPT
    http_status = 502
    grpc_status = GrpcStatus.DATA_LOSS
    template = "the layer's archive ends inside {entry}"
    remedy = "Build or push the image again: its layer is incomplete."


class TarCorrupt(HyperBoxError):
    """A layer's archive is not a valid tar archive."""

    code = "HB-IMAGE-111"
    exit_code = ExitCode.CORRUPT
    http_status = 502
    grpc_status = GrpcStatus.DATA_LOSS
    template = "the layer's archive is damaged at byte {offset}: {reason}"
    remedy = "Build or push the image again; `tar -tv` on the layer shows how far other programs come."


class TarTypeUnsupported(HyperBoxError):
    """A layer holds an entry of a type that has no meaning in an image."""

    code = "HB-IMAGE-112"
    exit_code = ExitCode.UNSUPPORTED
    http_status = 501
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "the layer's entry {path} has tar type {type}, which images do not have"
    remedy = "Nothing has to be done: the engine gets to unpack this layer and will say what it makes of it."


class EntryRefused(HyperBoxError):
    """A layer holds an entry that no honest builder makes: it reaches out of the root or cannot be stored."""

    code = "HB-IMAGE-113"
    exit_code = ExitCode.CORRUPT
    http_status = 422
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "the layer's entry {path} is refused: {reason}"
    remedy = "Look at who built the image before you run it in any other way."


class LinkTargetMissing(HyperBoxError):
    """A hard link points to something that the layer does not hold before it."""

    code = "HB-IMAGE-114"
    exit_code = ExitCode.CORRUPT
    http_status = 422
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "the layer's hard link {path} points to {target}, which the layer does not hold"
    remedy = "The engine gets to unpack this layer; if it fails too, build the image again."


class BlobDigestMismatch(HyperBoxError):
    """A blob's bytes are not the bytes that the manifest names."""

    code = "HB-IMAGE-120"
    exit_code = ExitCode.CORRUPT
    http_status = 502
    grpc_status = GrpcStatus.DATA_LOSS
    retryable = True
    template = "the blob's digest is {actual}, expected {expected}"
    remedy = "Pull again; if it stays, the registry or a proxy on the way delivers wrong bytes."


class DiffIdMismatch(HyperBoxError):
    """A layer unpacks to bytes that are not those which the image configuration names."""

    code = "HB-IMAGE-121"
    exit_code = ExitCode.CORRUPT
    http_status = 422
    grpc_status = GrpcStatus.DATA_LOSS
    template = "the layer unpacks to {actual}, expected diffID {expected}"
    remedy = "The image is inconsistent: build and push it again."


class FolderChanged(HyperBoxError):
    """A folder that is being compacted changed under the reader."""

    code = "HB-IMAGE-130"
    exit_code = ExitCode.CONFLICT
    http_status = 409
    grpc_status = GrpcStatus.ABORTED
    retryable = True
    template = "{path} changed while it was read: {reason}"
    remedy = "Nothing has to be done: the layer stays as it is and is tried again later."


class MergedViewNeeded(HyperBoxError):
    """A folder cannot be understood without the layers below it, and no merged view was given."""

    code = "HB-IMAGE-131"
    exit_code = ExitCode.CONFLICT
    http_status = 409
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "{path} has an overlay {what} and cannot be read without the layers below it"
    remedy = "Nothing has to be done: the layer stays as it is."


class FolderNotCompactable(HyperBoxError):
    """A folder holds something that a layer image cannot say."""

    code = "HB-IMAGE-132"
    exit_code = ExitCode.UNSUPPORTED
    http_status = 501
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "{path} cannot be compacted: {reason}"
    remedy = "Nothing has to be done: the layer stays as it is and works as before."


class ErofsMalformed(HyperBoxError):
    """A layer's metadata image is damaged, hostile, or of a kind that HyperBox does not write."""

    code = "HB-IMAGE-201"
    exit_code = ExitCode.CORRUPT
    http_status = 422
    grpc_status = GrpcStatus.DATA_LOSS
    template = "the layer metadata image is malformed near byte {offset}: {reason}"
    remedy = "Run `hyperbox store verify --repair`: the layer is set aside and fetched or built again."


class EntryNotStorable(HyperBoxError):
    """A layer holds an entry that EROFS or the kernel cannot represent."""

    code = "HB-IMAGE-202"
    exit_code = ExitCode.UNSUPPORTED
    http_status = 422
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "{path} cannot be kept in layer metadata: {reason}"
    remedy = "The engine unpacks this layer itself; rebuild the image without this entry to have it served by HyperBox."


class XattrNotStorable(HyperBoxError):
    """A layer holds an extended attribute that EROFS cannot represent or that must not come from a layer."""

    code = "HB-IMAGE-203"
    exit_code = ExitCode.UNSUPPORTED
    http_status = 422
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "the extended attribute {name} of {path} cannot be kept in layer metadata: {reason}"
    remedy = "The engine unpacks this layer itself; rebuild the image without it to have it served by HyperBox."


class TreeInconsistent(HyperBoxError):
    """A layer's tree contradicts itself: a missing parent, a hard-linked folder, a file without content."""

    code = "HB-IMAGE-204"
    exit_code = ExitCode.CORRUPT
    http_status = 422
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "the layer's tree is inconsistent at {path}: {reason}"
    remedy = "The layer was read wrongly or is hostile; report the image, and pull it without HyperBox meanwhile."
