"""containerd's filter language for List, as a pure function of strings.

A filter is a comma-separated list of selectors that must all match; several filters match when any of them does.

    selector  := fieldpath [operator value]
    fieldpath := field ("." field)*
    field     := quoted | [A-Za-z0-9_-]+
    operator  := "==" | "!=" | "~="
    value     := quoted | printable characters except "," and white space
    quoted    := a Go string literal in double quotes; after "~=" also in / or |

A selector without operator asks whether the field is there. Oddities of containerd's own scanner are kept, since its
metadata store depends on them: a value may not begin with an operator character or with "." when unquoted, and white
space is allowed before an operator or value, but not before a comma. Regular expressions are Python's, of which RE2's
are nearly a subset; one that does not compile matches nothing. Raises `FilterInvalid`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from hyperbox.api.errors.snapshotter import FilterInvalid

Adaptor = Callable[[Sequence[str]], str | None]
"""Gives the value of a field path, or None where the object has no such field."""

Filter = Callable[[Adaptor], bool]

_QUOTES: Final = '"/|'
_OPERATORS: Final = "=!~"
_FIELD: Final = re.compile(r"[A-Za-z0-9_-]+")
_OPERATOR: Final = re.compile(r"[=!~]+")
_SPACE: Final = re.compile(r"\s*")
_ESCAPE: Final = re.compile(r"\\(?:([abfnrtv\\])|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([0-7]{3})|(.))")
_SIMPLE: Final = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92}


def parse_filters(filters: Iterable[str]) -> Filter:
    """Return a filter that matches when any of `filters` does; without any, everything matches."""
    parsed = [parse_filter(text) for text in filters]
    if not parsed:
        return _always
    return lambda adaptor: any(one(adaptor) for one in parsed)


def parse_filter(text: str) -> Filter:
    """Return the filter that `text` describes; the empty string matches everything."""
    if not text:
        return _always
    selectors = _Parser(text).selectors()
    return lambda adaptor: all(selector(adaptor) for selector in selectors)


def _always(_adaptor: Adaptor) -> bool:
    return True


def _never(_adaptor: Adaptor) -> bool:
    return False


class _Token(NamedTuple):
    kind: str
    """quoted, value, field, separator, operator or end"""
    text: str
    position: int


class _Parser:
    """A scanner with one state bit (after an operator comes a value) and the grammar on top of it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._expects_value = False

    def selectors(self) -> list[Filter]:
        found = [self._selector()]
        while self._peek():
            if self._peek() != ",":
                raise self._error(self._position, "expected a comma")
            self._scan()
            found.append(self._selector())
        return found

    def _selector(self) -> Filter:
        path = self._fieldpath()
        if self._peek() in ("", ","):
            return lambda adaptor: adaptor(path) is not None
        token = self._scan()
        if token.kind != "operator" or token.text not in _COMPARISONS:
            raise self._error(token.position, "expected one of == != ~=")
        value = self._value(regular=token.text == "~=")
        return _COMPARISONS[token.text](path, value)

    def _fieldpath(self) -> list[str]:
        path = [self._field()]
        while self._peek() == ".":
            self._scan()
            path.append(self._field())
        return path

    def _field(self) -> str:
        token = self._scan()
        if token.kind == "field":
            return token.text
        if token.kind == "quoted":
            return self._unquote(token, alternatives=False)
        raise self._error(token.position, "expected a field")

    def _value(self, *, regular: bool) -> str:
        token = self._scan()
        if token.kind in ("value", "field"):
            return token.text
        if token.kind == "quoted":
            return self._unquote(token, alternatives=regular)
        raise self._error(token.position, "expected a value")

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1]

    def _scan(self) -> _Token:
        space = _SPACE.match(self._text, self._position)
        start = space.end() if space else self._position
        char = self._text[start : start + 1]
        if not char:
            return self._token("end", start, start)
        if char in _QUOTES:
            return self._token("quoted", start, self._quoted_end(start))
        if char in ",.":
            self._expects_value = False
            return self._token("separator", start, start + 1)
        operator = _OPERATOR.match(self._text, start)
        if operator:
            self._expects_value = True
            return self._token("operator", start, operator.end())
        if self._expects_value:
            self._expects_value = False
            end = start
            while end < len(self._text) and self._text[end] != "," and self._text[end].isprintable():
                if self._text[end].isspace():
                    break
                end += 1
            if end > start:
                return self._token("value", start, end)
        field = _FIELD.match(self._text, start)
        if field:
            return self._token("field", start, field.end())
        raise self._error(start, f"unexpected character {char!r}")

    def _token(self, kind: str, start: int, end: int) -> _Token:
        self._position = end
        return _Token(kind, self._text[start:end], start)

    def _quoted_end(self, start: int) -> int:
        quote, end = self._text[start], start + 1
        while end < len(self._text) and self._text[end] not in (quote, "\n"):
            end += 2 if self._text[end] == "\\" else 1
        if end >= len(self._text) or self._text[end] != quote:
            raise self._error(start, "the quoted string does not end")
        return end + 1

    def _unquote(self, token: _Token, *, alternatives: bool) -> str:
        """Undo Go's quoting. \\x and octal escapes are bytes, so the result is put together in UTF-8."""
        quote, inner = token.text[0], token.text[1:-1]
        if quote != '"' and not alternatives:
            raise self._error(token.position, "only double quotes are allowed here")
        out, last = bytearray(), 0
        for match in _ESCAPE.finditer(inner):
            out += inner[last : match.start()].encode("utf-8", "surrogateescape")
            out += self._escape(match, quote, token.position)
            last = match.end()
        out += inner[last:].encode("utf-8", "surrogateescape")
        return out.decode("utf-8", "surrogateescape")

    def _escape(self, match: re.Match[str], quote: str, position: int) -> bytes:
        simple, byte, short, long, octal, other = match.groups()
        if simple:
            return bytes([_SIMPLE[simple]])
        if byte or (octal and int(octal, 8) < 256):
            return bytes([int(byte, 16) if byte else int(octal, 8)])
        if short or long:
            point = int(short or long, 16)
            if point > 0x10FFFF:
                raise self._error(position, "no such code point")
            return chr(point).encode("utf-8", "replace")
        if other == quote:
            return other.encode()
        raise self._error(position, f"illegal escape {match.group()}")

    def _error(self, position: int, reason: str) -> FilterInvalid:
        return FilterInvalid(filter=self._text, position=position, reason=reason)


def _equal(path: list[str], value: str) -> Filter:
    return lambda adaptor: adaptor(path) == value


def _not_equal(path: list[str], value: str) -> Filter:
    # A missing field counts as the empty string, as in containerd.
    return lambda adaptor: (adaptor(path) or "") != value


def _matches(path: list[str], value: str) -> Filter:
    try:
        expression = re.compile(value)
    except re.error:
        return _never
    return lambda adaptor: expression.search(adaptor(path) or "") is not None


_COMPARISONS: Final[dict[str, Callable[[list[str], str], Filter]]] = {
    "==": _equal,
    "!=": _not_equal,
    "~=": _matches,
}
