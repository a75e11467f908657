"""Errors of references, manifests, registries and pulls: what came over the wire, or did not, in words."""

from __future__ import annotations

from hyperbox.api.errors.base import ExitCode, GrpcStatus, HyperBoxError


class BadReference(HyperBoxError):
    """A string is not an image reference."""

    code = "HB-REGISTRY-001"
    exit_code = ExitCode.USAGE
    http_status = 400
    grpc_status = GrpcStatus.INVALID_ARGUMENT
    template = "{reference!r} is not an image reference: {reason}"
    remedy = "Write it like `docker pull` does: [host[:port]/]repository[:tag][@sha256:…], repository in lower case."


class RegistryUnreachable(HyperBoxError):
    """No connection to the registry, or it broke more often than the retries allow."""

    code = "HB-REGISTRY-002"
    exit_code = ExitCode.UNAVAILABLE
    http_status = 503
    grpc_status = GrpcStatus.UNAVAILABLE
    retryable = True
    template = "registry {host} cannot be reached: {reason}"
    remedy = "Check the name, the network and the proxy variables of the daemon; a mirror keeps pulls going."


class RegistryDenied(HyperBoxError):
    """The registry does not let these credentials (or none) read the repository."""

    code = "HB-REGISTRY-003"
    exit_code = ExitCode.DENIED
    http_status = 403
    grpc_status = GrpcStatus.PERMISSION_DENIED
    template = "registry {host} denies access to {repository}: {reason}"
    remedy = "Log in as the user the daemon runs as (`docker login`), or name the right config.json in the settings."


class ManifestNotFound(HyperBoxError):
    """No endpoint of the registry has this tag or digest."""

    code = "HB-REGISTRY-004"
    exit_code = ExitCode.NOT_FOUND
    http_status = 404
    grpc_status = GrpcStatus.NOT_FOUND
    template = "{reference} does not exist in registry {host}"
    remedy = "Check the repository and tag; a private repository looks like this too when nobody is logged in."


class BlobNotFound(HyperBoxError):
    """The manifest names a blob that the registry does not have."""

    code = "HB-REGISTRY-005"
    exit_code = ExitCode.NOT_FOUND
    http_status = 404
    grpc_status = GrpcStatus.NOT_FOUND
    template = "registry {host} has no blob {digest}"
    remedy = "Push the image again: its registry lost a part of it."


class RegistryBusy(HyperBoxError):
    """The registry limits the rate, for longer than a pull should wait."""

    code = "HB-REGISTRY-006"
    exit_code = ExitCode.UNAVAILABLE
    http_status = 503
    grpc_status = GrpcStatus.UNAVAILABLE
    retryable = True
    template = "registry {host} answers {status} and asks to come back in {seconds} s"
    remedy = "Log in (limits are higher then), or set a mirror."


class RegistryAnswerWrong(HyperBoxError):
    """The registry's answer does not follow the distribution specification."""

    code = "HB-REGISTRY-007"
    exit_code = ExitCode.UNAVAILABLE
    http_status = 502
    grpc_status = GrpcStatus.UNAVAILABLE
    template = "registry {host} gave an answer that makes no sense: {reason}"
    remedy = "See whether the address is a registry, and what its own log and any proxy before it say."


class DigestMismatch(HyperBoxError):
    """Bytes from a registry do not have the digest that they were asked for by."""

    code = "HB-REGISTRY-008"
    exit_code = ExitCode.CORRUPT
    http_status = 502
    grpc_status = GrpcStatus.DATA_LOSS
    template = "{host} sent wrong bytes for {expected}: their digest is {actual}"
    remedy = "Nothing of it was kept. Check the registry's storage, mirrors and any caching proxy."


class SizeMismatch(HyperBoxError):
    """Bytes from a registry are more or fewer than their descriptor says."""

    code = "HB-REGISTRY-009"
    exit_code = ExitCode.CORRUPT
    http_status = 502
    grpc_status = GrpcStatus.DATA_LOSS
    template = "{host} has {actual} bytes for {digest}, not {expected}"
    remedy = "Nothing of it was kept. Check the registry's storage, mirrors and any caching proxy."


class ManifestMalformed(HyperBoxError):
    """A manifest, index or image configuration is not what its specification says."""

    code = "HB-REGISTRY-010"
    exit_code = ExitCode.CORRUPT
    http_status = 502
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "{what} is malformed: {reason}"
    remedy = "Build and push the image again with a current tool."


class ManifestTooLarge(HyperBoxError):
    """A manifest, index or image configuration is larger than HyperBox reads into memory."""

    code = "HB-REGISTRY-011"
    exit_code = ExitCode.EXHAUSTED
    http_status = 502
    grpc_status = GrpcStatus.RESOURCE_EXHAUSTED
    template = "{what} is larger than {limit} bytes"
    remedy = "Leave the image to the engine, or raise the limit in the registry settings if you trust the source."


class ManifestUnsupported(HyperBoxError):
    """A media type that HyperBox does not read."""

    code = "HB-REGISTRY-012"
    exit_code = ExitCode.UNSUPPORTED
    http_status = 501
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "{what} has media type {media_type}, which HyperBox does not read"
    remedy = "Images need an OCI manifest or a Docker one of schema 2; push the image again with a current tool."


class PlatformNotFound(HyperBoxError):
    """An index has no image for the platform."""

    code = "HB-REGISTRY-013"
    exit_code = ExitCode.NOT_FOUND
    http_status = 404
    grpc_status = GrpcStatus.NOT_FOUND
    template = "{reference} has no image for {platform}; it has: {available}"
    remedy = "Ask for one of the platforms that it has, or for another tag."


class CredentialHelperFailed(HyperBoxError):
    """A `docker-credential-…` program did not give credentials."""

    code = "HB-REGISTRY-014"
    exit_code = ExitCode.DENIED
    http_status = 403
    grpc_status = GrpcStatus.PERMISSION_DENIED
    template = "credential helper {helper} failed for {host}: {reason}"
    remedy = "Run it by hand as the daemon's user: `echo HOST | docker-credential-NAME get`; see that PATH has it."


class PlainHttpRefused(HyperBoxError):
    """Something would have gone over plain HTTP to a host that is not this machine and not configured for it."""

    code = "HB-REGISTRY-015"
    exit_code = ExitCode.CONFIG
    http_status = 403
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "plain HTTP to {host} is not allowed ({where})"
    remedy = "Serve it over TLS, or set `plain_http` for this host in the registry settings."


class RegistryTlsFailed(HyperBoxError):
    """The TLS handshake failed: wrong certificate, unknown CA, missing client certificate."""

    code = "HB-REGISTRY-016"
    exit_code = ExitCode.UNAVAILABLE
    http_status = 502
    grpc_status = GrpcStatus.UNAVAILABLE
    template = "no TLS connection to registry {host}: {reason}"
    remedy = "Name the registry's CA (and client certificate) in the registry settings or in a certs.d folder."


class RegistrySettingsWrong(HyperBoxError):
    """A file that says how to reach a registry cannot be read."""

    code = "HB-REGISTRY-017"
    exit_code = ExitCode.CONFIG
    http_status = 500
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "{file}: {reason}"
    remedy = "Correct the file or take it away; the message names the place."


class PullCancelled(HyperBoxError):
    """The pull was stopped: the daemon is shutting down or nobody waits for it any more."""

    code = "HB-REGISTRY-018"
    exit_code = ExitCode.UNAVAILABLE
    http_status = 503
    grpc_status = GrpcStatus.UNAVAILABLE
    retryable = True
    template = "the pull of {what} was stopped"
    remedy = "Ask again; what was fetched whole is kept."


class PullTimedOut(HyperBoxError):
    """A layer did not come within the time that the caller can wait."""

    code = "HB-REGISTRY-019"
    exit_code = ExitCode.EXHAUSTED
    http_status = 504
    grpc_status = GrpcStatus.DEADLINE_EXCEEDED
    retryable = True
    template = "layer {layer} was not here after {seconds} s"
    remedy = "Ask again: the fetch goes on. The engine fetches the layer itself meanwhile."


class LayerHeldOff(HyperBoxError):
    """A layer failed a moment ago and is not tried again yet."""

    code = "HB-REGISTRY-020"
    exit_code = ExitCode.UNAVAILABLE
    http_status = 503
    grpc_status = GrpcStatus.UNAVAILABLE
    retryable = True
    template = "layer {layer} failed a moment ago and is tried again in {seconds} s: {reason}"
    remedy = "See the reason; the engine fetches the layer itself meanwhile."


class LayerNotOfImage(HyperBoxError):
    """The engine's labels and the image's manifest do not agree."""

    code = "HB-REGISTRY-021"
    exit_code = ExitCode.CONFLICT
    http_status = 409
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "image {image} has no layer {layer} with chain ID {chain_id}"
    remedy = "The engine fetches the layer itself. Report it with `hyperbox image explain` if it happens again."


class LayerForeign(HyperBoxError):
    """A layer that registries do not distribute (foreign, non-distributable)."""

    code = "HB-REGISTRY-022"
    exit_code = ExitCode.UNSUPPORTED
    http_status = 501
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "layer {layer} is not distributable ({media_type})"
    remedy = "The engine fetches such a layer from the addresses in its descriptor."


class LowerLayersMissing(HyperBoxError):
    """A layer leaves attributes of its folders to the layers below, and those are not here."""

    code = "HB-REGISTRY-023"
    exit_code = ExitCode.CONFLICT
    http_status = 409
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    template = "layer {layer} needs the layers below it for its folders, and {lower} is not here"
    remedy = "The engine unpacks the layer itself. Once the layers below are compacted, HyperBox can provide it."
