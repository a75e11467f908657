"""The registry client: from references to manifests, configurations and blob streams."""

from hyperbox.images.registry.auth import AuthFlow, Credentials
from hyperbox.images.registry.blob import BlobStream
from hyperbox.images.registry.client import FetchedDocument, RegistryClient, ResolvedImage
from hyperbox.images.registry.clock import Clock, SystemClock
from hyperbox.images.registry.settings import RegistrySettings, TlsFiles

__all__ = [
    "AuthFlow",
    "BlobStream",
    "Clock",
    "Credentials",
    "FetchedDocument",
    "RegistryClient",
    "RegistrySettings",
    "ResolvedImage",
    "SystemClock",
    "TlsFiles",
]
