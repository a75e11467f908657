"""Layer metadata as EROFS images: `build` writes them from a `Tree`, `Reader` reads them without mounting."""

from __future__ import annotations

from hyperbox.images.erofs._reader import Reader
from hyperbox.images.erofs._writer import build, build_file

__all__ = ["Reader", "build", "build_file"]
