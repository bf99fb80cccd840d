"""What a rebuild adds: a statement that the same bytes came out again, and whether provenance named what it needs.

A rebuild proves the source, locks and plan that mixtape.toml records, since it starts from them and ends in the same
digests. Provenance that names others was not told by who built it, or not of this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stereo.model.manifest import Manifest
from stereo.trust.statement import Statement, lock_descriptors, release_id

PASSED = "PASSED"
_REBUILT = "rebuilt identical"


def rebuild_predicate(manifest: Manifest) -> dict[str, Any]:
    """The predicate Test Result v0.1 of a rebuild that gave the same bytes, without times."""
    return {
        "result": PASSED,
        "configuration": lock_descriptors(manifest),
        "passedTests": [_REBUILT],
        "releaseId": release_id(manifest.name, manifest.version, manifest.arch),
    }


def contradictions(statement: Statement, manifest: Manifest) -> Iterator[str]:
    """What a statement of provenance or rebuild says of the build that `manifest` does not."""
    predicate = statement.predicate
    if statement.kind == "provenance":
        definition = _table(predicate.get("buildDefinition"))
        named = _table(definition.get("internalParameters"))
        if named.get("plan_key") != manifest.build.plan_key:
            yield "another plan key"
        if named.get("epoch") != manifest.build.epoch:
            yield "another epoch"
        if _table(definition.get("externalParameters")).get("level") != manifest.build.level:
            yield "another level"
        yield from _other_pins(definition.get("resolvedDependencies"), manifest)
    elif statement.kind == "rebuild":
        yield from _other_pins(predicate.get("configuration"), manifest)


def _other_pins(rows: object, manifest: Manifest) -> Iterator[str]:
    """Which of the source revision and the locks is not named as it should be, once."""
    there = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    for wanted in lock_descriptors(manifest):
        if [row for row in there if row.get("name") == wanted["name"]] != [wanted]:
            yield f"another {wanted['name']}"


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
