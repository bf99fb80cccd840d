"""Reading foreign SBOMs, and telling two apart in words."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.errors import StereoError, UsageError
from stereo.sbom import reading
from stereo.sbom.bill import Bill
from stereo.sbom.difference import Change, difference
from stereo.sbom.documents import documents
from stereo.sbom.reading import Listing, Row, parse_sbom, read_sbom
from unit.sbom.support import make_bill


@pytest.fixture
def bill(tmp_path: Path) -> Bill:
    return make_bill(tmp_path)


@pytest.fixture
def dist(bill: Bill, tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    folder.mkdir()
    for name, data in documents(bill).items():
        (folder / name).write_bytes(data)
    return folder


def row(name: str, version: str = "1", licence: str = "MIT", sha256: str = "a" * 64, kind: str = "debian") -> Row:
    return Row(kind, name, version, licence, sha256, f"pkg:deb/debian/{name}@{version}")


def listing(*rows: Row, tools: tuple[Row, ...] = ()) -> Listing:
    return Listing("CycloneDX", "sample", "1", tuple(sorted(rows)), tools)


def words(a: Listing, b: Listing) -> list[str]:
    return [str(one) for one in difference(a, b)]


def test_both_documents_of_a_dist_say_the_same(dist: Path) -> None:
    one, other = (read_sbom(dist, form) for form in ("cyclonedx", "spdx"))
    assert (one.format, other.format) == ("CycloneDX", "SPDX")
    assert (one.name, one.version) == (other.name, other.version) == ("sample", "2026.01.31.0")
    assert {(r.kind, r.name, r.version, r.licence, r.purl) for r in one.rows} == {
        (r.kind, r.name, r.version, r.licence, r.purl) for r in other.rows
    }
    assert [r.name for r in one.tools] == [r.name for r in other.tools] == ["alpha", "mkosi", "stereo"]
    assert difference(one, other) == ()


def test_a_file_is_read_as_well_as_a_dist(dist: Path) -> None:
    assert read_sbom(dist / "sbom.spdx.json") == read_sbom(dist, "spdx")


def test_what_came_and_went_is_told_in_words() -> None:
    before = listing(row("a"), row("gone"), row("b", "1"), row("c", licence="MIT AND ISC"), row("d"))
    after = listing(
        row("a"), row("new", "2"), row("b", "2"), row("c", licence="ISC AND Zlib AND X11"), row("d", sha256="b" * 64)
    )
    assert words(before, after) == [
        "debian: b 1 became 2",
        "debian: c: licence no longer MIT, now also X11, now also Zlib",
        "debian: d 1: the same version with other bytes",
        "debian: gone 1 is gone",
        "debian: new 2 is new",
    ]
    assert words(after, after) == []


def test_a_licence_that_appears_or_is_replaced_is_told() -> None:
    assert words(listing(row("a", licence="")), listing(row("a", licence="MIT"))) == [
        "debian: a: licence not stated became MIT"
    ]
    assert words(listing(row("a", licence="ISC")), listing(row("a", licence="MIT"))) == [
        "debian: a: licence ISC became MIT"
    ]
    assert words(listing(row("a", licence="(A AND B) OR C")), listing(row("a", licence="(A AND B) OR D"))) == [
        "debian: a: licence (A AND B) OR C became (A AND B) OR D"
    ]


def test_the_same_licences_in_another_order_are_no_change() -> None:
    assert words(listing(row("a", licence="(B OR A) AND C")), listing(row("a", licence="C AND (B OR A)"))) == []


def test_tools_are_told_apart_from_components() -> None:
    found = difference(listing(tools=(row("mkosi", "27.1"),)), listing(tools=(row("mkosi", "27.2"),)))
    assert [(one.change, one.tool, str(one)) for one in found] == [
        (Change.VERSION, True, "tool, debian: mkosi 27.1 became 27.2")
    ]


def test_two_versions_of_one_package_are_paired() -> None:
    before, after = listing(row("a", "1"), row("a", "2")), listing(row("a", "2"), row("a", "3"), row("a", "4"))
    assert words(before, after) == ["debian: a 1 became 3", "debian: a 4 is new"]


def test_a_changed_guest_is_told(dist: Path, bill: Bill, tmp_path: Path) -> None:
    changed = tuple(replace(one, content="0" * 64) if one.name == "stereos-guest" else one for one in bill.components)
    (tmp_path / "other.json").write_bytes(documents(replace(bill, components=changed))["sbom.cdx.json"])
    assert words(read_sbom(dist), read_sbom(tmp_path / "other.json")) == [
        "other: stereos-guest abc: the same version with other bytes"
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"bomFormat": "CycloneDX", "version": ' + b"9" * 5000 + b"}",
        b'{"spdxVersion": 2.3}',
        b"x" * (reading.MAX_BYTES + 1),
    ],
    ids=["empty", "nothing", "list", "null", "no-utf8", "deep", "number", "no-version", "huge"],
)
def test_what_is_no_sbom_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(StereoError, match=r"^given: "):
        parse_sbom(data, "given")


def test_more_rows_than_anybody_has_are_refused() -> None:
    document = {"bomFormat": "CycloneDX", "components": [{}] * (reading.MOST_ROWS + 1)}
    with pytest.raises(StereoError, match="more than"):
        parse_sbom(json.dumps(document).encode(), "given")


def test_a_foreign_document_gives_what_it_says_and_no_more() -> None:
    document = {
        "bomFormat": "CycloneDX",
        "metadata": {"component": {"name": "\ud800", "version": 3}, "tools": [{"name": "old form"}]},
        "components": [
            {
                "name": "a",
                "licenses": [{"license": {"id": "MIT"}}, {"license": {"name": "Mine"}}],
                "purl": "pkg:npm/a@1",
            },
            {"name": "b" * 9000, "licenses": "MIT", "hashes": {"alg": "SHA-256"}},
            "no table",
        ],
    }
    found = parse_sbom(json.dumps(document).encode(), "given")
    assert (found.name, found.version, found.tools) == ("?", "", ())
    assert found.rows[0] == Row("npm", "a", "", "MIT AND Mine", "", "pkg:npm/a@1")
    assert len(found.rows[1].name) == 4096


@pytest.mark.parametrize("kind", ["missing", "empty folder", "pipe"])
def test_a_place_without_an_sbom_is_refused(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "empty folder":
        place.mkdir()
    with pytest.raises(UsageError, match=r"cannot be read|no regular file"):
        read_sbom(place)


_KEYS = [
    *("name", "version", "components", "metadata", "tools", "component", "licenses", "license", "hashes", "purl"),
    *("packages", "relationships", "externalRefs", "checksums", "SPDXID", "relationshipType", "properties"),
]
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
    max_leaves=20,
)


@given(st.sampled_from([{"bomFormat": "CycloneDX"}, {"spdxVersion": "SPDX-2.3"}]), _json)
def test_whatever_stands_where_nothing_breaks(head: dict[str, str], body: Any) -> None:
    document = {**head, **(body if isinstance(body, dict) else dict.fromkeys(_KEYS, body))}
    found = parse_sbom(json.dumps(document).encode(), "given")
    assert difference(found, found) == ()
