"""SLSA provenance v1 of a dist: from which source, locks, packages and tools it was built, and by which parameters.

Made from the dist alone, and so told by whoever signs it, not by whoever built it: the dist names its source revision
and its locks, its SBOM every package by SHA-256, and `stereo rebuild` shows that they give these bytes.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from stereo.errors import UsageError
from stereo.model.manifest import CYCLONEDX_FILE, Manifest, Sha256, problems_of
from stereo.trust.statement import MalformedError, lock_descriptors, read_object

BUILD_TYPE = "urn:stereo:build:v1"
"""`stereo build MIXTAPE --version VERSION --arch ARCH` in a checkout of the source revision. See docs/signing.md."""

MAX_SBOM = 16 << 20
MAX_COMPONENTS = 8192
_Text = Annotated[str, Field(min_length=1, max_length=512)]
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}:[!#-;=?-Z_a-z~%\[\]]{1,400}")
_SHA256: TypeAdapter[str] = TypeAdapter(Sha256)


class _Hash(BaseModel):
    alg: _Text
    content: _Text


class _Component(BaseModel):
    name: _Text
    purl: _Text
    hashes: Annotated[list[_Hash], Field(max_length=16)] = []


_Components = Annotated[list[_Component], Field(max_length=MAX_COMPONENTS)]


class _Tools(BaseModel):
    components: _Components


class _Metadata(BaseModel):
    tools: _Tools


class _Bill(BaseModel):
    """The part of a CycloneDX document that we read."""

    components: _Components
    metadata: _Metadata


def refuse_what_is_no_builder(builder_id: str) -> None:
    """Raises UsageError unless it is a URI (RFC 3986), as SLSA wants a builder's id to be."""
    if not _URI.fullmatch(builder_id):
        raise UsageError("is no URI", where="--builder-id", hint="such as https://ci.example.org/stereo")


def provenance_predicate(manifest: Manifest, cyclonedx: bytes, builder_id: str) -> dict[str, Any]:
    """The predicate, without times. `cyclonedx` is the dist's sbom.cdx.json, `builder_id` the URI of who built it.

    Raises MalformedError if the SBOM cannot be read.
    """
    build = manifest.build
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "mixtape": manifest.name,
                "version": manifest.version,
                "arch": manifest.arch,
                "level": build.level,
            },
            "internalParameters": {"plan_key": build.plan_key, "epoch": build.epoch, "tools": dict(build.tools)},
            "resolvedDependencies": [*lock_descriptors(manifest), *_components(cyclonedx)],
        },
        "runDetails": {"builder": {"id": builder_id, "version": {"stereo": build.source_revision}}},
    }


def _components(cyclonedx: bytes) -> list[dict[str, Any]]:
    """What is in the image, and what it was made with, as ResourceDescriptors: each once, sorted by purl."""
    table = read_object(cyclonedx, CYCLONEDX_FILE, MAX_SBOM)
    try:
        bill = _Bill.model_validate(table, strict=True)
        found: dict[str, dict[str, Any]] = {}
        for use, rows in (("image", bill.components), ("tool", bill.metadata.tools.components)):
            for row in rows:
                known = found.setdefault(row.purl, {"name": row.name, "uri": row.purl, "annotations": {"usedAs": []}})
                known["annotations"]["usedAs"].append(use)
                for digest in row.hashes:
                    if digest.alg == "SHA-256":
                        known["digest"] = {"sha256": _SHA256.validate_python(digest.content)}
    except ValidationError as error:
        problem = next(problems_of(error, CYCLONEDX_FILE))
        raise MalformedError(f"{problem.key}: {problem.message}", where=CYCLONEDX_FILE) from error
    return [found[purl] for purl in sorted(found)]
