"""in-toto statements: what ours say, and bytes of any origin."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from makers.signing import NOW, RELEASE, SUBJECTS, release_payload
from stereo.errors import StereoError
from stereo.trust.statement import (
    MAX_BYTES,
    MAX_SUBJECTS,
    PROVENANCE,
    MalformedError,
    Statement,
    lock_descriptors,
    parse_statement,
    release_id,
    release_predicate,
    render_statement,
    subjects_of,
    time_text,
)
from unit.registry.support import sample

GOOD: dict[str, Any] = json.loads(release_payload())


def altered(*path: str | int, value: Any) -> bytes:
    """The good statement, with another value at `path` (None: without it)."""
    table: Any = deepcopy(GOOD)
    inner = table
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(table).encode()


def test_what_is_written_is_read_again() -> None:
    end = NOW + timedelta(days=400)
    read = parse_statement(render_statement("release", SUBJECTS, RELEASE, NOW, end), "x")
    assert read.subjects == SUBJECTS
    assert (read.kind, read.release_id) == ("release", "base@2026.01.31.0/x86_64-linux")
    assert (read.issued_on, read.expires_on) == (NOW, end)


def test_the_fields_are_those_of_the_specification() -> None:
    assert set(GOOD) == {"_type", "subject", "predicateType", "predicate"}
    assert GOOD["_type"] == "https://in-toto.io/Statement/v1"
    assert GOOD["predicateType"] == "https://in-toto.io/attestation/release/v0.1"
    assert GOOD["subject"][0] == {"name": "mixtape.toml", "digest": {"sha256": "2" * 64}}
    assert {"purl", "releaseId"} < set(GOOD["predicate"])


def test_one_statement_has_one_form() -> None:
    assert release_payload() == release_payload()
    assert release_payload() == json.dumps(GOOD, sort_keys=True, separators=(",", ":")).encode()


def test_times_are_told_in_utc_to_the_second() -> None:
    moment = datetime(2026, 1, 31, 13, 0, 0, 999, tzinfo=timezone(timedelta(hours=1)))
    assert time_text(moment) == "2026-01-31T12:00:00Z"


def test_a_statement_is_about_all_files_and_what_publishing_makes_of_them() -> None:
    manifest = sample()
    subjects = subjects_of(manifest, b"bytes of mixtape.toml")
    names = {name for name, _, _ in manifest.files()}
    assert set(subjects) == names | {"mixtape.toml", "oci:raw", "oci:qcow2", "oci:index"}
    assert subjects["oci:raw"] != subjects_of(manifest, b"other bytes of mixtape.toml")["oci:raw"]


def test_a_release_is_named_by_name_version_and_architecture() -> None:
    predicate = release_predicate(sample())
    assert predicate["releaseId"] == release_id("sample-mixtape", "2026.01.02.0", "x86_64-linux")
    assert predicate["purl"] == "pkg:generic/sample-mixtape@2026.01.02.0?arch=x86_64"


def test_a_full_revision_is_a_commit_and_any_other_only_a_name() -> None:
    short = lock_descriptors(sample())[0]
    assert short == {"name": "source", "uri": "urn:stereo:revision:abcdef"}
    manifest = sample()
    full = manifest.model_copy(update={"build": manifest.build.model_copy(update={"source_revision": "a" * 40})})
    assert lock_descriptors(full)[0] == {"name": "source", "digest": {"gitCommit": "a" * 40}}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"[]", "no JSON object"),
        (b"null", "no JSON object"),
        (b"\xff{}", "not UTF-8"),
        (b'{"_type": "a", "_type": "b"}', "stands twice"),
        (b'{"a": NaN}', "no number"),
        (b'{"a": Infinity}', "no number"),
        (b'{"a": 1e999}', "not JSON"),
        (b'{"a": 1' + b"0" * 10_000 + b"}", "not JSON"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "nested too deep"),
        (b" " * (MAX_BYTES + 1), "larger than"),
        (b"{}", "no in-toto Statement v1"),
        (altered("_type", value="https://in-toto.io/Statement/v0.1"), "no in-toto Statement v1"),
        (altered("predicateType", value=None), "no predicateType"),
        (altered("predicateType", value="x" * 600), "no predicateType"),
        (altered("predicateType", value=["a"]), "no predicateType"),
        (altered("predicate", value=None), "predicate is no object"),
        (altered("predicate", value="x"), "predicate is no object"),
        (altered("subject", value=None), "between 1 and"),
        (altered("subject", value=[]), "between 1 and"),
        (altered("subject", value={}), "between 1 and"),
        (altered("subject", value=[GOOD["subject"][0]] * (MAX_SUBJECTS + 1)), "between 1 and"),
        (altered("subject", value=[GOOD["subject"][0]] * 2), "names its subject mixtape.toml twice"),
        (altered("subject", 0, value="x"), "subject without a name"),
        (altered("subject", 0, "name", value=None), "subject without a name"),
        (altered("subject", 0, "name", value=7), "subject without a name"),
        (altered("subject", 0, "name", value="x" * 600), "subject without a name"),
        (altered("subject", 0, "digest", value=None), "no SHA-256"),
        (altered("subject", 0, "digest", value={"sha1": "0" * 40}), "no SHA-256"),
        (altered("subject", 0, "digest", "sha256", value="A" * 64), "no SHA-256"),
        (altered("subject", 0, "digest", "sha256", value="0" * 63), "no SHA-256"),
        (altered("subject", 0, "digest", "sha256", value="0" * 64 + "\n"), "no SHA-256"),
        (altered("predicate", "issuedOn", value=None), "when it was issued"),
        (altered("predicate", "issuedOn", value=1_769_000_000), "no time"),
        (altered("predicate", "issuedOn", value="2026-02-30T00:00:00Z"), "no time"),
        (altered("predicate", "issuedOn", value="2026-02-01T00:00:00+01:00"), "no time"),
        (altered("predicate", "issuedOn", value="0000-00-00T00:00:00Z"), "no time"),
        (altered("predicate", "expiresOn", value="never"), "no time"),
        (altered("predicate", "releaseId", value=None), "which release"),
        (altered("predicate", "releaseId", value=["a"]), "which release"),
        (altered("predicate", "releaseId", value="x" * 600), "release id of more than"),
        (altered("predicateType", value=PROVENANCE), "which release"),
    ],
    ids=lambda value: value[:20].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_what_is_no_statement_is_refused_with_a_reason(data: bytes, words: str) -> None:
    with pytest.raises(MalformedError, match=words) as caught:
        parse_statement(data, "release.json")
    assert caught.value.where == "release.json"
    assert caught.value.what.isprintable()


@pytest.mark.parametrize(
    "external",
    [
        {},
        {"mixtape": "base", "version": "1"},
        {"mixtape": "base@1", "version": "1", "arch": "x"},
        {"mixtape": "base", "version": "1/x", "arch": "x"},
        [],
        "x",
    ],
)
def test_a_provenance_that_does_not_name_one_release_is_refused(external: Any) -> None:
    predicate = {"buildDefinition": {"externalParameters": external}, "issuedOn": time_text(NOW)}
    data = {**GOOD, "predicateType": PROVENANCE, "predicate": predicate}
    with pytest.raises(MalformedError, match="which release"):
        parse_statement(json.dumps(data).encode(), "x")


def test_unknown_fields_and_digests_are_passed_over() -> None:
    table = deepcopy(GOOD)
    table["extra"] = 1
    table["subject"][0]["digest"]["sha512"] = "?"
    table["subject"][0]["uri"] = "x"
    table["predicate"]["more"] = [1]
    assert parse_statement(json.dumps(table).encode(), "x").subjects == SUBJECTS


def test_a_foreign_predicate_is_read_and_has_no_kind() -> None:
    read = parse_statement(altered("predicateType", value="https://example.org/x"), "x")
    assert (read.kind, read.release_id, read.issued_on) == (None, None, None)


def test_what_nobody_could_read_again_is_not_written() -> None:
    with pytest.raises(StereoError, match="which release"):
        render_statement("release", SUBJECTS, {}, NOW)
    with pytest.raises(StereoError, match="between 1 and"):
        render_statement("release", {}, RELEASE, NOW)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_statement_or_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_statement(data, "x")


@given(st.sampled_from(sorted(GOOD)), JSON, st.booleans())
def test_any_value_in_any_place_is_a_statement_or_malformed(key: str, value: Any, inside: bool) -> None:
    table = deepcopy(GOOD)
    if inside and key == "predicate":
        table["predicate"]["issuedOn"] = value
    elif inside and key == "subject":
        table["subject"][0] = value
    else:
        table[key] = value
    try:
        read = parse_statement(json.dumps(table).encode(), "x")
    except MalformedError:
        return
    assert isinstance(read, Statement)
    assert read.issued_on is None or read.issued_on.tzinfo is UTC
