"""Manifests, indexes, configurations, platforms: what is read and what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbox.api.errors.registry import BadReference, ManifestMalformed, ManifestTooLarge, ManifestUnsupported
from hyperbox.images import media
from hyperbox.images.manifest import (
    DOCUMENT_LIMIT,
    ImageConfig,
    Index,
    Manifest,
    chain_ids,
    check_layers,
    digest_of,
    parse_config,
    parse_document,
)
from hyperbox.images.platform import Platform, candidates, rank

SHA = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


def descriptor(digest: str = SHA, **more: Any) -> dict[str, Any]:
    return {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": 7, **more}


def manifest(**more: Any) -> dict[str, Any]:
    config = {"mediaType": media.OCI_CONFIG, "digest": OTHER, "size": 2}
    return {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": config, "layers": [descriptor()], **more}


def parse(document: Any, content_type: str = "") -> Manifest | Index:
    return parse_document(json.dumps(document).encode(), what="test", content_type=content_type)


def test_manifest_keeps_annotations_and_unknown_fields_do_not_matter():
    annotations = {media.ESTARGZ_TOC_DIGEST: SHA, "number": 5}
    layer = descriptor(annotations=annotations, future={"a": 1})
    found = parse(manifest(layers=[layer], surprise=[1, 2], subject=descriptor(OTHER)))
    assert isinstance(found, Manifest)
    assert found.layers[0].annotations == {media.ESTARGZ_TOC_DIGEST: SHA}
    assert found.subject is not None
    assert found.subject.digest == OTHER


def test_media_type_from_header_or_shape():
    plain = manifest()
    del plain["mediaType"]
    assert parse(plain, f"{media.DOCKER_MANIFEST}; charset=utf-8").media_type == media.DOCKER_MANIFEST
    assert parse(plain).media_type == media.OCI_MANIFEST
    assert isinstance(parse({"schemaVersion": 2, "manifests": [descriptor()]}), Index)
    assert isinstance(parse({"schemaVersion": 2, "manifests": None}), Index)


@pytest.mark.parametrize(
    "document",
    [
        [], 1, None, "x", {}, manifest(config=None), manifest(config={}), manifest(layers={}), manifest(layers=[1]),
        manifest(layers=[descriptor("sha256:zz")]), manifest(layers=[descriptor("md5:" + "a" * 32)]),
        manifest(layers=[descriptor(size=-1)]), manifest(layers=[descriptor(size=True)]),
        manifest(layers=[descriptor(size=1.5)]), manifest(layers=[descriptor(size="7")]),
        manifest(layers=[descriptor(annotations=[1])]), manifest(layers=[descriptor()] * 1001),
        manifest(manifests=[descriptor()]), manifest(mediaType=5),
        {"mediaType": media.OCI_INDEX, "manifests": [descriptor()], "layers": [descriptor()]},
        {"mediaType": media.OCI_INDEX, "manifests": [descriptor(platform="linux")]},
    ],
)  # fmt: skip
def test_malformed(document: Any):
    with pytest.raises(ManifestMalformed):
        parse(document)


@pytest.mark.parametrize("data", [b"", b"\xff", b"{", b"[" * 100_000, b'{"a": NaN}', b"1" * 5000, b'"\\ud800"'])
def test_not_json(data: bytes):
    with pytest.raises(ManifestMalformed):
        parse_document(data, what="test")


def test_limits_and_unsupported_kinds():
    with pytest.raises(ManifestTooLarge):
        parse_document(b" " * (DOCUMENT_LIMIT + 1), what="test")
    for document in ({"schemaVersion": 1}, manifest(mediaType="application/vnd.example+json")):
        with pytest.raises(ManifestUnsupported):
            parse(document)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "schemaVersion": json_values,
            "mediaType": json_values | st.sampled_from(media.ACCEPTED),
            "config": json_values | st.just(descriptor()),
            "layers": json_values | st.just([descriptor()]),
            "manifests": json_values | st.lists(st.builds(lambda p: descriptor(platform=p), json_values), max_size=2),
            "annotations": json_values,
            "subject": json_values,
            "rootfs": json_values | st.just({"type": "layers", "diff_ids": [SHA]}),
            "os": json_values,
        },
    )
)
def test_anything_is_parsed_or_refused_by_name(document: dict[str, Any]):
    data = json.dumps(document).encode()
    for read in (parse_document, parse_config):
        with contextlib.suppress(ManifestMalformed, ManifestUnsupported):
            assert isinstance(read(data, what="test"), Manifest | Index | ImageConfig)


def test_chain_ids_follow_the_specification():
    a, b, c = (f"sha256:{letter * 64}" for letter in "abc")
    ab = "sha256:" + hashlib.sha256(f"{a} {b}".encode()).hexdigest()
    abc = "sha256:" + hashlib.sha256(f"{ab} {c}".encode()).hexdigest()
    assert chain_ids([a, b, c]) == (a, ab, abc)
    assert chain_ids([]) == ()


def test_config():
    document = {"os": "linux", "architecture": "arm64", "variant": "v8", "rootfs": {"diff_ids": [SHA, OTHER]}}
    config = parse_config(json.dumps(document).encode(), what="test")
    assert config.platform == Platform("linux", "arm64")
    assert config.chain_ids[0] == SHA
    found = parse(manifest())
    assert isinstance(found, Manifest)
    with pytest.raises(ManifestMalformed):
        check_layers(found, config, what="test")
    for rootfs in (None, {"type": "layers", "diff_ids": ["x"]}, {"type": "zfs", "diff_ids": []}):
        with pytest.raises(ManifestMalformed):
            parse_config(json.dumps({"rootfs": rootfs}).encode(), what="test")


def test_digest_of_follows_the_algorithm():
    assert digest_of(b"x", "sha512:").startswith("sha512:")
    assert digest_of(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/x86_64", "linux/amd64"), ("linux/amd64/v1", "linux/amd64"), ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"), ("linux/arm64/8", "linux/arm64"), ("linux/arm", "linux/arm/v7"),
        ("linux/arm/7", "linux/arm/v7"), ("linux/armhf", "linux/arm/v7"), ("linux/armel", "linux/arm/v6"),
        ("Linux/AMD64", "linux/amd64"), ("linux/i386", "linux/386"), ("macos/arm64", "darwin/arm64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
    ],
)  # fmt: skip
def test_platform_spellings(text: str, normal: str):
    assert str(Platform.parse(text)) == normal


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "a/b/c/d"])
def test_bad_platforms(text: str):
    with pytest.raises(BadReference):
        Platform.parse(text)


def test_platform_order():
    assert [str(p) for p in candidates(Platform.parse("linux/arm64"))] == [
        "linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5",
    ]  # fmt: skip
    assert [str(p) for p in candidates(Platform.parse("linux/amd64/v3"))] == [
        "linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386",
    ]  # fmt: skip
    assert rank(Platform.parse("linux/arm/v6"), Platform.parse("linux/arm/v7")) is None
    assert rank(Platform.parse("linux/amd64"), Platform.parse("unknown/unknown")) is None


def test_index_prefers_exact_and_keeps_order():
    entries = [
        descriptor("sha256:" + f"{n:x}" * 64, platform=platform)
        for n, platform in enumerate(
            [
                {"os": "unknown", "architecture": "unknown"},
                {"os": "linux", "architecture": "386"},
                None,
                {"os": "linux", "architecture": "amd64"},
                {"os": "linux", "architecture": "amd64", "variant": "v1"},
            ]
        )
    ]
    found = parse({"mediaType": media.OCI_INDEX, "manifests": entries})
    assert isinstance(found, Index)
    assert [d.digest[7] for d in found.ranked(Platform.parse("linux/amd64"))] == ["3", "4", "1", "2"]


def test_layer_media_types():
    assert media.compression("application/vnd.oci.image.layer.v1.tar+zstd") is media.Compression.ZSTD
    assert media.compression("application/vnd.docker.image.rootfs.diff.tar.gzip") is media.Compression.GZIP
    assert media.is_foreign("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
    assert not media.is_layer("application/vnd.in-toto+json")
