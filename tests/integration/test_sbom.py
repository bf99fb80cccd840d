"""The SBOM of a built dist, held against what is in its image and against the lock, without its generator's help."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from spdx_tools.spdx.parser.json.json_parser import parse_from_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from makers.image import Image
from stereo.artifacts.tree import Kind
from stereo.assemble.dist import read_manifest
from stereo.inputs.lockfiles import LockFolder
from stereo.model.architecture import Architecture
from stereo.model.lock import Lock
from stereo.paths import Checkout
from stereo.plan.tree import Entry, tree_digest
from stereo.plan.tree import Kind as TreeKind

pytestmark = pytest.mark.build

GUEST = "/usr/lib/stereos"
OVERLAYS = Checkout.containing_this_package().root / "overlays"


@pytest.fixture(scope="module")
def image(dist: Path) -> Iterator[Image]:
    with Image(dist) as opened:
        yield opened


@pytest.fixture(scope="module")
def document(dist: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((dist / "sbom.cdx.json").read_bytes())
    return found


@pytest.fixture(scope="module")
def components(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in document["components"]}


@pytest.fixture(scope="module")
def lock(locks: Path) -> Lock:
    return LockFolder(locks).read("opencode-mixtape", Architecture(platform.machine()))


def properties(row: dict[str, Any]) -> dict[str, str]:
    return {one["name"].removeprefix("stereo:"): one["value"] for one in row.get("properties", [])}


def debian(components: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: row for name, row in components.items() if row["purl"].startswith("pkg:deb/")}


def test_both_documents_are_valid(dist: Path) -> None:
    text = (dist / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert validate_full_spdx_document(parse_from_file(str(dist / "sbom.spdx.json"))) == []


def test_every_debian_package_of_the_image_is_listed_and_no_other(
    image: Image, components: dict[str, dict[str, Any]]
) -> None:
    """Each has its folder of documentation (Debian policy 12.3), which our images keep."""
    assert {*debian(components)} == {*image.root.children("/usr/share/doc")}


def test_versions_and_digests_are_those_of_the_lock(components: dict[str, dict[str, Any]], lock: Lock) -> None:
    locked = {row.name: (row.version, row.sha256) for row in lock.image}
    locked |= {row.name: (row.version, row.sha256) for row in lock.npm}
    for name, row in components.items():
        if "hashes" in row:
            assert (row["version"], row["hashes"][0]["content"]) == locked[name], name
    assert sum("hashes" in row for row in components.values()) == len(components) - 3  # the system, and what is ours


def test_the_kernel_and_python_are_those_that_boot_and_run(
    image: Image, dist: Path, components: dict[str, dict[str, Any]]
) -> None:
    (kernel,) = (row for row in components.values() if properties(row)["kind"] == "kernel")
    release = kernel["name"].removeprefix("linux-image-")
    assert image.root.children("/usr/lib/modules") == [release]
    assert read_manifest(dist).image.kernel_version == release
    pythons = [name for name in image.root.children("/usr/lib") if re.fullmatch(r"python3\.\d+", name)]
    assert [components[f"lib{name}-minimal"]["version"].startswith(name[6:]) for name in pythons] == [True]


def test_the_agent_s_package_is_the_one_in_the_image(image: Image, components: dict[str, dict[str, Any]]) -> None:
    (name,) = (name for name, row in components.items() if row["purl"].startswith("pkg:npm/"))
    package = json.loads(image.root.data(f"/usr/lib/stereos/agent/npm/node_modules/{name}/package.json"))
    assert (package["name"], package["version"]) == (name, components[name]["version"])


def test_the_guest_s_digest_is_that_of_the_files_in_the_image(
    image: Image, components: dict[str, dict[str, Any]]
) -> None:
    files = {}
    laid_over = {path.as_posix() for folder in OVERLAYS.iterdir() for path in _relative(folder)}
    for path in image.root.below(GUEST):
        entry = image.root[path]
        others = path.startswith(f"{GUEST}/agent/") or "__pycache__" in path or path[1:] in laid_over
        if entry.kind is Kind.FILE and not others:
            kind = TreeKind.PROGRAM if entry.mode & 0o111 else TreeKind.FILE
            files[path[1:]] = Entry(image.root.data(path), kind)
    assert properties(components["stereos-guest"])["content-sha256"] == tree_digest(files)


def _relative(folder: Path) -> Iterator[Path]:
    return (path.relative_to(folder) for path in folder.rglob("*"))


def test_the_image_is_named_by_its_root_hash(dist: Path, document: dict[str, Any]) -> None:
    manifest, row = read_manifest(dist), document["metadata"]["component"]
    assert (row["name"], row["version"]) == (manifest.name, manifest.version)
    assert properties(row) == {
        "architecture": platform.machine(),
        "kernel-version": manifest.image.kernel_version,
        "root-hash": manifest.image.root_hash,
        "source-revision": manifest.build.source_revision,
    }


def test_licences_are_stated_for_all_whose_copyright_file_is_machine_readable(
    image: Image, components: dict[str, dict[str, Any]]
) -> None:
    for name, row in debian(components).items():
        entry = image.root.resolve(f"/usr/share/doc/{name}/copyright")
        readable = entry is not None and b"Format: http" in image.root.data(entry.path)[:200]
        assert readable == ("licenses" in row), name


def test_a_licence_without_an_identifier_points_to_a_file_in_the_image(image: Image, dist: Path) -> None:
    rows = json.loads((dist / "sbom.spdx.json").read_bytes())["hasExtractedLicensingInfos"]
    assert rows
    for row in rows:
        for path in re.findall(r"/usr/share/doc/[^,\s]+", row["extractedText"]):
            entry = image.root.resolve(path)
            assert entry is not None, path
            assert row["name"] in " ".join(image.root.text(entry.path).split()), path
