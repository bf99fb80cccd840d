"""SLSA provenance: the fields of version 1, made from the dist alone, and an SBOM that is not ours."""

from __future__ import annotations

import json
from typing import Any

import pytest

from makers.dist import CYCLONEDX
from makers.signing import NOW, SUBJECTS
from stereo.errors import UsageError
from stereo.trust.provenance import MAX_COMPONENTS, provenance_predicate, refuse_what_is_no_builder
from stereo.trust.statement import MalformedError, parse_statement, render_statement
from unit.registry.support import sample

BUILDER = "https://ci.example.org/stereo"


def predicate(cyclonedx: bytes = CYCLONEDX) -> dict[str, Any]:
    return provenance_predicate(sample(), cyclonedx, BUILDER)


def bill(**changes: Any) -> bytes:
    return json.dumps({**json.loads(CYCLONEDX), **changes}).encode()


def test_what_slsa_requires_is_there() -> None:
    made = predicate()
    definition, details = made["buildDefinition"], made["runDetails"]
    assert set(definition) == {"buildType", "externalParameters", "internalParameters", "resolvedDependencies"}
    assert definition["externalParameters"] == {
        "mixtape": "sample-mixtape",
        "version": "2026.01.02.0",
        "arch": "x86_64-linux",
        "level": 3,
    }
    assert definition["internalParameters"]["plan_key"] == "0" * 64
    assert details["builder"]["id"] == BUILDER


def test_every_dependency_is_a_resource_descriptor() -> None:
    rows = predicate()["buildDefinition"]["resolvedDependencies"]
    assert [row["name"] for row in rows] == [
        "source",
        "manifests/sample-mixtape-x86_64.lock",
        "tools.lock",
        "sed",
        "stereo",
    ]
    for row in rows:  # in-toto's ResourceDescriptor
        assert set(row) <= {"name", "uri", "digest", "annotations"}
        assert row.get("uri") or row.get("digest")
    assert rows[3] == {
        "name": "sed",
        "uri": "pkg:deb/debian/sed@4.9-2?arch=amd64",
        "digest": {"sha256": f"{4:064x}"},
        "annotations": {"usedAs": ["image"]},
    }


def test_what_is_in_the_image_and_a_tool_too_stands_once() -> None:
    rows = json.loads(CYCLONEDX)["components"]
    made = predicate(bill(metadata={"tools": {"components": rows}}))
    found = [row for row in made["buildDefinition"]["resolvedDependencies"] if row["name"] == "sed"]
    assert [row["annotations"] for row in found] == [{"usedAs": ["image", "tool"]}]


def test_the_same_dist_gives_the_same_provenance() -> None:
    assert predicate() == predicate()


def test_the_statement_names_its_release() -> None:
    read = parse_statement(render_statement("provenance", SUBJECTS, predicate(), NOW), "x")
    assert read.release_id == "sample-mixtape@2026.01.02.0/x86_64-linux"


def test_only_sha256_digests_are_taken() -> None:
    rows = [{**ROW, "hashes": [{"alg": "SHA-512", "content": "0" * 64}]}]
    found = predicate(bill(components=rows))["buildDefinition"]["resolvedDependencies"]
    assert [row.get("digest") for row in found if row["name"] == "sed"] == [None]


ROW = {"name": "sed", "purl": "pkg:deb/debian/sed@4.9-2"}


@pytest.mark.parametrize(
    ("cyclonedx", "words"),
    [
        (b"", "not JSON"),
        (b"[]", "no JSON object"),
        (b"{}", "components: is missing"),
        (bill(components={}), "components"),
        (bill(components=[ROW] * (MAX_COMPONENTS + 1)), "components"),
        (bill(components=["x"]), r"components\.0"),
        (bill(components=[{"name": "sed"}]), r"components\.0\.purl: is missing"),
        (bill(components=[{**ROW, "name": ""}]), r"components\.0\.name"),
        (bill(components=[{**ROW, "name": 7}]), r"components\.0\.name"),
        (bill(components=[{**ROW, "purl": "x" * 600}]), r"components\.0\.purl"),
        (bill(components=[{**ROW, "hashes": [{"alg": "SHA-256", "content": "x"}]}]), "pattern"),
        (bill(components=[{**ROW, "hashes": [{"alg": "SHA-256"}]}]), "content: is missing"),
        (bill(metadata=None), "metadata"),
        (bill(metadata={}), "tools: is missing"),
    ],
)
def test_an_sbom_that_cannot_be_read_is_refused_with_a_reason(cyclonedx: bytes, words: str) -> None:
    with pytest.raises(MalformedError, match=words) as caught:
        predicate(cyclonedx)
    assert caught.value.where == "sbom.cdx.json"


@pytest.mark.parametrize("builder_id", ["https://ci.example.org/a?b=c#d", "urn:stereo:key:abc", "mailto:x@example.org"])
def test_a_builder_is_a_uri(builder_id: str) -> None:
    refuse_what_is_no_builder(builder_id)


@pytest.mark.parametrize(
    "builder_id", ["", "ci", "//ci", "https:", "https://a b", "https://a\n", "x:\x1b", "x:" + "y" * 500]
)
def test_what_is_no_uri_is_refused(builder_id: str) -> None:
    with pytest.raises(UsageError, match="no URI"):
        refuse_what_is_no_builder(builder_id)
