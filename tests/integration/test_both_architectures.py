"""opencode-mixtape for both architectures, signed, in one index: in a folder, on a web server, in docker-registry.

What stands here of rules is in tests/unit/distribution/test_architectures.py case by case; this proves it with dists
that boot, the real command line, and the programs of others.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from makers.command import Stereo
from makers.jobs import Script
from makers.registries import real_registry
from makers.served import served
from makers.tools import program
from stereo.assemble.dist import read_manifest
from stereo.process import CommandFailed

pytestmark = pytest.mark.build

HERE = platform.machine()
ELSEWHERE = {"x86_64": "aarch64", "aarch64": "x86_64"}[HERE]
OCI = {"x86_64": "amd64", "aarch64": "arm64"}
RELEASE = "https://in-toto.io/attestation/release/v0.1"


@dataclass(frozen=True)
class Published:
    """Signed dists by architecture, and where both are: below `root`, published together by the job of a release, and
    in the registry, one after the other: `first` and `second` say what became of it. `early` is what pulling from there
    said when only the foreign one was there."""

    dists: dict[str, Path]
    keys: Path
    root: Path
    place: str
    first: dict[str, Any]
    second: dict[str, Any]
    early: str

    @property
    def name(self) -> str:
        return read_manifest(self.dists[HERE]).name

    @property
    def version(self) -> str:
        return read_manifest(self.dists[HERE]).version


@pytest.fixture(scope="module")
def published(
    dist: Path,
    arm: Path,
    test_tools: Path,
    stereo: Stereo,
    tell: Callable[[str], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("both")
    keys, root, work, dists = folder / "keys", folder / "mixtapes", folder / "work", {}
    manifest = read_manifest(dist)
    for name in ("release", "second"):
        stereo("keygen", name, "--output-dir", keys, cwd=folder)
    for built in (dist, arm):
        arch = read_manifest(built).arch.removesuffix("-linux")
        dists[arch] = work / "dist" / manifest.name / manifest.version / arch
        shutil.copytree(built, dists[arch], copy_function=os.link)
        stereo("sign", dists[arch], "--key", keys / "release.key", cwd=folder)
    words: tuple[str | Path, ...] = ("--mixtapes", manifest.name, "--version", manifest.version, "--work", work)
    Script(tell, "publish")(*words, "--to", root, cwd=folder)
    with real_registry(folder / "registry", test_tools) as registry:
        # By this name the programs of others speak plain http without being told to.
        place = f"localhost:{registry.host.rpartition(':')[2]}/mixtapes/{manifest.name}"
        first = json.loads(stereo("publish", dists[ELSEWHERE], "--to", place, "--json", cwd=folder).stdout)
        early = stereo("pull", place, "-o", folder / "early", cwd=folder, status=1).stderr
        second = json.loads(stereo("publish", dists[HERE], "--to", place, "--json", cwd=folder).stdout)
        yield Published(dists, keys, root, place, first, second, early)
    shutil.rmtree(folder)


def told(stereo: Stereo, verb: str, reference: str, cwd: Path, *words: str | Path) -> Any:
    return json.loads(stereo(verb, reference, "--json", *words, cwd=cwd).stdout)


def test_together_or_one_after_the_other_it_is_the_same_index(published: Published, stereo: Stereo) -> None:
    assert published.first["digest"] != published.second["digest"]
    assert published.first["tags"] == published.second["tags"] == [published.version, "latest"]
    for reference in (f"oci:{published.root}/{published.name}", published.place):
        tags = told(stereo, "tags", reference, published.root)
        assert tags["architectures"] == {published.version: ["x86_64", "aarch64"]}
        assert [(row["tag"], row["digest"]) for row in tags["floating"]] == [("latest", published.second["digest"])]
    rows = json.loads(stereo("search", "--in", published.place.rpartition("/")[0], "--json", cwd=Path("/")).stdout)
    assert [row["architectures"] for row in rows] == [["x86_64", "aarch64"]]


def test_where_its_own_is_missing_a_machine_is_told_which_are_there(published: Published) -> None:
    assert f"latest is not there for {HERE}, only for {ELSEWHERE}" in published.early
    assert f"`--arch {ELSEWHERE}`" in published.early
    assert not published.root.with_name("early").exists()


def test_each_architecture_has_its_own_statements_and_others_find_them(
    published: Published, stereo: Stereo, test_tools: Path, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    shown = told(stereo, "inspect", published.place, tmp_path)
    assert [(row["architecture"], row["format"]) for row in shown["manifests"]] == [
        *(("amd64", "raw"), ("amd64", "qcow2"), ("arm64", "raw"), ("arm64", "qcow2"))
    ]
    oras, cosign = program(test_tools, "oras"), program(test_tools, "cosign")
    for arch in published.dists:
        assert sorted(row["kind"] for row in shown["signed"][OCI[arch]]) == ["provenance", "release"]
        digest = oras("resolve", "--platform", f"linux/{OCI[arch]}", f"{published.place}:latest").strip()
        assert digest in {row["digest"] for row in shown["manifests"] if row["architecture"] == OCI[arch]}
        words = ("--type", RELEASE, "--insecure-ignore-tlog", f"{published.place}@{digest}")
        cosign("verify-attestation", "--key", published.keys / "release.pub", *words)
        with pytest.raises(CommandFailed):
            cosign("verify-attestation", "--key", published.keys / "second.pub", *words)


def test_each_machine_pulls_its_own_and_another_only_when_asked(
    published: Published, stereo: Stereo, tmp_path: Path
) -> None:
    """From a web server, believed by the release's key, side by side in the local store; and frames are of its own."""
    own = {"XDG_DATA_HOME": str(tmp_path / "data")}
    key = ("--key", published.keys / "release.pub", "--json")

    def pull(*words: str | Path) -> Any:
        return json.loads(stereo("pull", *words, *key, cwd=tmp_path, env=own).stdout)

    with served(published.root) as url:
        here = pull(f"{url}/{published.name}")
        foreign = pull(f"{url}/{published.name}", "--arch", ELSEWHERE)
    folder = f"oci:{published.root}/{published.name}"
    both = pull(folder, "--arch", ELSEWHERE, "--format", "all")  # that server gives no parts of a file
    assert (here["arch"], foreign["arch"]) == (f"{HERE}-linux", f"{ELSEWHERE}-linux")
    assert foreign["bytes"]["reused"] < 0.1 * foreign["bytes"]["size"]
    assert both["bytes"]["reused"] > 0.8 * both["bytes"]["size"]
    rows = json.loads(stereo("dists", "--json", cwd=tmp_path, env=own).stdout)
    assert {(row["arch"], row["path"]) for row in rows} == {(HERE, here["path"]), (ELSEWHERE, both["path"])}
    stereo("verify", both["path"], *key[:2], cwd=tmp_path)
    for arch, path in ((HERE, here["path"]), (ELSEWHERE, both["path"])):
        assert (Path(path) / "mixtape.toml").read_bytes() == (published.dists[arch] / "mixtape.toml").read_bytes()


def test_a_statement_about_one_architecture_says_nothing_of_the_other(
    published: Published, stereo: Stereo, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(published.dists[ELSEWHERE], foreign, copy_function=os.link)
    shutil.rmtree(foreign / "attestations")
    shutil.copytree(published.dists[HERE] / "attestations", foreign / "attestations")
    said = stereo("publish", foreign, "--to", f"oci:{tmp_path}/other", cwd=tmp_path, status=1).stderr
    assert "is a statement about other files" in said
    assert not (tmp_path / "other").exists()
