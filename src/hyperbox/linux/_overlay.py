"""Mounting overlays of any number of layers.

Kernel facts: `lowerdir+` and `datadir+` (6.7, documented for 6.8) take one layer a call, literally, without escapes.
Data-only layers (`::`) are there since 6.5. Everything older takes one string of at most 4095 bytes for all options, in
which ":", "," and "\\" are escaped. An overlay has at most 500 lower layers.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hyperbox.api.errors.linux import FeatureMissing, MountFailed
from hyperbox.linux._binding import StrPath
from hyperbox.linux._mountapi import MOUNT_ATTR_RDONLY, FsContext, short_path
from hyperbox.linux._mounts import MountFlag, mount, mount_error
from hyperbox.linux._process import kernel_version

_PAGE: Final = 4095
# "/proc/self/fd/NNN" fits 200 layers into a page; used only when the plain names do not.
_SHORTEST: Final = 0
_calls_refused: Final[list[bool]] = []


@dataclass(frozen=True, slots=True)
class _Spec:
    """The arguments of `mount_overlay`."""

    lowers: Sequence[StrPath]
    datas: Sequence[StrPath]
    upper: StrPath | None
    work: StrPath | None
    options: Sequence[str]
    readonly: bool


class _NoAppend(Exception):
    """This kernel does not know `lowerdir+`."""


def mount_overlay(
    target: StrPath,
    *,
    lowers: Sequence[StrPath],
    datas: Sequence[StrPath] = (),
    upper: StrPath | None = None,
    work: StrPath | None = None,
    options: Sequence[str] = (),
    readonly: bool = False,
) -> None:
    """Mount an overlay on `target`: `lowers` from the top down, data-only layers `datas` below them.

    `options` are flags ("volatile") or settings ("metacopy=on"). `MountFailed` with the kernel's reason;
    `FeatureMissing` when the layers do not fit into one option string and the kernel cannot take them one by one.
    """
    spec = _Spec(lowers, datas, upper, work, options, readonly)
    if _calls_refused:
        _mount_by_string(target, spec)
        return
    try:
        _mount_by_calls(target, spec)
    except _NoAppend:
        _mount_by_string(target, spec)
        # Asked once only: each try leaves a line in the log of kernels before 6.5. This mount worked, so the options
        # were not what it refused.
        _calls_refused.append(True)


def overlay_options(
    lowers: Sequence[StrPath],
    datas: Sequence[StrPath] = (),
    upper: StrPath | None = None,
    work: StrPath | None = None,
    options: Sequence[str] = (),
) -> list[str]:
    """The same overlay as options for mount(2), escaped, as they stand in fstab or in what a snapshotter returns."""
    lowerdir = ":".join(_escape(path, ":") for path in lowers)
    lowerdir += "".join(f"::{_escape(path, ':')}" for path in datas)
    result = [f"lowerdir={lowerdir}"]
    if upper is not None:
        result.append(f"upperdir={_escape(upper)}")
    if work is not None:
        result.append(f"workdir={_escape(work)}")
    return [*result, *options]


def _mount_by_calls(target: StrPath, spec: _Spec) -> None:
    said: list[str] = []
    try:
        with contextlib.ExitStack() as held:
            context = held.enter_context(FsContext.open("overlay"))
            held.callback(lambda: said.extend(context.log()))
            context.set("source", "overlay")
            _add_layers(context, spec, held, said)
            # These two are unescaped by the kernel, unlike the layers.
            for key, path in (("upperdir", spec.upper), ("workdir", spec.work)):
                if path is not None:
                    context.set(key, short_path(path, held).replace(b"\\", b"\\\\"))
            for option in spec.options:
                key, equals, value = option.partition("=")
                context.set(key, value if equals else None)
            if spec.readonly:
                context.set("ro")
            context.create()
            mounted = held.enter_context(context.mount(MOUNT_ATTR_RDONLY if spec.readonly else 0))
            mounted.attach(target)
    except OSError as error:
        # Before 6.5 an overlay's context only collects a string: an unknown option shows at the end, without words.
        if error.errno == errno.EINVAL and kernel_version() < (6, 5):
            raise _NoAppend from error
        raise mount_error(error, "overlay", target, *said) from error


def _add_layers(context: FsContext, spec: _Spec, held: contextlib.ExitStack, said: list[str]) -> None:
    for key, paths in (("lowerdir+", spec.lowers), ("datadir+", spec.datas)):
        for path in paths:
            try:
                context.set(key, short_path(path, held))
            except OSError as error:
                if error.errno == errno.EINVAL and any("nknown parameter" in line for line in context.log()):
                    raise _NoAppend from error
                said.append(f"{key}={os.fsdecode(path)}")
                raise


def _mount_by_string(target: StrPath, spec: _Spec) -> None:
    flags = MountFlag.RDONLY if spec.readonly else MountFlag(0)
    data = ",".join(overlay_options(spec.lowers, spec.datas, spec.upper, spec.work, spec.options))
    with contextlib.ExitStack() as held:
        if len(os.fsencode(data)) > _PAGE:
            short = [short_path(path, held, _SHORTEST) for path in spec.lowers]
            data = ",".join(overlay_options(short, spec.datas, spec.upper, spec.work, spec.options))
        if len(os.fsencode(data)) > _PAGE:
            raise FeatureMissing(feature=f"overlays of {len(spec.lowers)} layers (lowerdir+ in fsconfig, Linux 6.7)")
        try:
            mount("overlay", target, "overlay", flags, data)
        except MountFailed as error:
            # mount(2) says nothing but a number; a missing layer is what we can find out ourselves.
            missing = [path for path in (*spec.lowers, *spec.datas) if not os.path.isdir(path)]
            if missing:
                text = f"no folder: {os.fsdecode(missing[0])}; {error.values['reason']}"
                raise MountFailed(fstype="overlay", target=os.fsdecode(target), reason=text) from error
            raise


def _escape(path: StrPath, more: str = "") -> str:
    text = os.path.abspath(os.fsdecode(path))
    for character in ("\\", ",", *more):
        text = text.replace(character, f"\\{character}")
    return text
