"""What a key says of a dist: an in-toto Statement (v1) with one of three predicates.

A statement names every file of the reproducible set and the OCI documents that publishing makes of them by SHA-256, and
says one thing about all: that it is a release, how it was built, or that somebody else's rebuild gave the same bytes.
Reading one is hostile-safe and checks form alone; whether to believe it is `judge`'s question. Specifications: in-toto
attestation framework, Statement v1, predicates Release v0.1 and Test Result v0.1; SLSA provenance v1.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stereo.errors import StereoError, shown
from stereo.model.manifest import MANIFEST_FILE, Manifest
from stereo.registry.documents import documents_of
from stereo.registry.errors import Malformed
from stereo.registry.strict import canonical, read_json

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
RELEASE = "https://in-toto.io/attestation/release/v0.1"
PROVENANCE = "https://slsa.dev/provenance/v1"
REBUILD = "https://in-toto.io/attestation/test-result/v0.1"
KINDS = {"release": RELEASE, "provenance": PROVENANCE, "rebuild": REBUILD}
"""Predicate types by the short names that files, roles and messages have for them."""

MAX_BYTES = 3 << 20  # its base64 still fits an envelope of 4 MiB
MAX_SUBJECTS = 256
_MAX_TEXT = 512
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_NAMES = {predicate_type: kind for kind, predicate_type in KINDS.items()}


class MalformedError(StereoError):
    """Bytes that are no statement, envelope or list of checksums: nothing that they say is to be believed."""


@dataclass(frozen=True)
class Statement:
    """One statement. `subjects` is SHA-256 (hexadecimal) by name.

    `kind` is None for predicates that are not ours; only of ours are release and times known. `release_id` is that of
    `release_id`, below.
    """

    subjects: Mapping[str, str]
    predicate_type: str
    predicate: Mapping[str, Any]
    release_id: str | None = None
    issued_on: datetime | None = None
    expires_on: datetime | None = None

    @property
    def kind(self) -> str | None:
        """ "release", "provenance" or "rebuild"."""
        return _NAMES.get(self.predicate_type)


def release_id(name: str, version: str, arch: str) -> str:
    """Which release a statement is about: "base@2026.01.31.0/x86_64-linux"."""
    return f"{name}@{version}/{arch}"


def file_digests(manifest: Manifest, data: bytes) -> dict[str, str]:
    """SHA-256 by name of every file of a dist, of mixtape.toml too, whose bytes are `data` and say `manifest`."""
    return {name: digest for name, digest, _ in manifest.files()} | {MANIFEST_FILE: hashlib.sha256(data).hexdigest()}


def subjects_of(manifest: Manifest, data: bytes) -> dict[str, str]:
    """What a statement of ours is about: the files, and the OCI documents that publishing makes of them."""
    files = file_digests(manifest, data)
    return files | documents_of(manifest, files[MANIFEST_FILE], len(data)).subjects()


def release_predicate(manifest: Manifest) -> dict[str, Any]:
    """The predicate Release v0.1 of a dist, without times."""
    return {
        "purl": f"pkg:generic/{manifest.name}@{manifest.version}?arch={manifest.arch.removesuffix('-linux')}",
        "releaseId": release_id(manifest.name, manifest.version, manifest.arch),
    }


def lock_descriptors(manifest: Manifest) -> list[dict[str, Any]]:
    """What a build is pinned by, as ResourceDescriptors: the source revision and the two locks.

    The tools are those of the machine that built, of whatever architecture: which of manifests/tools-*.lock it was, its
    digest says, and no manifest.
    """
    revision = manifest.build.source_revision
    is_commit = re.fullmatch(r"[0-9a-f]{40}", revision) is not None
    which = {"digest": {"gitCommit": revision}} if is_commit else {"uri": f"urn:stereo:revision:{revision}"}
    cpu = manifest.arch.removesuffix("-linux")
    return [
        {"name": "source", **which},
        {"name": f"manifests/{manifest.name}-{cpu}.lock", "digest": {"sha256": manifest.build.lock_sha256}},
        {"name": "tools.lock", "digest": {"sha256": manifest.build.tools_lock_sha256}},
    ]


def render_statement(
    kind: str,
    subjects: Mapping[str, str],
    predicate: Mapping[str, Any],
    issued_on: datetime,
    expires_on: datetime | None = None,
) -> bytes:
    """The statement as it is signed: canonical JSON. Times are told to the second.

    Raises StereoError if nobody could read it again.
    """
    dated = {**predicate, "issuedOn": time_text(issued_on)}
    if expires_on:
        dated["expiresOn"] = time_text(expires_on)
    data = canonical(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": subjects[name]}} for name in sorted(subjects)],
            "predicateType": KINDS[kind],
            "predicate": dated,
        }
    )
    parse_statement(data, f"statement of {kind}")
    return data


def time_text(moment: datetime) -> str:
    """RFC 3339 in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_statement(data: bytes, name: str) -> Statement:
    """Read a statement from anywhere; `name` is how errors call it. Raises MalformedError, whatever the bytes are.

    Unknown fields are passed over, as the specification wants it.
    """
    table = read_object(data, name, MAX_BYTES)
    if table.get("_type") != STATEMENT_TYPE:
        raise MalformedError("is no in-toto Statement v1", where=name)
    predicate_type, predicate = table.get("predicateType"), table.get("predicate")
    if not isinstance(predicate_type, str) or not 0 < len(predicate_type) <= _MAX_TEXT:
        raise MalformedError("has no predicateType", where=name)
    if not isinstance(predicate, dict):
        raise MalformedError("its predicate is no object", where=name)
    subjects = _subjects(table.get("subject"), name)
    if predicate_type not in _NAMES:
        return Statement(subjects, predicate_type, predicate)
    issued = _time(predicate, "issuedOn", name)
    if issued is None:
        raise MalformedError("does not say when it was issued (issuedOn)", where=name)
    expires = _time(predicate, "expiresOn", name)
    return Statement(subjects, predicate_type, predicate, _release_of(predicate_type, predicate, name), issued, expires)


def read_object(data: bytes, name: str, limit: int) -> dict[str, Any]:
    """A JSON object of at most `limit` bytes from a stranger. Raises MalformedError."""
    try:
        value = read_json(data, limit=limit, what=name)
        canonical(value)  # refuses what only looks like JSON: numbers beyond floating point, halves of characters
    except Malformed as error:
        raise MalformedError(error.what, where=name) from error
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"is not JSON: {shown(str(error), 100)}", where=name) from error
    if not isinstance(value, dict):
        raise MalformedError("is no JSON object", where=name)
    return value


def _subjects(rows: object, name: str) -> dict[str, str]:
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_SUBJECTS:
        raise MalformedError(f"must have between 1 and {MAX_SUBJECTS} subjects", where=name)
    subjects: dict[str, str] = {}
    for row in rows:
        label = row.get("name") if isinstance(row, dict) else None
        digests = row.get("digest") if isinstance(row, dict) else None
        sha256 = digests.get("sha256") if isinstance(digests, dict) else None
        if not isinstance(label, str) or not 0 < len(label) <= _MAX_TEXT:
            raise MalformedError("has a subject without a name", where=name)
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            raise MalformedError(f"has no SHA-256 of its subject {shown(label, 80)}", where=name)
        if label in subjects:
            raise MalformedError(f"names its subject {shown(label, 80)} twice", where=name)
        subjects[label] = sha256
    return subjects


def _time(predicate: Mapping[str, Any], key: str, name: str) -> datetime | None:
    text = predicate.get(key)
    if text is None:
        return None
    try:
        if isinstance(text, str) and _TIME.fullmatch(text):
            return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:  # the 31st of February
        pass
    raise MalformedError(f"its {key} is no time such as 2026-01-31T12:00:00Z", where=name)


def _release_of(predicate_type: str, predicate: Mapping[str, Any], name: str) -> str:
    if predicate_type == PROVENANCE:
        definition = predicate.get("buildDefinition")
        external = definition.get("externalParameters") if isinstance(definition, dict) else None
        words = [external.get(key) for key in ("mixtape", "version", "arch")] if isinstance(external, dict) else [None]
        if all(isinstance(word, str) and "/" not in word and "@" not in word for word in words):
            return _bounded(release_id(*words), name)
    elif isinstance(text := predicate.get("releaseId"), str):
        return _bounded(text, name)
    raise MalformedError("does not say which release it is about", where=name)


def _bounded(text: str, name: str) -> str:
    if len(text) > _MAX_TEXT:
        raise MalformedError(f"has a release id of more than {_MAX_TEXT} characters", where=name)
    return text
