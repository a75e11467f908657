"""Platforms: which image of an index runs here, decided as containerd decides it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Self

from hyperbox.api.errors.registry import BadReference

_ARCHITECTURES: Final = {
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armv7": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv6l": ("arm", "v6"),
}
_ARM_VARIANTS: Final = ("v8", "v7", "v6", "v5")


@dataclass(frozen=True, slots=True)
class Platform:
    """Operating system, architecture and variant, normalised: make it with `Platform.of` or `Platform.parse`."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @classmethod
    def of(cls, os_name: str, architecture: str, variant: str = "", os_version: str = "") -> Self:
        """Normalise the spellings that people and kernels use (`x86_64`, `aarch64`, `arm64/8`, …)."""
        os_name = {"macos": "darwin"}.get(os_name.lower(), os_name.lower())
        architecture, variant = _normalise(architecture.lower(), variant.lower())
        return cls(os_name, architecture, variant, os_version)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `os/architecture[/variant]`; raises `BadReference` for anything else."""
        parts = text.strip().split("/")
        if len(parts) not in (2, 3) or not all(parts):
            raise BadReference(reference=text, reason="a platform is written os/architecture[/variant]")
        return cls.of(*parts)

    @classmethod
    def host(cls) -> Self:
        """Return the platform of the running kernel."""
        return cls.of("linux", os.uname().machine)


def _normalise(architecture: str, variant: str) -> tuple[str, str]:
    architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
    variant = variant or implied
    if architecture in ("arm", "arm64") and variant[:1].isdigit():
        variant = f"v{variant}"
    if architecture == "arm" and not variant:
        variant = "v7"
    # The baseline variant is left out, so that equal platforms compare equal.
    if (architecture, variant) in (("arm64", "v8"), ("arm64", "v8.0"), ("amd64", "v1")):
        variant = ""
    return architecture, variant


def candidates(wanted: Platform) -> list[Platform]:
    """Return the platforms that run on `wanted`, best first: itself, lower variants, the 32-bit sibling."""

    def with_variant(architecture: str, variant: str = "") -> Platform:
        return Platform(wanted.os, architecture, variant)

    result = [with_variant(wanted.architecture, wanted.variant)]
    if wanted.architecture == "amd64":
        level = int(wanted.variant[1:]) if wanted.variant[1:].isdigit() else 1
        result += [with_variant("amd64", f"v{n}" if n > 1 else "") for n in range(level - 1, 0, -1)]
        result.append(with_variant("386"))
    elif wanted.architecture == "arm64":
        if wanted.variant:
            result.append(with_variant("arm64"))
        result += [with_variant("arm", variant) for variant in _ARM_VARIANTS]
    elif wanted.architecture == "arm" and wanted.variant in _ARM_VARIANTS:
        lower = _ARM_VARIANTS[_ARM_VARIANTS.index(wanted.variant) + 1 :]
        result += [with_variant("arm", variant) for variant in lower]
    return result


def rank(wanted: Platform, offered: Platform) -> int | None:
    """Return how well an offered platform serves `wanted` (0 is best), None when it does not run there."""
    plain = Platform(offered.os, offered.architecture, offered.variant)
    order = candidates(wanted)
    return order.index(plain) if plain in order else None
