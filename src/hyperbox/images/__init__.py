"""Images: references, registries, manifests, layers in all their forms, and the EROFS images that they become."""

from hyperbox.images import erofs, registry
from hyperbox.images.manifest import chain_ids
from hyperbox.images.platform import Platform
from hyperbox.images.pull import ImagePuller, PulledImage, PullProgress
from hyperbox.images.reference import Reference, parse_reference
from hyperbox.images.registry import RegistryClient

__all__ = [
    "ImagePuller",
    "Platform",
    "PullProgress",
    "PulledImage",
    "Reference",
    "RegistryClient",
    "chain_ids",
    "erofs",
    "parse_reference",
    "registry",
]
