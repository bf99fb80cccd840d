"""The client of registries and web servers, against one that keeps to the protocol and then breaks it in every way."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from makers.hostile_registry import (
    BLOB_FAULTS,
    DOCUMENT_FAULTS,
    FAULTS,
    PUSH_FAULTS,
    HostileRegistry,
)
from makers.registries import PASSWORD, USER, make_certificate, write_docker_config
from stereo.errors import StereoError, UsageError
from stereo.registry import media
from stereo.registry.documents import describe, documents_of, referrer
from stereo.registry.errors import Denied, DigestMismatch, Malformed, NotFound, RegistryError, Unreachable
from stereo.registry.layout import LayoutRemote
from stereo.registry.parse import parse_index, parse_manifest
from stereo.registry.reference import Reference, parse_reference, parse_root
from stereo.registry.remote import Limits, Remote, checked_blob, open_remote, small_blob
from stereo.registry.strict import canonical
from unit.registry.support import sample_with_digest

DOCUMENTS = documents_of(*sample_with_digest())
OTHER = documents_of(*sample_with_digest("2026.01.03.0"))
RAW = describe(DOCUMENTS.manifests["raw"], media.IMAGE_MANIFEST)
DATA = bytes(range(256)) * 1200
BLOB = describe(DATA, media.OCTETS)
SECRETS = (PASSWORD, "cHVibGlzaGVyOmNvcnJlY3QtaG9yc2UtYmF0dGVyeQ==", "good-token")
LIMITS = Limits(connect=2, stalled=0.4, answer=1, attempts=2, longest_wait=0.05)

EXPECTED: dict[str, tuple[type[Exception], str]] = {
    "wrong-bytes": (DigestMismatch, "came with the digest"),
    "flipped-bit": (DigestMismatch, "came with the digest"),
    "short-body": (Unreachable, "broke off"),
    "short-length": (DigestMismatch, "is to have 307200 bytes, and comes with 307199"),
    "long-length": (DigestMismatch, "is to have 307200 bytes, and comes with 307201"),
    "endless-body": (DigestMismatch, "sends more than the 307200 bytes"),
    "slow-body": (Unreachable, "does not answer"),
    "packed-body": (Malformed, "packs a body"),
    "reset": (Unreachable, "broke off"),
    "redirect-strange": (Denied, "inside a private network"),
    "redirect-loop": (Denied, "redirects more than 3 times"),
    "redirect-http": (Denied, "not by https"),
    "redirect-file": (Denied, "no plain https address"),
    "redirect-nowhere": (Malformed, "redirects to nowhere"),
    "range-lying": (Malformed, "another part of a blob"),
    "missing-blob": (NotFound, f"there is no blob {BLOB.digest}"),
    "wrong-digest": (DigestMismatch, "asked for sha256:"),
    "digest-header-lies": (DigestMismatch, "calls sha256:"),
    "huge-manifest": (DigestMismatch, "more than the 4194304 bytes"),
    "endless-manifest": (DigestMismatch, "more than the 4194304 bytes"),
    "deep-manifest": (Malformed, "nested too deep"),
    "twice-manifest": (Malformed, "stands twice"),
    "no-json-manifest": (Malformed, "is not JSON"),
    "climbing-titles": (Malformed, "is '../../../outside', not 'stereos.img.zst'"),
    "seven-disks": (Malformed, "7 disk layers"),
    "short-manifest": (Unreachable, "broke off"),
    "slow-manifest": (Unreachable, "does not answer"),
    "redirect-manifest": (Denied, "redirects what is never redirected"),
    "401-loop": (Denied, "answers 401"),
    "401-foreign-realm": (Denied, "the token server that it names"),
    "401-plain-realm": (Denied, "not by https"),
    "401-two-realms": (Denied, "the token server that it names"),
    "401-long": (Malformed, "asks for a login at endless length"),
    "403": (Denied, "answers 403 DENIED"),
    "429": (Unreachable, "answers 429"),
    "503": (Unreachable, "answers 503"),
    "500": (Unreachable, "answers 500 DENIED"),
    "hang": (Unreachable, "does not answer"),
    "no-http": (Unreachable, "broke off"),
    "endless-headers": (Unreachable, "broke off"),
    "dribbling-head": (Unreachable, "does not answer"),
    "trickle": (Unreachable, "sends too slowly"),
    "link-strange": (Denied, "not at the registry itself"),
    "link-endless": (Malformed, "does not end"),
    "link-huge": (Malformed, "more than 10000"),
    "tags-terminal": (Malformed, "with others in it"),
    "upload-reset": (Unreachable, "broke off"),
    "upload-500": (Unreachable, "answers 500"),
    "manifest-doubted": (Unreachable, "answers 400 DIGEST_INVALID"),
    "upload-strange": (Denied, "the place for an upload"),
}
HARMLESS = {"range-ignored", "tag-flips", "upload-lost", "upload-flipped", "manifest-lost"}
"""What one request cannot know: told by `BlobStream.offset`, or found by who reads back."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "layout"
    remote = LayoutRemote(Reference("layout", path=str(folder)))
    for tag, documents in (("1.0", DOCUMENTS), ("2.0", OTHER)):
        for document in documents.manifests.values():
            remote.put_manifest(document, media.IMAGE_MANIFEST)
        remote.put_manifest(documents.index, media.IMAGE_INDEX, tag)
    remote.put_blob(BLOB, DATA)
    remote.put_manifest(referrer(RAW, media.DSSE, [BLOB], {media.PREDICATE_TYPE: "x"}), media.IMAGE_MANIFEST)
    return folder


@pytest.fixture
def layout(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "layout"))


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials, proxies or certificates of whoever runs this."""
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def registry(layout: Path) -> Iterator[HostileRegistry]:
    with HostileRegistry(layout) as server:
        yield server


def client(registry: HostileRegistry, **options: object) -> Remote:
    limits = options.pop("limits", LIMITS)
    assert isinstance(limits, Limits)
    return open_remote(parse_reference(f"{registry.host}/sample"), limits=limits, **options)  # type: ignore[arg-type]


def read_all(remote: Remote) -> None:
    """What a pull does, and more."""
    for entry in parse_index(remote.get_manifest("1.0")[1]).entries:
        parse_manifest(remote.get_manifest(entry.digest)[1])
    assert b"".join(checked_blob(remote, BLOB)) == DATA
    with remote.open_blob(BLOB, 1000, 2000) as stream:
        got = b"".join(stream.pieces)
        assert got == (DATA[1000:3000] if stream.offset else DATA)
    assert remote.tags() == ["1.0", "2.0"]
    assert [one.artifact_type for one in remote.referrers(RAW.digest)] == [media.DSSE]


def push(remote: Remote) -> None:
    data = os.urandom(100_000)
    remote.put_blob(describe(data, media.OCTETS), data)
    remote.put_manifest(DOCUMENTS.index, media.IMAGE_INDEX, "3.0")


def test_an_honest_registry_gives_and_takes_everything(registry: HostileRegistry) -> None:
    remote = client(registry)
    read_all(remote)
    push(remote)
    assert remote.tags() == ["1.0", "2.0", "3.0"]
    assert open_remote(parse_root(registry.host)).catalog() == ["sample"]
    with pytest.raises(NotFound, match=r"there is no version 9\.9") as refused:
        remote.get_manifest("9.9")
    assert refused.value.hint == f"`stereo tags {remote.reference.name}` lists them"


def test_a_host_that_has_no_address_is_told_from_one_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(Unreachable, match="is no host that can be found"):
        open_remote(parse_reference("nowhere.invalid/sample"), limits=LIMITS).get_manifest("1.0")


def test_a_web_server_gives_everything_and_takes_nothing(registry: HostileRegistry) -> None:
    remote = open_remote(parse_reference(registry.static), limits=LIMITS)
    read_all(remote)
    with pytest.raises(NotFound):
        remote.get_manifest("9.9")
    with pytest.raises(UsageError, match="a web server only gives"):
        remote.put_blob(BLOB, DATA)
    with pytest.raises(UsageError, match="does not say what it has"):
        remote.catalog()


def test_a_web_server_has_us_read_no_thousands_of_documents(registry: HostileRegistry) -> None:
    rows = [describe(f"{number}".encode(), media.IMAGE_MANIFEST).as_json() for number in range(1001)]
    index = {"schemaVersion": 2, "mediaType": media.IMAGE_INDEX, "manifests": rows}
    (registry.folder / "index.json").write_bytes(canonical(index))
    with pytest.raises(Malformed, match="1001 documents"):
        open_remote(parse_reference(registry.static), limits=LIMITS).referrers(BLOB.digest)
    assert len(registry.requests) == 2


def test_every_fault_has_its_expectation() -> None:
    assert set(EXPECTED) | HARMLESS == set(FAULTS)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("fault", EXPECTED)
def test_a_fault_is_refused_in_its_own_words_and_in_time(
    registry: HostileRegistry, fault: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    write_docker_config(tmp_path / "docker", registry.host, (USER, PASSWORD))
    caplog.set_level(logging.DEBUG)
    registry.wrong(fault)
    kind, said = EXPECTED[fault]
    with pytest.raises(kind) as caught:
        (push if fault in PUSH_FAULTS else read_all)(client(registry))
    text = str(caught.value)
    assert said in text
    assert text.isprintable()
    assert not [secret for secret in SECRETS if secret in text + caplog.text]
    assert registry.stranger_requests == []


@pytest.mark.parametrize("fault", [*BLOB_FAULTS, *(set(DOCUMENT_FAULTS) & {"redirect-manifest"})])
def test_a_web_server_gets_away_with_no_more(registry: HostileRegistry, fault: str) -> None:
    registry.wrong(fault)
    remote = open_remote(parse_reference(registry.static), limits=LIMITS)
    if fault in HARMLESS or fault in DOCUMENT_FAULTS:
        return read_all(remote)
    with pytest.raises(RegistryError):
        read_all(remote)
    return None


@pytest.mark.parametrize("fault", ["429", "503", "500", "reset", "short-manifest"])
def test_what_gets_better_is_tried_again(registry: HostileRegistry, fault: str) -> None:
    registry.wrong(fault, times=1)
    remote = client(registry)
    if fault == "reset":  # in the middle of a blob it is for the caller to go on from there
        with pytest.raises(Unreachable):
            list(checked_blob(remote, BLOB))
    assert remote.get_manifest("1.0")[1] == DOCUMENTS.index


def test_an_upload_that_broke_off_begins_again_and_so_does_its_progress(registry: HostileRegistry) -> None:
    registry.wrong("upload-reset", times=1)
    data, counts = os.urandom(3_000_000), list[int]()
    client(registry).put_blob(describe(data, media.OCTETS), data, counts.append)
    assert sum(counts) == len(data)
    assert min(counts) < 0
    assert small_blob(client(registry), describe(data, media.OCTETS), 1 << 22) == data


def test_a_document_whose_digest_is_doubted_is_sent_again_and_bytes_that_are_others_are_not(
    registry: HostileRegistry,
) -> None:
    registry.wrong("manifest-doubted", at="/manifests/", times=1)
    client(registry).put_manifest(DOCUMENTS.index, media.IMAGE_INDEX, "3.0")
    assert client(registry).get_manifest("3.0")[1] == DOCUMENTS.index
    asked = len(registry.requests)
    with pytest.raises(RegistryError, match="DIGEST_INVALID") as refused:
        client(registry).put_blob(describe(b"these bytes", media.OCTETS), b"other bytes")
    assert not isinstance(refused.value, Unreachable)
    assert len([one for one in registry.requests[asked:] if one.method == "PUT"]) == 1


def test_retry_after_is_heeded_up_to_a_limit(registry: HostileRegistry) -> None:
    registry.retry_after = "99999"
    registry.wrong("503", times=1)
    began = time.monotonic()
    client(registry).get_manifest("1.0")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("said", ["²", "-1", "1e9", "nan", "Thu, 01 Jan 2026 00:00:00 GMT"])
def test_a_retry_after_that_is_no_number_of_seconds_is_passed_over(registry: HostileRegistry, said: str) -> None:
    registry.retry_after = said
    registry.wrong("503", times=1)
    assert client(registry).get_manifest("1.0")[1] == DOCUMENTS.index


def test_who_reads_slowly_is_not_taken_for_a_slow_registry(layout: Path) -> None:
    data = os.urandom(8 << 20)  # more than the system keeps for us
    LayoutRemote(Reference("layout", path=str(layout))).put_blob(describe(data, media.OCTETS), data)
    limits = Limits(connect=2, stalled=0.2, answer=1, attempts=1)
    with HostileRegistry(layout) as registry:
        remote = client(registry, limits=limits)
        with remote.open_blob(describe(data, media.OCTETS)) as stream:
            got = b""
            for number, piece in enumerate(stream.pieces):
                got += piece
                time.sleep(0.3 if number < 3 else 0)
        assert got == data


def test_a_range_that_was_ignored_is_told(registry: HostileRegistry) -> None:
    registry.wrong("range-ignored")
    with client(registry).open_blob(BLOB, 1000) as stream:
        assert (stream.offset, b"".join(stream.pieces)) == (0, DATA)


def test_the_rest_of_a_blob_is_asked_for_by_range(registry: HostileRegistry) -> None:
    with client(registry).open_blob(BLOB, 300_000) as stream:
        assert (stream.offset, b"".join(stream.pieces)) == (300_000, DATA[300_000:])
    assert registry.requests[-1].range == f"bytes=300000-{len(DATA) - 1}"
    with client(registry).open_blob(BLOB, len(DATA)) as stream:
        assert list(stream.pieces) == []


def test_a_blob_that_is_there_is_not_sent_again(registry: HostileRegistry) -> None:
    assert not client(registry).put_blob(BLOB, DATA)
    assert {one.method for one in registry.requests} <= {"HEAD", "GET"}


def test_a_file_that_became_shorter_is_not_sent(registry: HostileRegistry, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"short")
    with pytest.raises(DigestMismatch, match="became shorter"):
        client(registry).put_blob(describe(b"as it was before", media.OCTETS), tmp_path / "file")


def test_a_redirect_to_a_permitted_host_is_followed_without_credentials(layout: Path, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    with HostileRegistry(layout, tls=certificate) as store, HostileRegistry(layout, auth="basic") as registry:
        write_docker_config(tmp_path / "docker", registry.host, (USER, PASSWORD))
        registry.wrong("redirect-strange")
        registry.stranger = f"{store.host}/v2/sample/blobs/{BLOB.digest}?"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", str(certificate[0]))
            remote = client(registry, redirect_hosts=[store.host])
            assert b"".join(checked_blob(remote, BLOB)) == DATA
        assert [one.authorization for one in store.requests] == [None]
        assert registry.requests[-1].authorization is not None


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_login_is_used_and_stays_with_its_registry(
    layout: Path, tmp_path: Path, auth: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with HostileRegistry(layout, auth=auth) as registry:
        write_docker_config(tmp_path / "docker", registry.host, (USER, PASSWORD))
        remote = client(registry)
        read_all(remote)
        push(remote)
        assert registry.requests[0].authorization is None
        assert registry.stranger_requests == []
    written = caplog.text + "".join(capfd.readouterr())
    assert not [secret for secret in SECRETS if secret in written]


def test_a_token_that_ran_out_is_replaced(layout: Path) -> None:
    with HostileRegistry(layout, auth="bearer") as registry:
        remote = client(registry)
        read_all(remote)
        registry.token = "newer-token"
        push(remote)
        assert remote.tags() == ["1.0", "2.0", "3.0"]


def test_a_login_that_is_asked_for_after_an_upload_sends_it_again(registry: HostileRegistry) -> None:
    registry.wrong("401-loop", at="digest=", times=1)
    data, counts = os.urandom(600_000), list[int]()
    client(registry).put_blob(describe(data, media.OCTETS), data, counts.append)
    assert (sum(counts), min(counts)) == (len(data), -len(data))
    assert [one.method for one in registry.requests if "/uploads/" in one.path] == ["POST", "PUT", "PUT"]
    assert small_blob(client(registry), describe(data, media.OCTETS), 1 << 20) == data


def test_this_machine_is_not_asked_through_a_proxy(registry: HostileRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://{registry.stranger}")
    monkeypatch.setenv("all_proxy", f"http://{registry.stranger}")
    read_all(client(registry))
    assert registry.stranger_requests == []


def test_a_netrc_is_not_read(registry: HostileRegistry, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    (tmp_path / ".netrc").chmod(0o600)
    read_all(client(registry))
    assert {one.authorization for one in registry.requests} == {None}


def test_referrers_stored_side_by_side_are_all_listed(registry: HostileRegistry) -> None:
    """Where the registry has no API for them, all are in one document, that is read and replaced."""
    registry.referrers = False
    remote = client(registry)
    documents = [referrer(RAW, media.DSSE, [], {"n": str(number)}) for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda document: remote.put_manifest(document, media.IMAGE_MANIFEST), documents))
    found = {one.digest for one in remote.referrers(RAW.digest)}
    assert found == {describe(document, "").digest for document in documents}


def test_without_a_login_it_says_how_to_get_one(layout: Path) -> None:
    with HostileRegistry(layout, auth="basic") as registry, pytest.raises(Denied, match="podman login"):
        client(registry).get_manifest("1.0")


def test_a_wrong_password_is_not_repeated(layout: Path, tmp_path: Path) -> None:
    with HostileRegistry(layout, auth="basic") as registry:
        write_docker_config(tmp_path / "docker", registry.host, (USER, "topsecret"))
        with pytest.raises(Denied) as caught:
            client(registry).get_manifest("1.0")
    assert "topsecret" not in str(caught.value)
    assert "may not do that" in str(caught.value)


@pytest.mark.parametrize("fault", ["401-foreign-realm", "401-plain-realm", "401-two-realms", "401-long"])
def test_a_password_does_not_reach_a_foreign_token_server(
    registry: HostileRegistry, tmp_path: Path, fault: str
) -> None:
    write_docker_config(tmp_path / "docker", registry.host, (USER, PASSWORD))
    registry.wrong(fault)
    with pytest.raises(RegistryError):
        client(registry).get_manifest("1.0")
    assert registry.stranger_requests == []
    assert {one.authorization for one in registry.requests} == {None}


def test_tls_is_spoken_where_it_is_offered_and_the_certificate_must_be_good(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    with HostileRegistry(layout, tls=certificate) as registry:
        with pytest.raises(RegistryError, match="its certificate is not good"):
            client(registry).get_manifest("1.0")
        assert registry.requests == []
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(name, str(certificate[0]))
                read_all(client(registry))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone"))
        with pytest.raises(UsageError, match="SSL_CERT_FILE"):
            client(registry).get_manifest("1.0")


def test_plain_http_to_others_is_only_spoken_when_asked_for() -> None:
    with pytest.raises(StereoError, match="--plain-http"):
        open_remote(parse_reference("http://192.0.2.1/base:1")).tags()


def test_nobody_there_is_told(registry: HostileRegistry) -> None:
    gone = parse_reference("127.0.0.1:9/base")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9: cannot be reached"):
        open_remote(gone, limits=LIMITS).tags()


def test_of_a_registry_whose_storage_is_damaged_it_is_said_what_it_cannot_give(registry: HostileRegistry) -> None:
    """docker-registry answers 500 for a manifest that is not what its digest says."""
    registry.wrong("500")
    digest = f"sha256:{'0' * 64}"
    with pytest.raises(Unreachable, match=f"answers 500 DENIED for {digest}"):
        client(registry).get_manifest(digest)


def test_a_head_of_an_answer_that_dribbles_in_is_cut_off(registry: HostileRegistry) -> None:
    registry.wrong("dribbling-head")
    began = time.monotonic()
    with pytest.raises(Unreachable):
        client(registry, limits=Limits(stalled=5, answer=0.5, attempts=1)).get_manifest("1.0")
    assert time.monotonic() - began < 20


def test_faults_of_answers_are_refused_by_every_method(registry: HostileRegistry) -> None:
    for fault in ("403", "401-loop", "429"):
        registry.wrong(fault)
        remote = client(registry)
        for ask in (remote.tags, remote.catalog, lambda one=remote: one.has_blob(BLOB), lambda one=remote: push(one)):
            with pytest.raises(RegistryError):
                ask()
