"""containerd's filter grammar."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbox.api.errors.snapshotter import FilterInvalid
from hyperbox.snapshotter.filters import Adaptor, parse_filter, parse_filters
from hyperbox.snapshotter.machine import adaptor
from hyperbox.snapshotter.model import Kind, Snapshot

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def snapshot(name: str = "n", parent: str = "", **labels: str) -> Adaptor:
    return adaptor(Snapshot(1, name, parent, Kind.COMMITTED, labels, 0, 0))


def fields(**values: str) -> Adaptor:
    def look_up(path: Sequence[str]) -> str | None:
        return values.get("_".join(path))

    return look_up


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("name==n", True),
        ("name==m", False),
        ("name!=m", True),
        ("name == n", True),
        ("kind==committed", True),
        ("kind==committed,name==m", False),
        ("kind~=^comm", True),
        ("kind~=mitted$,name==n", True),
        ("kind~=/^(active|committed)$/", True),
        ("kind~=|^comm|", True),
        (r'kind~="^\\w+$"', True),
        ("kind~=(", False),  # does not compile
        ("parent", True),
        ('parent==""', True),
        ('parent!=""', False),
        ("labels.a", True),
        ("labels.b", False),
        ("labels.b!=x", True),
        ('labels.a=="1"', True),
        (r'labels.a=="\x31"', True),
        (r'labels.a=="\061"', True),
        ('labels."a.b/c"==sha256:12', True),
        ('labels."a.b/c"=="sha256:12"', True),
        ("labels.dotted.key==v", True),
        ("unknown", False),
        ("unknown!=x", True),
        ("name~=", None),
        ("name==", None),
        ("name=n", None),
        ("name===n", None),
        ("==n", None),
        ("name==n,", None),
        ("name==n ,kind==committed", None),  # containerd's scanner, too, wants the comma at once
        (",name==n", None),
        ("name==.x", None),
        ("name./x/", None),
        ("name==/x/", None),
        ('name=="x', None),
        (r'name=="\q"', None),
        (r'name=="\400"', None),
        ("name.", None),
        ("name n", None),
        ("a b==c", None),
        ("n\N{LATIN SMALL LETTER A WITH DIAERESIS}me==x", None),
    ],
)
def test_grammar(text: str, matches: bool | None) -> None:
    view = snapshot(**{"a": "1", "a.b/c": "sha256:12", "dotted.key": "v"})
    if matches is None:
        with pytest.raises(FilterInvalid):
            parse_filter(text)
    else:
        assert parse_filter(text)(view) is matches


def test_what_containerds_metadata_store_asks() -> None:
    text = r'labels."containerd.io/snapshot.ref"==sha256:abc,parent=="ns/12/sha256:\"x"'
    matches = parse_filter(text)
    assert matches(snapshot(parent='ns/12/sha256:"x', **{"containerd.io/snapshot.ref": "sha256:abc"}))
    assert not matches(snapshot(parent="", **{"containerd.io/snapshot.ref": "sha256:abc"}))


def test_several_filters_are_alternatives_and_none_is_all() -> None:
    either = parse_filters(["name==a", "name==b"])
    assert [either(fields(name=name)) for name in "abc"] == [True, True, False]
    assert parse_filters([])(fields())


def test_an_error_says_where() -> None:
    with pytest.raises(FilterInvalid) as caught:
        parse_filter("name==a,kind=b")
    assert caught.value.values["position"] == 12


def go_quote(text: str) -> str:
    """Go's %q for what matters here."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(c, c if c.isprintable() else f"\\U{ord(c):08x}") for c in text) + '"'


@given(
    key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    value=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_quoting_round_trip(key: str, value: str) -> None:
    matches = parse_filter(f"labels.{go_quote(key)}=={go_quote(value)}")
    assert matches(snapshot(**{key: value}))
    assert not matches(snapshot(**{key: f"{value}!"}))


@given(st.text())
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    try:
        matches = parse_filter(text)
    except FilterInvalid:
        return
    assert matches(snapshot(text)) in (True, False)
