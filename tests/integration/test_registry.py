"""Debian's docker-registry, oras and skopeo read what we store, and we what they do."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from makers.registries import PASSWORD, USER, RealRegistry, make_certificate, real_registry, write_docker_config
from makers.token_server import token_server
from makers.tools import Tool, program
from stereo.registry import media
from stereo.registry.documents import EMPTY, Descriptor, describe, image_index, index_entry, referrer
from stereo.registry.errors import Denied, DigestMismatch, NotFound, RegistryError
from stereo.registry.parse import parse_index, parse_manifest
from stereo.registry.reference import parse_reference, parse_root
from stereo.registry.remote import Remote, checked_blob, open_remote, small_blob
from stereo.registry.strict import canonical

VERSION = "2026.01.02.0"
KINDS = {
    "plain": (False, None),
    "tls": (True, None),
    "password": (False, (USER, PASSWORD)),
    "both": (True, (USER, PASSWORD)),
}


@pytest.fixture(params=KINDS)
def registry(
    request: pytest.FixtureRequest, tmp_path: Path, test_tools: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RealRegistry]:
    tls, auth = KINDS[request.param]
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with real_registry(tmp_path / "registry", test_tools, tls=tls, auth=auth) as running:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        yield running


def contents() -> dict[str, bytes]:
    """Files of a mixtape: of any content, but of the right names."""
    return {title: f"{title}\n".encode() * 3000 for title in [*media.layers_of("raw"), "stereos.qcow2.zst"]}


def publish(remote: Remote, files: dict[str, bytes], tag: str) -> Descriptor:
    """Everything that a published mixtape has. Returns the descriptor of its raw manifest."""
    remote.put_blob(EMPTY, media.EMPTY_BYTES)
    entries = []
    for disk_format in media.FORMATS:
        layers = []
        for title, kind in media.layers_of(disk_format).items():
            layers.append(describe(files[title], kind, title=title))
            remote.put_blob(layers[-1], files[title])
        document = canonical(
            {
                "schemaVersion": 2,
                "mediaType": media.IMAGE_MANIFEST,
                "artifactType": media.MIXTAPE,
                "config": EMPTY.as_json(),
                "layers": [layer.as_json() for layer in layers],
            }
        )
        remote.put_manifest(document, media.IMAGE_MANIFEST)
        entries.append(index_entry(document, disk_format, "x86_64-linux"))
    remote.put_manifest(image_index("sample", VERSION, entries), media.IMAGE_INDEX, tag)
    raw = Descriptor(entries[0].media_type, entries[0].digest, entries[0].size)
    for kind, data in ((media.DSSE, b'{"payload":""}'), (media.SPDX, b'{"spdxVersion":""}')):
        layer = describe(data, kind, title="statement.json")
        remote.put_blob(layer, data)
        remote.put_manifest(referrer(raw, kind, [layer], {media.PREDICATE_TYPE: "x"}), media.IMAGE_MANIFEST)
    return raw


def check(remote: Remote, files: dict[str, bytes], tag: str) -> None:
    """That all of it is there."""
    _, document = remote.get_manifest(tag)
    entries = parse_index(document).of_architecture("amd64")
    for disk_format, entry in entries.items():
        manifest = parse_manifest(remote.get_manifest(entry.digest)[1])
        for title, layer in manifest.layers.items():
            assert small_blob(remote, layer, 1 << 20) == files[title]
        assert manifest.disk_format == disk_format
    found = remote.referrers(entries["raw"].digest)
    assert sorted(str(one.artifact_type) for one in found) == sorted([media.DSSE, media.SPDX])
    assert {one.annotations.get(media.PREDICATE_TYPE) for one in found} == {"x"}


def test_a_registry_keeps_what_we_store_and_oras_and_skopeo_read_it(
    registry: RealRegistry, test_tools: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    remote, files = open_remote(parse_reference(f"{registry.host}/mixtapes/sample")), contents()
    assert remote.tags() == []
    raw = publish(remote, files, VERSION)
    before = registry.asked()
    publish(open_remote(remote.reference), files, VERSION)
    assert not [row for row in registry.asked()[len(before) :] if "/uploads/" in row]
    check(open_remote(remote.reference), files, VERSION)
    assert set(remote.tags()) == {VERSION, raw.digest.replace(":", "-")}
    assert open_remote(parse_root(registry.host)).catalog() == ["mixtapes/sample"]
    assert open_remote(parse_root(f"{registry.host}/mixtapes")).catalog() == ["sample"]
    with pytest.raises(NotFound):
        remote.get_manifest("no-such")
    oras = Client(program(test_tools, "oras"), registry)
    plain = [] if registry.certificate else ["--plain-http"]
    name = f"{registry.host}/mixtapes/sample"
    oras("pull", *plain, f"{name}@{raw.digest}", "--output", str(tmp_path / "pulled"))
    assert (tmp_path / "pulled/stereos.img.zst").read_bytes() == files["stereos.img.zst"]
    assert len(list((tmp_path / "pulled").iterdir())) == 6
    said = json.loads(oras("discover", *plain, "--format", "json", f"{name}@{raw.digest}"))
    assert {row["artifactType"] for row in said["manifests"]} == {media.DSSE, media.SPDX}
    skopeo = Client(program(test_tools, "skopeo"), registry)
    verify = "--tls-verify=true" if registry.certificate else "--tls-verify=false"
    index = skopeo("inspect", "--raw", verify, f"docker://{name}:{VERSION}")
    assert describe(index.encode(), "").digest == remote.get_manifest(VERSION)[0].digest
    assert PASSWORD not in caplog.text


class Client:
    """A program of others, with the CA and the login that a registry needs."""

    def __init__(self, tool: Tool, registry: RealRegistry) -> None:
        self._tool = tool
        self._extra = {**registry.environment(), "REGISTRY_AUTH_FILE": f"{registry.folder}/docker/config.json"}

    def __call__(self, *words: str) -> str:
        environment = {**self._tool.environment, **self._extra}
        done = subprocess.run([*self._tool.argv, *words], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def plain(tmp_path: Path, test_tools: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealRegistry]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    with real_registry(tmp_path / "registry", test_tools) as running:
        yield running


def test_of_many_tags_referrers_and_repositories_none_is_lost(
    plain: RealRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stereo.registry.http.PAGE", 10)
    remote = open_remote(parse_reference(f"{plain.host}/sample"))
    raw = publish(remote, contents(), VERSION)
    document = remote.get_manifest(VERSION)[1]

    def tag(number: int) -> None:
        remote.put_manifest(document, media.IMAGE_INDEX, f"tag-{number:04}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tag, range(35)))
    assert len(remote.tags()) == 35 + 2
    for number in range(20):
        layer = describe(f"{number}".encode(), media.DSSE)
        remote.put_blob(layer, f"{number}".encode())
        remote.put_manifest(referrer(raw, media.DSSE, [layer], {}), media.IMAGE_MANIFEST)
    assert len(remote.referrers(raw.digest)) == 22
    for number in range(24):
        open_remote(parse_reference(f"{plain.host}/name-{number:02}")).put_blob(EMPTY, media.EMPTY_BYTES)
    assert len(open_remote(parse_root(plain.host)).catalog()) == 25
    assert len([row for row in plain.asked() if "/_catalog" in row]) == 3


def test_what_the_storage_lost_or_changed_is_noticed(plain: RealRegistry) -> None:
    remote = open_remote(parse_reference(f"{plain.host}/sample"))
    data = b"some content" * 1000
    blob = describe(data, media.OCTETS)
    remote.put_blob(blob, data)
    remote.put_blob(EMPTY, media.EMPTY_BYTES)
    (stored,) = plain.storage.glob(f"**/{blob.digest[7:]}/data")
    stored.write_bytes(b"X" + data[1:])
    with pytest.raises(DigestMismatch, match=blob.digest):
        small_blob(remote, blob, 1 << 20)
    stored.write_bytes(data[:-1])
    assert not remote.has_blob(blob)
    with pytest.raises(DigestMismatch, match="is to have 12000 bytes, and comes with 11999"):
        small_blob(remote, blob, 1 << 20)


def test_a_wrong_password_is_refused_and_not_repeated(
    tmp_path: Path, test_tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "mine"))
    with real_registry(tmp_path / "registry", test_tools, auth=(USER, PASSWORD)) as running:
        remote = open_remote(parse_reference(f"{running.host}/sample"))
        with pytest.raises(Denied, match="podman login"):
            remote.tags()
        write_docker_config(tmp_path / "mine", running.host, (USER, "not-the-password"))
        with pytest.raises(Denied) as caught:
            open_remote(remote.reference).put_blob(EMPTY, media.EMPTY_BYTES)
        assert "not-the-password" not in str(caught.value)


def test_a_token_server_elsewhere_is_asked_when_the_user_permits_it(
    tmp_path: Path, test_tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = (USER, PASSWORD)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "registry/docker"))
    with (
        token_server(make_certificate(tmp_path), login) as tokens,
        real_registry(tmp_path / "registry", test_tools, auth=login, tokens=tokens) as running,
    ):
        reference = parse_reference(f"{running.host}/mixtapes/sample")
        with pytest.raises(Denied, match="the token server that it names"):
            open_remote(reference).tags()
        assert tokens.asked == []
        remote = open_remote(reference, redirect_hosts=[tokens.host])
        publish(remote, contents(), VERSION)
        check(remote, contents(), VERSION)
        for scope in tokens.asked:  # docker-registry names the actions in any order
            repository, _, actions = scope.rpartition(":")
            assert repository == "repository:mixtapes/sample"
            assert {"pull"} <= set(actions.split(",")) <= {"pull", "push"}
        write_docker_config(tmp_path / "registry/docker", running.host, (USER, "not-the-password"))
        with pytest.raises(Denied) as caught:
            open_remote(reference, redirect_hosts=[tokens.host]).tags()
        assert "not-the-password" not in str(caught.value)


def test_a_document_is_taken_away_with_its_tags(plain: RealRegistry) -> None:
    remote = open_remote(parse_reference(f"{plain.host}/sample"))
    raw = publish(remote, contents(), VERSION)
    index, document = remote.get_manifest(VERSION)
    remote.put_manifest(document, media.IMAGE_INDEX, "latest")
    remote.remove(index.digest)
    remote.remove(index.digest)
    assert [tag for tag in remote.tags() if not tag.startswith("sha256-")] == []
    assert remote.get_manifest(raw.digest)[0].digest == raw.digest
    assert remote.sweep(0) == 0


def test_a_certificate_of_nobody_known_is_refused(
    tmp_path: Path, test_tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    with (
        real_registry(tmp_path / "registry", test_tools, tls=True) as running,
        pytest.raises(RegistryError, match="its certificate is not good"),
    ):
        open_remote(parse_reference(f"{running.host}/sample")).tags()


_CARRY = """
import sys
from pathlib import Path
from stereo.registry.documents import Descriptor
from stereo.registry.reference import parse_reference
from stereo.registry.remote import checked_blob, open_remote
_, reference, digest, size, path = sys.argv
remote, blob = open_remote(parse_reference(reference)), Descriptor("application/octet-stream", digest, int(size))
assert remote.put_blob(blob, Path(path))
assert sum(map(len, checked_blob(remote, blob))) == blob.size
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.parametrize("kind", ["registry", "layout"])
def test_a_large_blob_is_carried_in_little_memory(plain: RealRegistry, tmp_path: Path, kind: str) -> None:
    piece = os.urandom(1 << 20)
    digest = hashlib.sha256()
    with (tmp_path / "large").open("wb") as file:
        for _ in range(300):
            file.write(piece)
            digest.update(piece)
    reference = f"{plain.host}/sample" if kind == "registry" else f"oci:{tmp_path}/layout"
    words = [
        sys.executable,
        "-c",
        _CARRY,
        reference,
        f"sha256:{digest.hexdigest()}",
        str(300 << 20),
        str(tmp_path / "large"),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) * 1024 < 150 << 20


def test_oras_and_skopeo_read_our_layouts(tmp_path: Path, test_tools: Path) -> None:
    remote, files = open_remote(parse_reference(f"oci:{tmp_path}/layout")), contents()
    raw = publish(remote, files, VERSION)
    remote.put_manifest(remote.get_manifest(VERSION)[1], media.IMAGE_INDEX, "latest")
    check(remote, files, "latest")
    oras, skopeo = program(test_tools, "oras"), program(test_tools, "skopeo")
    place = str(tmp_path / "layout")
    assert set(oras("repo", "tags", "--oci-layout", place).split()) == {VERSION, "latest"}
    oras("pull", "--oci-layout", f"{place}@{raw.digest}", "--output", tmp_path / "pulled")
    assert (tmp_path / "pulled/stereos.img.zst").read_bytes() == files["stereos.img.zst"]
    said = json.loads(oras("discover", "--oci-layout", "--format", "json", f"{place}@{raw.digest}"))
    assert {row["artifactType"] for row in said["manifests"]} == {media.DSSE, media.SPDX}
    index = skopeo("inspect", "--raw", f"oci:{place}:{VERSION}")
    assert describe(index.encode(), "").digest == remote.get_manifest(VERSION)[0].digest


def test_what_oras_put_into_a_layout_we_read_and_keep(tmp_path: Path, test_tools: Path) -> None:
    oras, place = program(test_tools, "oras"), str(tmp_path / "layout")
    (tmp_path / "note.txt").write_text("hello")
    push = ("push", "--oci-layout", f"{place}:theirs", "--artifact-type", "application/x.theirs", "note.txt:text/plain")
    oras(*push, cwd=tmp_path)
    oras("attach", "--oci-layout", f"{place}:theirs", "--artifact-type", "text/x.comment", "note.txt", cwd=tmp_path)
    remote = open_remote(parse_reference(place))
    theirs, document = remote.get_manifest("theirs")
    assert json.loads(document)["artifactType"] == "application/x.theirs"
    assert [one.artifact_type for one in remote.referrers(theirs.digest)] == ["text/x.comment"]
    publish(remote, contents(), VERSION)
    oras("tag", "--oci-layout", f"{place}:{VERSION}", "again")
    assert set(remote.tags()) == {"theirs", VERSION, "again"}
    check(remote, contents(), "again")
    assert [one.artifact_type for one in remote.referrers(theirs.digest)] == ["text/x.comment"]
    layer = Descriptor("text/plain", **{key: json.loads(document)["layers"][0][key] for key in ("digest", "size")})
    assert b"".join(checked_blob(remote, layer)) == b"hello"
