"""The registry client against a registry that has good and bad days."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperbox.api.errors.registry import (
    BlobNotFound,
    DigestMismatch,
    ManifestMalformed,
    ManifestNotFound,
    ManifestTooLarge,
    ManifestUnsupported,
    PlainHttpRefused,
    PlatformNotFound,
    PullCancelled,
    RegistryAnswerWrong,
    RegistryBusy,
    RegistryDenied,
    RegistryTlsFailed,
    RegistryUnreachable,
    SizeMismatch,
)
from hyperbox.images.manifest import Descriptor
from hyperbox.images.platform import Platform
from hyperbox.images.reference import Reference, parse_reference
from hyperbox.images.registry import RegistryClient, RegistrySettings, TlsFiles
from support.registry_simulator import OCI_INDEX, OCI_MANIFEST, RegistrySimulator, digest

AMD64 = Platform("linux", "amd64")
DATA = os.urandom(1 << 20)


class FakeClock:
    """Time passes only in pauses."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    def pause(self, seconds: float, stop: threading.Event) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def chance(self) -> float:
        return 0.5


class Lab:
    def __init__(self, registry: RegistrySimulator, **settings: Any) -> None:
        self.registry = registry
        self.clock = FakeClock()
        self.settings = RegistrySettings(**{"docker_configs": (), "certs_dirs": (), "read_seconds": 5.0, **settings})
        self.client = RegistryClient(self.settings, clock=self.clock)
        self.image = registry.add_image("team/app", "v1", [(DATA, digest(b"tar"))])
        self.layer = Descriptor("layer", digest(DATA), len(DATA))

    def reference(self, text: str = "team/app:v1") -> Reference:
        return parse_reference(f"{self.registry.host}/{text}")

    def read(self, offset: int = 0, **options: Any) -> bytes:
        with self.client.open_blob(self.reference(), self.layer, offset, **options) as stream:
            data = b"".join(stream)
            self.resumes, self.served_by = stream.resumes, stream.endpoint
            assert stream.bytes_read == len(data)
        return data


@pytest.fixture
def registry() -> Iterator[RegistrySimulator]:
    with RegistrySimulator() as simulator:
        yield simulator


@pytest.fixture
def lab(registry: RegistrySimulator) -> Iterator[Lab]:
    lab = Lab(registry)
    with lab.client:
        yield lab


def login(tmp_path: Path, host: str, user: str = "me", password: str = "pw", **more: str) -> dict[str, Any]:
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": {host: {"auth": auth, **more}}}))
    return {"docker_configs": (file,)}


# --- resolve


def test_resolves_an_image(lab: Lab):
    image = lab.client.resolve(lab.reference(), AMD64)
    assert image.manifest_digest == lab.image["digest"]
    assert image.manifest.layers[0].digest == lab.layer.digest
    assert image.config.diff_ids == (digest(b"tar"),)
    assert image.index_digest is None
    assert lab.client.resolve(lab.reference(f"team/app@{lab.image['digest']}"), AMD64).manifest == image.manifest
    assert lab.registry.connections == 1  # kept alive


def test_resolves_through_an_index(lab: Lab):
    arm = lab.registry.add_image("team/app", None, [(b"arm", digest(b"a"))], architecture="arm64")
    entries = [
        {**lab.image, "platform": {"os": "unknown", "architecture": "unknown"}},
        {**arm, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
        {**lab.image, "platform": {"os": "linux", "architecture": "amd64"}},
    ]
    inner = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    lab.registry.add_manifest("team/app", "multi", inner, OCI_INDEX)
    image = lab.client.resolve(lab.reference("team/app:multi"), Platform.parse("linux/arm64"))
    assert (image.manifest_digest, image.index_digest) == (arm["digest"], digest(inner))
    with pytest.raises(PlatformNotFound, match=r"linux/s390x.*linux/arm64"):
        lab.client.resolve(lab.reference("team/app:multi"), Platform.parse("linux/s390x"))
    entry = {"mediaType": OCI_INDEX, "digest": digest(inner), "size": len(inner)}
    lab.registry.add_manifest("team/app", "deep", {"mediaType": OCI_INDEX, "manifests": [entry]}, OCI_INDEX)
    assert lab.client.resolve(lab.reference("team/app:deep"), AMD64).manifest_digest == lab.image["digest"]


def test_entries_without_platform_are_told_by_their_configuration(lab: Lab):
    arm = lab.registry.add_image("team/app", None, [(b"arm", digest(b"a"))], architecture="arm64")
    lab.registry.add_manifest("team/app", "bare", {"mediaType": OCI_INDEX, "manifests": [arm, lab.image]}, OCI_INDEX)
    assert lab.client.resolve(lab.reference("team/app:bare"), AMD64).manifest_digest == lab.image["digest"]


def test_an_index_that_nests_without_end_is_left(lab: Lab):
    entry: dict[str, Any] = {**lab.image, "platform": {"os": "linux", "architecture": "amd64"}}
    for _ in range(8):
        data = json.dumps({"mediaType": OCI_INDEX, "manifests": [entry]}).encode()
        lab.registry.add_manifest("team/app", "deep", data, OCI_INDEX)
        entry = {"mediaType": OCI_INDEX, "digest": digest(data), "size": len(data)}
    with pytest.raises(PlatformNotFound):
        lab.client.resolve(lab.reference("team/app:deep"), AMD64)


def test_unknown_manifest(lab: Lab):
    with pytest.raises(ManifestNotFound, match="team/app:v9"):
        lab.client.resolve(lab.reference("team/app:v9"), AMD64)


def test_manifest_bytes_are_checked(lab: Lab):
    lab.registry.fail("/manifests/", corrupt=True)
    with pytest.raises(DigestMismatch):
        lab.client.manifest(lab.reference(), lab.image["digest"])
    lab.registry.fail("/manifests/v1", corrupt=True)
    with pytest.raises(DigestMismatch):  # the registry says another digest than the bytes have
        lab.client.manifest(lab.reference())
    with pytest.raises(SizeMismatch):
        lab.client.manifest(lab.reference(), lab.image["digest"], size=5)


def test_wrong_documents(registry: RegistrySimulator):
    lab = Lab(registry, document_limit=4096)
    registry.add_manifest("team/app", "html", b"<html>", "text/html")
    with pytest.raises(ManifestMalformed):
        lab.client.manifest(lab.reference("team/app:html"))
    registry.add_manifest("team/app", "huge", b" " * 5000)
    with pytest.raises(ManifestTooLarge):
        lab.client.manifest(lab.reference("team/app:huge"))
    config = {"mediaType": "application/vnd.example.chart+json", **registry.add_blob(b"{}")}
    registry.add_manifest("team/app", "chart", {"mediaType": OCI_MANIFEST, "config": config, "layers": []})
    with pytest.raises(ManifestUnsupported, match="chart"):
        lab.client.resolve(lab.reference("team/app:chart"), AMD64)


def test_configuration_is_checked(lab: Lab):
    lab.registry.fail("/blobs/", corrupt=True, times=2)
    with pytest.raises(DigestMismatch):
        lab.client.resolve(lab.reference(), AMD64)


# --- authentication


def test_anonymous_tokens_are_fetched_once_and_renewed(lab: Lab):
    lab.registry.auth, lab.registry.anonymous = "bearer", True
    lab.client.resolve(lab.reference(), AMD64)
    assert lab.read() == DATA
    assert len(lab.registry.paths("^/token")) == 1
    lab.clock.now += 400  # past its life: renewed without a 401 first
    before = len(lab.registry.requests)
    lab.client.manifest(lab.reference())
    assert [request.path.partition("?")[0] for request in lab.registry.requests[before:]] == [
        "/token", "/v2/team/app/manifests/v1",
    ]  # fmt: skip
    lab.registry.tokens.clear()  # taken back early: the 401 tells
    lab.client.manifest(lab.reference())
    assert len(lab.registry.paths("^/token")) == 3


def test_threads_share_one_token_request(lab: Lab):
    lab.registry.auth, lab.registry.anonymous = "bearer", True
    lab.client.manifest(lab.reference())
    lab.clock.now += 400
    threads = [threading.Thread(target=lab.client.manifest, args=(lab.reference(),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lab.registry.paths("^/token")) == 2


def test_password_and_identity_token(registry: RegistrySimulator, tmp_path: Path):
    registry.auth, registry.users = "bearer", {"me": "pw"}
    lab = Lab(registry, **login(tmp_path, registry.host))
    assert lab.read() == DATA
    registry.refresh_tokens.add("refresh")
    registry.users.clear()
    lab = Lab(registry, **login(tmp_path, registry.host, identitytoken="refresh"))
    assert lab.read() == DATA
    registry.refresh_tokens.clear()
    lab = Lab(registry, **login(tmp_path, registry.host, identitytoken="refresh"))
    with pytest.raises(RegistryDenied, match="team/app"):
        lab.read()


def test_basic(registry: RegistrySimulator, tmp_path: Path):
    registry.auth, registry.users = "basic", {"me": "pw"}
    with pytest.raises(RegistryDenied, match="user name"):
        Lab(registry).client.resolve(Lab(registry).reference(), AMD64)
    lab = Lab(registry, **login(tmp_path, registry.host))
    assert lab.read() == DATA
    login(tmp_path, registry.host, password="wrong")
    with pytest.raises(RegistryDenied, match="refused"):
        Lab(registry, **login(tmp_path, registry.host, password="wrong")).read()


def test_a_new_login_is_noticed(registry: RegistrySimulator, tmp_path: Path):
    registry.auth, registry.users = "basic", {"me": "new"}
    lab = Lab(registry, **login(tmp_path, registry.host, password="old"))
    with pytest.raises(RegistryDenied):
        lab.read()
    login(tmp_path, registry.host, password="new")
    lab.clock.now += lab.settings.credential_seconds + 1
    assert lab.read() == DATA


def test_denied(lab: Lab):
    lab.registry.auth = "bearer"
    with pytest.raises(RegistryDenied):
        lab.read()
    lab.registry.auth = "none"
    lab.registry.fail("/blobs/", status=403)
    with pytest.raises(RegistryDenied, match="403"):
        lab.read()


def test_token_service_that_talks_nonsense(lab: Lab):
    lab.registry.auth, lab.registry.anonymous = "bearer", True
    lab.registry.fail("^/token", status=200)
    with pytest.raises(RegistryAnswerWrong, match="no token"):
        lab.read()
    lab.registry.realm = "ftp://x/"
    with pytest.raises(RegistryDenied, match="no token service"):
        Lab(lab.registry).read()


# --- transfers


def test_blob(lab: Lab):
    assert lab.read() == DATA
    assert lab.resumes == 0
    assert lab.read(1000) == DATA[1000:]
    assert lab.registry.requests[-1].headers["Range"] == "bytes=1000-"
    assert lab.read(len(DATA)) == b""
    with lab.client.open_blob(lab.reference(), lab.layer) as stream:
        assert stream.read(10) == DATA[:10]
        assert stream.read(500_000) == DATA[10:500_010]
        assert stream.read() == DATA[500_010:]
        assert stream.read() == b""
    with pytest.raises(ValueError, match="outside"):
        lab.read(len(DATA) + 1)
    missing = Descriptor("layer", "sha256:" + "0" * 64, 5)
    with pytest.raises(BlobNotFound):
        lab.client.open_blob(lab.reference(), missing).read()


def test_a_blob_of_unknown_size(lab: Lab):
    lab.layer = Descriptor("", digest(DATA), -1)
    lab.registry.fail("/blobs/", cut_after=300_000)
    assert lab.read() == DATA
    lab.registry.fail("/blobs/", chunked=b"")
    assert lab.read() == DATA
    lab.registry.fail("/blobs/", chunked=b"more")
    with pytest.raises(DigestMismatch):
        lab.read()


@pytest.mark.parametrize("reset", [False, True])
def test_broken_transfers_are_resumed(lab: Lab, reset: bool):
    for cut in (100, 300_000, 1):
        lab.registry.fail("/blobs/", cut_after=cut, reset=reset)
    assert lab.read() == DATA
    assert lab.resumes == 3
    ranges = [request.headers["Range"] for request in lab.registry.requests if "Range" in request.headers]
    assert len(ranges) >= (3 if not reset else 1)  # with a reset, what the kernel had not handed over is lost


def test_a_silent_connection_is_resumed(registry: RegistrySimulator):
    lab = Lab(registry, read_seconds=0.3)
    registry.fail("/blobs/", stall_after=70_000)
    assert lab.read() == DATA
    assert lab.resumes == 1


def test_a_server_that_ignores_the_range(lab: Lab):
    lab.registry.fail("/blobs/", cut_after=300_000)
    lab.registry.fail("/blobs/", ignore_range=True)
    assert lab.read() == DATA
    assert lab.registry.requests[-1].headers["Range"] == "bytes=300000-"
    assert lab.read(700_000) == DATA[700_000:]


def test_a_server_that_answers_another_range(lab: Lab):
    lab.registry.fail("/blobs/", cut_after=300_000)
    lab.registry.fail("/blobs/", wrong_range=True)
    assert lab.read() == DATA
    assert "Range" not in lab.registry.requests[-1].headers


def test_giving_up(lab: Lab):
    lab.registry.fail("/blobs/", cut_after=0, times=100)
    with pytest.raises(RegistryUnreachable, match="at byte 0"):
        lab.read()
    assert len(lab.registry.paths("/blobs/")) == lab.settings.attempts


def test_progress_resets_the_count(lab: Lab):
    lab.registry.fail("/blobs/", cut_after=20_000, times=30)
    assert lab.read() == DATA
    assert lab.resumes == 30


def test_wrong_bytes(lab: Lab):
    lab.registry.fail("/blobs/", corrupt=True)
    with pytest.raises(DigestMismatch, match=lab.layer.digest):
        lab.read()
    lab.registry.fail("/blobs/", corrupt=True)
    assert lab.read(verify=False) != DATA


@pytest.mark.parametrize("length", [len(DATA) - 1, len(DATA) + 1])
def test_wrong_length(lab: Lab, length: int):
    lab.registry.fail("/blobs/", claim_length=length, times=2)
    with pytest.raises(SizeMismatch, match=str(length)):
        lab.read()


def test_more_bytes_than_said(lab: Lab):
    lab.registry.fail("/blobs/", chunked=b"more")
    with pytest.raises(SizeMismatch, match="more than"):
        lab.read()
    lab.registry.fail("/blobs/", chunked=b"")
    assert lab.read() == DATA


def test_stop_ends_a_waiting_read(lab: Lab):
    stalled = threading.Event()
    lab.registry.fail("/blobs/", stall_after=70_000, before=stalled.set)
    stream = lab.client.open_blob(lab.reference(), lab.layer)
    assert next(stream)
    ended: list[BaseException] = []

    def rest() -> None:
        try:
            for _ in stream:
                pass
        except PullCancelled as error:
            ended.append(error)

    reader = threading.Thread(target=rest)
    reader.start()
    assert stalled.wait(5)
    stream.abort()
    reader.join(4)
    assert len(ended) == 1
    stream.close()


def test_stop_is_seen_before_and_between_requests(lab: Lab):
    stop = threading.Event()
    stop.set()
    with pytest.raises(PullCancelled):
        lab.client.resolve(lab.reference(), AMD64, stop=stop)
    with pytest.raises(PullCancelled):
        lab.read(stop=stop)
    assert lab.registry.requests == []


# --- retries


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_failures_are_retried(lab: Lab, status: int):
    lab.registry.fail("/manifests/", status=status, times=2)
    assert lab.client.manifest(lab.reference()).digest == lab.image["digest"]
    assert lab.clock.pauses == [0.125, 0.25]


def test_retry_after_is_obeyed(lab: Lab):
    lab.registry.fail("/blobs/", status=429, headers={"Retry-After": "17"})
    assert lab.read() == DATA
    assert lab.clock.pauses == [17.125]


def test_retry_after_that_is_too_long(lab: Lab):
    lab.registry.fail("/manifests/", status=429, headers={"Retry-After": "3600"})
    with pytest.raises(RegistryBusy, match="3600 s"):
        lab.client.manifest(lab.reference())
    assert lab.clock.pauses == []


@pytest.mark.parametrize("status", [400, 405, 418, 501])
def test_other_failures_are_not(lab: Lab, status: int):
    lab.registry.fail("/manifests/", status=status)
    with pytest.raises(RegistryAnswerWrong, match=str(status)):
        lab.client.manifest(lab.reference())
    assert lab.clock.pauses == []


def test_nobody_listens(lab: Lab):
    reference = lab.reference()
    lab.registry.close()
    with pytest.raises(RegistryUnreachable):
        lab.client.manifest(reference)
    assert len(lab.clock.pauses) == lab.settings.attempts - 1


# --- redirects and mirrors


def test_redirects_do_not_carry_the_token(lab: Lab):
    lab.registry.auth, lab.registry.anonymous = "bearer", True
    with RegistrySimulator() as store:
        store.add_blob(DATA)
        lab.registry.fail("/blobs/", redirect=f"{store.url}/", times=2)
        store.fail("/blobs/", cut_after=400_000)
        assert lab.read() == DATA
        assert lab.resumes == 1
        assert all("Authorization" not in request.headers for request in store.requests)
        assert store.requests[-1].headers["Range"] == "bytes=400000-"


def test_redirects_within_the_registry_keep_it(registry: RegistrySimulator, tmp_path: Path):
    registry.auth, registry.users = "basic", {"me": "pw"}
    lab = Lab(registry, **login(tmp_path, registry.host))
    lab.client.manifest(lab.reference())
    registry.fail("/manifests/v1", redirect=f"/v2/team/app/manifests/{lab.image['digest']}")
    assert lab.client.manifest(lab.reference()).digest == lab.image["digest"]


def test_endless_redirects(lab: Lab):
    lab.registry.fail("/blobs/", redirect="/", times=100)
    with pytest.raises(RegistryAnswerWrong, match="redirects"):
        lab.read()
    lab.registry.faults.clear()
    lab.registry.fail("/blobs/", redirect="file:///etc/passwd")
    with pytest.raises(RegistryAnswerWrong, match="redirects"):
        lab.read()


@pytest.fixture
def mirrored(registry: RegistrySimulator) -> Iterator[tuple[Lab, RegistrySimulator]]:
    with RegistrySimulator() as mirror:
        lab = Lab(registry, mirrors={registry.host: (mirror.host,)})
        mirror.blobs, mirror.manifests = dict(registry.blobs), dict(registry.manifests)
        yield lab, mirror


def test_mirror_serves(mirrored: tuple[Lab, RegistrySimulator]):
    lab, mirror = mirrored
    assert lab.client.resolve(lab.reference(), AMD64).host == mirror.host
    assert lab.read() == DATA
    assert lab.registry.requests == []
    assert mirror.requests[0].path.endswith(f"?ns={lab.registry.host.replace(':', '%3A')}")


def test_mirror_without_the_image(mirrored: tuple[Lab, RegistrySimulator]):
    lab, mirror = mirrored
    mirror.blobs.clear()
    mirror.manifests.clear()
    assert lab.client.resolve(lab.reference(), AMD64).host == lab.registry.host
    with pytest.raises(ManifestNotFound):
        lab.client.manifest(lab.reference("team/app:none"))


def test_mirror_that_is_down_is_asked_last_for_a_while(mirrored: tuple[Lab, RegistrySimulator]):
    lab, mirror = mirrored
    mirror.fail("/v2/", status=500, times=2)
    assert lab.client.manifest(lab.reference()).host == lab.registry.host
    assert len(mirror.requests) == 2
    assert lab.client.manifest(lab.reference()).host == lab.registry.host
    assert len(mirror.requests) == 2
    lab.clock.now += lab.settings.hold_off_seconds + 1
    assert lab.client.manifest(lab.reference()).host == mirror.host


def test_mirror_that_breaks_in_the_middle(mirrored: tuple[Lab, RegistrySimulator]):
    lab, mirror = mirrored
    mirror.fail("/blobs/", cut_after=300_000)
    mirror.fail("/blobs/", status=502, times=2)
    assert lab.read() == DATA
    assert lab.registry.requests[-1].headers["Range"] == "bytes=300000-"
    assert lab.served_by is not None
    assert lab.served_by.origin


def test_mirror_that_lies(mirrored: tuple[Lab, RegistrySimulator]):
    lab, mirror = mirrored
    mirror.fail("/manifests/", corrupt=True)
    assert lab.client.manifest(lab.reference()).host == lab.registry.host
    mirror.fail("/blobs/", claim_length=5)
    assert lab.read() == DATA
    mirror.blobs[lab.layer.digest] = b"x" * len(DATA)
    lab.client.distrust("other", lab.layer.digest)
    assert lab.read() == DATA  # distrusted since its wrong length


def test_wrong_bytes_of_a_mirror_come_from_elsewhere_next_time(mirrored: tuple[Lab, RegistrySimulator]):
    lab, mirror = mirrored
    mirror.blobs[lab.layer.digest] = b"x" * len(DATA)
    with pytest.raises(DigestMismatch, match=mirror.host):
        lab.read()
    assert lab.read() == DATA


# --- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl program to make certificates with")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj")
    openssl(*new, "/CN=test ca", "-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1")
    for name in ("server", "client"):
        openssl(*new, f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signer = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "san")
        openssl("x509", "-req", "-in", f"{name}.csr", "-days", "2", *signer, "-out", f"{name}.pem")
    return folder


def test_custom_authority_and_client_certificate(certificates: Path):
    server = (str(certificates / "server.pem"), str(certificates / "server.key"))
    client = (certificates / "client.pem", certificates / "client.key")
    with RegistrySimulator(tls=server, client_ca=str(certificates / "ca.pem")) as registry:
        trusted = TlsFiles((certificates / "ca.pem",), client)
        lab = Lab(registry, host_tls={registry.host: trusted})
        assert lab.read() == DATA
        registry.auth, registry.anonymous = "bearer", True
        assert lab.read() == DATA
        registry.auth = "none"
        registry.fail("/blobs/", redirect="http://192.0.2.1/blob")
        with pytest.raises(PlainHttpRefused, match=r"192\.0\.2\.1"):
            lab.read()
        lab.client.close()


def test_unknown_authority(certificates: Path):
    server = (str(certificates / "server.pem"), str(certificates / "server.key"))
    with RegistrySimulator(tls=server) as registry:
        lab = Lab(registry, host_tls={registry.host: TlsFiles((certificates / "client.pem",))})
        with pytest.raises(RegistryTlsFailed, match="certificate"):
            lab.client.manifest(lab.reference())
        assert lab.clock.pauses == []
