"""Extended attributes in EROFS: which of them are shared between inodes, and the bytes that follow an inode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hyperbox.api.errors.images import XattrNotStorable
from hyperbox.images.erofs import _format as fmt
from hyperbox.images.erofs._survey import show
from hyperbox.images.tree import Inode

_Attribute = tuple[bytes, bytes]
_NO_METACOPY: _Attribute = (fmt.METACOPY, b"")
_OPAQUE: _Attribute = (fmt.OPAQUE, b"y")


def redirect_of(digest: bytes) -> bytes:
    """Return where overlayfs finds the content `digest` in a data-only layer of objects."""
    name = digest.hex()
    return f"/{name[:2]}/{name[2:]}".encode()


class XattrWriter:
    """Encodes the attributes of all inodes of one image.

    Attributes that occur on more than one inode lie once in the shared area; an inode names them by their distance
    (in units of 4 bytes) from the start of the image. `area` holds the bytes of the shared area, and `place` says
    where it lies; bodies have their final length before that, but not their final content.
    """

    def __init__(self, inodes: Iterable[Inode]) -> None:
        counts: Counter[_Attribute] = Counter()
        digests: Counter[bytes] = Counter()
        opaque = 0
        for inode in inodes:
            if inode.xattrs:
                counts.update(inode.xattrs.items())
            if inode.digest is not None:
                digests[inode.digest] += 1
            opaque += inode.opaque
        counts[_NO_METACOPY] = digests.total()
        counts[_OPAQUE] = opaque
        for digest, count in digests.items():
            if count > 1:
                counts[fmt.REDIRECT, redirect_of(digest)] = count
        shared = sorted(attribute for attribute, count in counts.items() if count > 1)
        self._offsets: dict[_Attribute, int] = {}
        area = bytearray()
        for attribute in shared:
            # A name that cannot be stored is reported by `body`, which knows the path.
            if fmt.split_xattr_name(attribute[0]) is not None and len(attribute[1]) <= fmt.XATTR_VALUE_MAX:
                self._offsets[attribute] = len(area)
                area += _entry(attribute)
        self.area = bytes(area)
        self.place(0)

    def place(self, position: int) -> None:
        """Say that the shared area starts at byte `position` (a multiple of 4) of the image."""
        self._ids = {attribute: (position + offset) // 4 for attribute, offset in self._offsets.items()}
        self._plain_head = b""
        if _NO_METACOPY in self._ids:
            bits = fmt.xattr_filter_bit(fmt.METACOPY) | fmt.xattr_filter_bit(fmt.REDIRECT)
            self._plain_head = (
                fmt.XATTR_BODY.pack(fmt.XATTR_FILTER_ALL & ~bits, 1)
                + self._ids[_NO_METACOPY].to_bytes(4, "little")
                + _entry((fmt.REDIRECT, redirect_of(bytes(32))))[: -len(_REDIRECT_TAIL)]
            )

    def body(self, path: bytes, inode: Inode) -> bytes:
        """Return what follows the inode: header, shared ids, inline entries; empty without attributes.

        Raises `XattrNotStorable` for attributes outside the namespaces of EROFS, over its sizes, or in
        `trusted.overlay.`, which from a layer could point outside of the image.
        """
        digest = inode.digest
        if digest is not None and not inode.xattrs and self._plain_head:
            redirect = redirect_of(digest)
            if (fmt.REDIRECT, redirect) not in self._ids:
                return self._plain_head + redirect + _PADDING
        attributes = sorted(inode.xattrs.items()) if inode.xattrs else []
        for name, value in attributes:
            _check(path, name, value)
        if digest is not None:
            attributes += (_NO_METACOPY, (fmt.REDIRECT, redirect_of(digest)))
        if inode.opaque:
            attributes.append(_OPAQUE)
        if not attributes:
            return b""
        return self._encode(path, attributes)

    def _encode(self, path: bytes, attributes: list[_Attribute]) -> bytes:
        present = 0
        shared: list[bytes] = []
        inline: list[bytes] = []
        for attribute in attributes:
            present |= fmt.xattr_filter_bit(attribute[0])
            number = self._ids.get(attribute)
            if number is None or len(shared) == fmt.XATTR_SHARED_MAX:
                inline.append(_entry(attribute))
            else:
                shared.append(number.to_bytes(4, "little"))
        head = fmt.XATTR_BODY.pack(fmt.XATTR_FILTER_ALL & ~present, len(shared))
        body = b"".join((head, *shared, *inline))
        if len(body) > fmt.XATTR_BODY_MAX:
            raise XattrNotStorable(
                path=show(path), name="(all)", reason=f"they need {len(body)} of at most {fmt.XATTR_BODY_MAX} bytes"
            )
        return body


def _entry(attribute: _Attribute) -> bytes:
    name, value = attribute
    split = fmt.split_xattr_name(name)
    assert split is not None
    index, rest = split
    size = fmt.XATTR_ENTRY.size + len(rest) + len(value)
    return fmt.XATTR_ENTRY.pack(len(rest), index, len(value)) + rest + value + bytes(-size % 4)


_PADDING = bytes(-(fmt.XATTR_ENTRY.size + len(b"overlay.redirect") + len(redirect_of(bytes(32)))) % 4)
_REDIRECT_TAIL = redirect_of(bytes(32)) + _PADDING


def _check(path: bytes, name: bytes, value: bytes) -> None:
    reason = None
    if name.startswith(fmt.OVERLAY):
        reason = "overlayfs would take it for its own"
    elif b"\0" in name or len(name) > fmt.NAME_MAX or fmt.split_xattr_name(name) is None:
        reason = "EROFS knows no such name"
    elif len(value) > fmt.XATTR_VALUE_MAX:
        reason = f"its value has {len(value)} of at most {fmt.XATTR_VALUE_MAX} bytes"
    if reason is not None:
        raise XattrNotStorable(path=show(path), name=name.decode("utf-8", "backslashreplace"), reason=reason)
