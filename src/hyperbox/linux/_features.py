"""What a probe found: each thing that HyperBox would like to use, whether it is there, and what to do if not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

DataPath = Literal["composed", "vanilla"]


@dataclass(frozen=True, slots=True)
class Feature:
    """One capability of kernel, file system or process, as tried."""

    name: str
    present: bool
    detail: str
    """What was seen: how it worked, or what the kernel said."""
    needed_for: str
    since_kernel: str
    """First release of the mainline kernel that has it; empty when it does not depend on that."""
    remedy: str
    """What to do when it is missing."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What is known about a feature before it is tried."""

    needed_for: str
    since_kernel: str
    remedy: str


_NEWER = "Boot a newer kernel (6.12 has everything for the composed data path)."
_STATE = "Put the state folder on ext4, xfs or btrfs, not on a network, FUSE or stacked file system."

DECLARATIONS: dict[str, Declaration] = {
    "mounting": Declaration("everything", "5.2", "Run hyperboxd as root, or with CAP_SYS_ADMIN, outside of a sandbox."),
    "trusted_xattrs": Declaration("layers as metadata that points to objects", "", _STATE),
    "d_type": Declaration("overlay layers on the state folder", "", _STATE),
    "hard_links": Declaration("keeping equal files once", "", _STATE),
    "tmpfile": Declaration("temporary files that no crash leaves behind", "3.11", _STATE),
    "reflink": Declaration("copying objects without their bytes", "4.5", "Use btrfs, or xfs made with reflink=1."),
    "fs_verity": Declaration(
        "kernel-checked objects", "5.4", "Use ext4 with the verity feature or btrfs, and a kernel with FS_VERITY."
    ),
    "overlay": Declaration("containers at all", "3.18", "Load the overlay module: `modprobe overlay`."),
    "fsconfig_layers": Declaration("chains of many layers with long paths", "6.7", _NEWER),
    "data_only_layers": Declaration("one copy of each file for all images (composed data path)", "6.5", _NEWER),
    "metacopy": Declaration("chmod and chown in a container without copying the file", "4.19", _NEWER),
    "xino": Declaration("one device number for a container's whole tree", "4.17", _STATE),
    "erofs": Declaration("layer metadata", "5.4", "Load the erofs module (`modprobe erofs`) or boot a kernel with it."),
    "file_backed_erofs": Declaration("layers without a loop device each", "6.12", _NEWER),
    "loop_erofs": Declaration(
        "layers on kernels before 6.12", "5.8", "Load the loop module and give the daemon /dev/loop-control."
    ),
    "idmapped_mounts": Declaration("containers in user namespaces without chown", "5.12", _NEWER),
    "user_namespaces": Declaration(
        "ID-mapped mounts", "3.8", "Raise user.max_user_namespaces; unset kernel.unprivileged_userns_clone=0."
    ),
    "fanotify_permission": Declaration(
        "lazy start: holding an open until its file is here", "6.5", "Boot a kernel with FANOTIFY_ACCESS_PERMISSIONS."
    ),
    "pre_access": Declaration("lazy start of large files, range by range", "6.15", "Boot kernel 6.15 or newer."),
    "cgroup_v2": Declaration("memory budgets and reclaim", "4.5", "Boot with systemd.unified_cgroup_hierarchy=1."),
    "psi": Declaration("memory pressure", "4.20", "Boot with psi=1."),
}


@dataclass(frozen=True, slots=True)
class Features:
    """The result of `probe`; iterating gives every `Feature`, in the order in which they build on each other."""

    state_dir: str
    kernel_release: str
    capabilities: frozenset[str]
    """Effective capabilities of the daemon or command that probed."""
    filesystem: str
    """Type of the file system below the state folder."""
    seconds: float
    """How long the probe took."""
    mounting: Feature
    trusted_xattrs: Feature
    d_type: Feature
    hard_links: Feature
    tmpfile: Feature
    reflink: Feature
    fs_verity: Feature
    overlay: Feature
    fsconfig_layers: Feature
    data_only_layers: Feature
    metacopy: Feature
    xino: Feature
    erofs: Feature
    file_backed_erofs: Feature
    loop_erofs: Feature
    idmapped_mounts: Feature
    user_namespaces: Feature
    fanotify_permission: Feature
    pre_access: Feature
    cgroup_v2: Feature
    psi: Feature

    def __iter__(self) -> Iterator[Feature]:
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return (value for value in values if isinstance(value, Feature))

    @property
    def missing_for_composed(self) -> tuple[Feature, ...]:
        """What stands between this machine and the composed data path."""
        wanted = (self.mounting, self.trusted_xattrs, self.overlay, self.erofs, self.data_only_layers)
        return tuple(feature for feature in wanted if not feature.present)

    @property
    def data_path(self) -> DataPath:
        """`composed`: EROFS metadata over shared objects; `vanilla`: layers as folders, as any engine keeps them."""
        return "vanilla" if self.missing_for_composed else "composed"

    @property
    def data_path_reason(self) -> str:
        """One line that says why `data_path` is what it is."""
        missing = self.missing_for_composed
        if missing:
            return "; ".join(f"{feature.name}: {feature.detail}" for feature in missing)
        backing = "from the file" if self.file_backed_erofs.present else "through loop devices"
        return f"data-only layers work, EROFS images are mounted {backing}"
