"""Publishing to Debian's docker-registry with the real command line; oras and cosign read what came of it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from makers.command import Stereo
from makers.registries import PASSWORD, USER, RealRegistry, real_registry
from makers.tools import Tool, program
from stereo.distribution.publish import publish
from stereo.distribution.retention import retire
from stereo.distribution.shipment import shipment_of
from stereo.registry.documents import digest_of
from stereo.registry.errors import NotFound
from stereo.registry.parse import parse_index
from stereo.registry.reference import parse_reference
from stereo.registry.remote import Remote, open_remote
from stereo.report import Silent
from unit.distribution.publishing import VERSION, everything, release, signed

MOST_MEMORY = 150 << 20
KILLS = 6
RELEASE = "https://in-toto.io/attestation/release/v0.1"
PROVENANCE = "https://slsa.dev/provenance/v1"
_MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def remote_of(registry: RealRegistry, repository: str) -> Remote:
    return open_remote(parse_reference(f"{registry.host}/{repository}"))


@pytest.fixture
def signed_base(base: Path, tmp_path: Path, stereo: Stereo) -> tuple[Path, Path]:
    """A dist of base, signed; and the public key."""
    dist = tmp_path / "dist"
    shutil.copytree(base, dist, copy_function=os.link)
    stereo("keygen", "release", "--output-dir", tmp_path, cwd=tmp_path)
    stereo("sign", dist, "--key", tmp_path / "release.key", cwd=tmp_path)
    return dist, tmp_path / "release.pub"


def test_oras_and_cosign_read_a_published_release(
    signed_base: tuple[Path, Path], test_tools: Path, stereo: Stereo, tmp_path: Path
) -> None:
    dist, key = signed_base
    (tmp_path / "home").mkdir()
    with real_registry(tmp_path / "registry", test_tools) as registry:
        place = f"{registry.host}/mixtapes/base"
        argv = ("publish", dist, "--to", place, "--tag", "latest", "--json")
        done = json.loads(stereo(*argv, cwd=tmp_path).stdout)
        index, version = done["digest"], done["reference"].rpartition(":")[2]
        assert done["tags"] == [version, "latest"]
        assert json.loads(stereo(*argv, cwd=tmp_path).stdout)["sent"] == 0

        oras = program(test_tools, "oras")
        for tag in (version, "latest"):
            assert oras("resolve", "--plain-http", f"{place}:{tag}").strip() == index
        entries = parse_index(oras("manifest", "fetch", "--plain-http", f"{place}:{version}").encode()).entries
        for entry, disk in zip(entries, ("stereos.img.zst", "stereos.qcow2.zst"), strict=True):
            folder = tmp_path / disk
            oras("pull", "--plain-http", "-o", folder, f"{place}@{entry.digest}")
            assert {file.name for file in folder.iterdir()} == {
                disk,
                "bzImage",
                "initrd",
                "cmdline",
                "init",
                "mixtape.toml",
            }
            for file in folder.iterdir():
                assert digest(file) == digest(dist / file.name)
        raw = f"{place}@{entries[0].digest}"
        told = json.loads(oras("discover", "--plain-http", "--format", "json", raw))
        kinds = [row["artifactType"] for row in told.get("manifests", told.get("referrers", []))]
        for kind, count in (("cyclonedx", 1), ("spdx", 1), ("checksums", 1), ("dsse", 2), ("frames", 2)):
            assert sum(kind in each for each in kinds) == count

        cosign = program(test_tools, "cosign")
        for image in (raw, f"{place}@{index}", f"{place}:{version}"):
            for predicate in (RELEASE, PROVENANCE):
                assert attested(cosign, key, predicate, image, tmp_path).returncode == 0
        stereo("keygen", "stranger", "--output-dir", tmp_path, cwd=tmp_path)
        assert attested(cosign, tmp_path / "stranger.pub", RELEASE, raw, tmp_path).returncode != 0

        told = json.loads(stereo("inspect", f"{place}:latest", "--json", cwd=tmp_path).stdout)
        assert told["digest"] == index
        assert sorted(row["kind"] for row in told["signed"]["amd64"]) == ["provenance", "release"]
        assert json.loads(stereo("tags", place, "--json", cwd=tmp_path).stdout)["versions"] == [version]
        found = json.loads(stereo("search", "base", "--in", registry.host, "--json", cwd=tmp_path).stdout)
        assert [(row["name"], row["newest"]) for row in found] == [("mixtapes/base", version)]


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def attested(cosign: Tool, key: Path, kind: str, image: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """cosign, asked without the transparency log of sigstore, whose keys it would fetch."""
    words = ["verify-attestation", "--key", str(key), "--type", kind, "--insecure-ignore-tlog"]
    argv = [*cosign.argv, *words, "--allow-insecure-registry", "--allow-http-registry", image]
    environment = {**cosign.environment, "HOME": str(folder / "home")}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)


def test_peak_memory_of_publish_is_bounded(
    signed_base: tuple[Path, Path], test_tools: Path, stereo: Stereo, tmp_path: Path, note: Callable[[str], None]
) -> None:
    dist, _ = signed_base
    with real_registry(tmp_path / "registry", test_tools) as registry:
        argv = stereo.argv("publish", dist, "--to", f"{registry.host}/base", "-q")
        # By way of a small process: what is measured would else be at least what the test suite itself has.
        measured = [sys.executable, "-S", "-c", _MEASURED, *argv]
        said = subprocess.run(measured, env=stereo.environment(), capture_output=True, text=True, timeout=120)
    status, peak = map(int, said.stdout.split())
    assert status == 0, said.stderr
    note(f"publish of base: peak memory {peak / 1e6:.0f} MB")
    assert peak <= MOST_MEMORY


def test_tls_and_a_password(test_tools: Path, stereo: Stereo, tmp_path: Path) -> None:
    dist = release(tmp_path / "dist")
    with real_registry(tmp_path / "registry", test_tools, tls=True, auth=(USER, PASSWORD)) as registry:
        argv = ("publish", dist, "--to", f"{registry.host}/sample", "--json")
        right = registry.environment()
        done = json.loads(stereo(*argv, cwd=tmp_path, env=right).stdout)
        assert done["tags"] == [VERSION, "latest"]
        (tmp_path / "nobody").mkdir()
        nobody = {**right, "DOCKER_CONFIG": str(tmp_path / "nobody")}
        refused = stereo(*argv, cwd=tmp_path, env=nobody, status=1)
        assert PASSWORD not in refused.stderr
        untrusting = {"DOCKER_CONFIG": right["DOCKER_CONFIG"]}
        assert "certificate" in stereo(*argv, cwd=tmp_path, env=untrusting, status=1).stderr.lower()


def test_killed_at_any_moment_a_reader_finds_all_or_nothing_and_the_next_run_finishes(
    test_tools: Path, stereo: Stereo, tmp_path: Path, note: Callable[[str], None]
) -> None:
    choice = random.Random(4)
    dist = release(tmp_path / "dist", content=choice.randbytes(4 << 20))
    signed(dist, tmp_path)
    with real_registry(tmp_path / "registry", test_tools) as registry:

        def argv(repository: str) -> list[str]:
            return stereo.argv("publish", dist, "--to", f"{registry.host}/{repository}", "--tag", "latest", "-q")

        before = len(registry.asked())
        subprocess.run(argv("whole"), env=stereo.environment(), check=True, stdout=subprocess.DEVNULL)
        requests = len(registry.asked()) - before
        wanted = everything(remote_of(registry, "whole"))
        assert {VERSION, "latest"} <= wanted.keys()
        moments = sorted(choice.sample(range(1, requests), KILLS))
        halves = 0
        for number, moment in enumerate(moments):
            before = len(registry.asked())
            child = subprocess.Popen(argv(f"r{number}"), env=stereo.environment(), stdout=subprocess.DEVNULL)
            while child.poll() is None and len(registry.asked()) < before + moment:
                time.sleep(0.001)
            child.send_signal(signal.SIGKILL)
            halves += child.wait() == -signal.SIGKILL
            remote = remote_of(registry, f"r{number}")
            try:
                found = everything(remote)
            except NotFound as error:  # fails, rather than hiding behind an empty repository
                raise AssertionError(f"after {moment} requests of {requests}: {error}") from error
            assert found.keys() <= wanted.keys()
            subprocess.run(argv(f"r{number}"), env=stereo.environment(), check=True, stdout=subprocess.DEVNULL)
            assert everything(remote) == wanted
    assert halves, "no run was killed before it ended"
    note(f"publish: killed {halves} times, after {moments} requests of {requests}; always whole or not there")


def test_a_version_that_leaves_a_registry_takes_along_only_what_is_its_own(test_tools: Path, tmp_path: Path) -> None:
    dists = [release(tmp_path / version, version, content=version.encode()) for version in (VERSION, "2026.01.03.0")]
    with real_registry(tmp_path / "registry", test_tools) as registry:
        remote = remote_of(registry, "sample")
        for dist in dists:
            (tmp_path / f"{dist.name}-keys").mkdir()
            signed(dist, tmp_path / f"{dist.name}-keys")
            publish([dist], remote, floating=["latest"], report=Silent())
        before = everything(remote)
        assert retire(remote, 1, report=Silent()).versions == (VERSION,)
        after = everything(remote)
        assert after.items() < before.items()
        assert VERSION not in after
        assert after["latest"] == after["2026.01.03.0"]
        gone = shipment_of(dists[0])
        for document in (*gone.manifests.values(), *(one.data for one in gone.referrers)):
            with pytest.raises(NotFound):
                remote.get_manifest(digest_of(document))
        assert retire(remote, 1, report=Silent()).versions == ()


def test_ctrl_c_does_not_wait_for_a_server_that_does_not_answer(stereo: Stereo, tmp_path: Path) -> None:
    asked, ended = threading.Event(), threading.Event()

    class Mute(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

        def answer(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self) -> None:
            self.answer(404)

        do_HEAD = do_GET  # noqa: N815 - http.server looks for that name

        def do_POST(self) -> None:
            self.answer(202, Location="/v2/sample/blobs/uploads/1")

        def do_PUT(self) -> None:
            asked.set()
            ended.wait(60)

    dist = release(tmp_path / "dist")
    with ThreadingHTTPServer(("127.0.0.1", 0), Mute) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        argv = stereo.argv("publish", dist, "--to", f"127.0.0.1:{server.server_port}/sample", "-q")
        child = subprocess.Popen(argv, env=stereo.environment(), stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            assert asked.wait(30)
            child.send_signal(signal.SIGINT)
            assert child.wait(15) == 130  # by itself it would give up after 30 seconds
        finally:
            child.kill()
            child.wait()
            ended.set()
            server.shutdown()
