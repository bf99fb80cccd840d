"""The two documents: valid by their own libraries, complete, and the same bytes for everyone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from spdx_tools.spdx.parser.json.json_parser import parse_from_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from stereo.errors import StereoError
from stereo.model.lock import Deb
from stereo.sbom.bill import Bill, Kind
from stereo.sbom.documents import documents
from stereo.sbom.gather import draw_up
from stereo.sbom.installed import MAX_FILE, read_tree
from unit.sbom.support import DEBS, KERNEL, TREE, deb, make_bill, make_plan_of, make_tree


@pytest.fixture
def bill(tmp_path: Path) -> Bill:
    return make_bill(tmp_path)


def cyclonedx(bill: Bill) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(documents(bill)["sbom.cdx.json"])
    return found


def spdx(bill: Bill) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(documents(bill)["sbom.spdx.json"])
    return found


def test_cyclonedx_is_valid_by_its_own_schema(bill: Bill) -> None:
    text = documents(bill)["sbom.cdx.json"].decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_spdx_is_valid_by_its_own_library(bill: Bill, tmp_path: Path) -> None:
    file = tmp_path / "sbom.spdx.json"
    file.write_bytes(documents(bill)["sbom.spdx.json"])
    document = parse_from_file(str(file))
    assert validate_full_spdx_document(document) == []
    assert len(document.packages) == 1 + len(bill.components) + 2  # the image, and the tools that are not in it


def test_every_source_has_its_component(bill: Bill) -> None:
    rows = {row.name: row for row in bill.components}
    assert {name: (row.kind, row.purl, row.licence) for name, row in rows.items()} == {
        "alpha": (
            Kind.DEBIAN,
            "pkg:deb/debian/alpha@1:2.0%2Bdfsg-1?arch=amd64&distro=debian-13",
            "(LicenseRef-Debian-weird-one-e5e70e11 OR MIT) AND GPL-2.0-or-later",
        ),
        "libbeta++6": (
            Kind.DEBIAN,
            "pkg:deb/debian/libbeta%2B%2B6@3.1?arch=amd64&distro=debian-13",
            rows["alpha"].licence,
        ),
        "gamma-data": (Kind.DEBIAN, "pkg:deb/debian/gamma-data@1.0?arch=all&distro=debian-13", rows["alpha"].licence),
        KERNEL: (
            Kind.KERNEL,
            "pkg:deb/debian/linux-image-6.12.117%2Bdeb13-cloud-amd64@6.12.117-1?arch=amd64&distro=debian-13",
            None,
        ),
        "@scope/tool": (Kind.NPM, "pkg:npm/%40scope/tool@1.2.3", "MIT"),
        "Some.Tool": (Kind.PYPI, "pkg:pypi/some-tool@1.5", "Apache-2.0 OR MIT"),
        "thing": (
            Kind.URL,
            f"pkg:generic/thing@{'f' * 64}?checksum=sha256:{'f' * 64}&download_url=https://example.org/thing%3Fa%3Db",
            None,
        ),
        "debian": (Kind.SYSTEM, "pkg:generic/debian@13", None),
        "stereos-guest": (Kind.OURS, "pkg:generic/stereos-guest@abc", None),
        "stereos-overlays": (Kind.OURS, "pkg:generic/stereos-overlays@abc", None),
    }
    assert [rows[name].sha256 for name in ("alpha", "@scope/tool", "Some.Tool", "thing")] == [
        digit * 64 for digit in "1cdf"
    ]
    assert rows[KERNEL].hints == ("GPL-2",)
    assert (rows["alpha"].source, rows["libbeta++6"].source) == ("alpha 1:2.0+dfsg-1", "beta 3.0")
    assert {row.name for row in bill.tools} == {"stereo", "mkosi", "alpha"}


def test_what_is_locked_but_not_installed_is_not_listed(bill: Bill) -> None:
    assert "never-installed" not in {row.name for row in bill.components}


def test_needs_are_those_of_debian_with_alternatives_and_virtual_packages(bill: Bill) -> None:
    names = {row.purl: row.name for row in bill.components}
    (alpha,) = (row for row in bill.components if row.name == "alpha")
    assert sorted(names[purl] for purl in alpha.needs) == ["gamma-data", "libbeta++6"]
    graph = {row["ref"]: row.get("dependsOn", []) for row in cyclonedx(bill)["dependencies"]}
    assert graph[alpha.purl] == list(alpha.needs)
    assert graph[bill.purl] == [row.purl for row in bill.components]


@pytest.mark.parametrize("debs", [DEBS[1:], (deb("alpha", "1", "2"), *DEBS[1:])], ids=["no such", "other version"])
def test_a_tree_with_a_package_that_no_lock_names_is_refused(tmp_path: Path, debs: tuple[Deb, ...]) -> None:
    installed = read_tree(make_tree(tmp_path / "tree.tar"))
    plan = make_plan_of(tmp_path, debs)
    with pytest.raises(StereoError, match="not in the lock: alpha"):
        draw_up(plan, installed, revision="abc", root_hash="0" * 64, kernel_version="6")


def test_the_image_is_what_the_documents_are_about(bill: Bill) -> None:
    component = cyclonedx(bill)["metadata"]["component"]
    assert (component["name"], component["version"]) == ("sample", "2026.01.31.0")
    assert {"name": "stereo:root-hash", "value": "ab" * 32} in component["properties"]
    document = spdx(bill)
    (described,) = (row for row in document["relationships"] if row["relationshipType"] == "DESCRIBES")
    (image,) = (row for row in document["packages"] if row["SPDXID"] == described["relatedSpdxElement"])
    assert (image["name"], image["versionInfo"]) == ("sample", "2026.01.31.0")
    contained = [row for row in document["relationships"] if row["relationshipType"] == "CONTAINS"]
    assert len(contained) == len(bill.components)
    tools = [row for row in document["relationships"] if row["relationshipType"] == "BUILD_TOOL_OF"]
    assert len(tools) == len(bill.tools)


def test_times_are_the_epoch_and_identifiers_come_from_the_content(bill: Bill) -> None:
    made, other = cyclonedx(bill), cyclonedx(replace(bill, root_hash="cd" * 32))
    assert made["metadata"]["timestamp"] == "2026-09-21T14:13:20+00:00"
    assert spdx(bill)["creationInfo"]["created"] == "2026-09-21T14:13:20Z"
    assert made["serialNumber"] == f"urn:uuid:{bill.uuid}" != other["serialNumber"]
    assert spdx(bill)["documentNamespace"].endswith(str(bill.uuid))
    assert bill.uuid.version == 5


def test_a_reference_stands_once_in_a_document(bill: Bill) -> None:
    document = cyclonedx(bill)
    metadata = document["metadata"]
    rows = [metadata["component"], *metadata["tools"]["components"], *document["components"]]
    references = [row["bom-ref"] for row in rows]
    assert len(references) == len(set(references))
    names = [row["SPDXID"] for row in spdx(bill)["packages"]]
    assert len(names) == len(set(names))


def test_a_licence_without_an_identifier_is_explained(bill: Bill) -> None:
    (row,) = spdx(bill)["hasExtractedLicensingInfos"]
    assert row["name"] == "weird~one"
    assert "/usr/share/doc/alpha/copyright" in row["extractedText"]


_RENDER = """
import hashlib, sys
from pathlib import Path
from stereo.sbom.documents import documents
from unit.sbom.support import make_bill
for name, data in documents(make_bill(Path(sys.argv[1]))).items():
    print(name, hashlib.sha256(data).hexdigest())
"""


def test_hash_seed_time_zone_locale_and_order_in_the_tree_do_not_matter(bill: Bill, tmp_path: Path) -> None:
    told = set()
    for seed, zone in (("1", "Asia/Tokyo"), ("2", "America/New_York")):
        folder = tmp_path / seed
        folder.mkdir()
        environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C"}
        argv = [sys.executable, "-c", _RENDER, str(folder)]
        told.add(subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(told) == 1
    turned = tmp_path / "turned"
    turned.mkdir()
    assert documents(make_bill(turned, dict(reversed([*TREE.items()])))) == documents(bill)


def test_npm_packages_that_came_inside_of_others_are_listed_without_a_digest(tmp_path: Path) -> None:
    inside = "./usr/lib/stereos/agent/npm/node_modules/@scope/tool/node_modules"
    tree = {
        **TREE,
        f"{inside}/@other/part/package.json": b'{"name": "lies", "version": "2.0.0", "license": "ISC"}',
        f"{inside}/@scope/tool/package.json": b'{"version": "1.2.3"}',
        f"{inside}/../lib/package.json": b'{"version": "9.9.9"}',
        f"{inside}/no-version/package.json": b'{"type": "module"}',
        f"{inside}/odd/package.json": b'{"version": "1.0\\u001b"}',
    }
    rows = [row for row in make_bill(tmp_path, tree).components if row.kind is Kind.NPM]
    assert [(row.purl, row.sha256, row.licence) for row in rows] == [
        ("pkg:npm/%40other/part@2.0.0", None, "ISC"),
        ("pkg:npm/%40scope/tool@1.2.3", "c" * 64, "MIT"),
    ]


@pytest.mark.parametrize("missing", ["./var/lib/dpkg/status", "./usr/lib/os-release"])
def test_a_tree_without_a_database_is_refused(tmp_path: Path, missing: str) -> None:
    tree = {name: content for name, content in TREE.items() if name != missing}
    with pytest.raises(StereoError, match=f"has no {missing[2:]}"):
        read_tree(make_tree(tmp_path / "tree.tar", tree))


def test_a_tree_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree.tar").write_bytes(b"\x1f\x8b" * 600)
    with pytest.raises(StereoError, match=r"no \.tar"):
        read_tree(tmp_path / "tree.tar")


def test_a_file_larger_than_any_honest_one_is_refused(tmp_path: Path) -> None:
    tree = {**TREE, "./usr/share/doc/alpha/copyright": bytes(MAX_FILE + 1)}
    with pytest.raises(StereoError, match="bytes"):
        read_tree(make_tree(tmp_path / "tree.tar", tree))


def test_links_of_copyright_files_that_lead_in_circles_or_out_of_the_tree_lead_nowhere(tmp_path: Path) -> None:
    tree = {
        **TREE,
        "./usr/share/doc/alpha/copyright": "../gamma-data/copyright",
        "./usr/share/doc/gamma-data/copyright": "../alpha/copyright",
        "./usr/share/doc/libbeta++6": "/../../../../etc",
    }
    installed = read_tree(make_tree(tmp_path / "tree.tar", tree))
    assert set(installed.copyrights) == {KERNEL}
