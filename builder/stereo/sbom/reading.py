"""Reads an SBOM from anywhere, CycloneDX or SPDX, as far as a person wants to look at it or compare it.

What a file says is hostile until checked: its size, depth and numbers of rows are bounded, and all that is kept are
strings of bounded length. That a document is complete or true, nobody can read from it.
"""

from __future__ import annotations

import json
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stereo.errors import StereoError, UsageError
from stereo.model.manifest import CYCLONEDX_FILE, SPDX_FILE

MAX_BYTES = 4 << 20  # eight times an SBOM of ours; the worst of that size takes 110 MB to parse
MOST_ROWS = 100_000
_LONGEST = 4096
FORMATS = {"cyclonedx": CYCLONEDX_FILE, "spdx": SPDX_FILE}
_CONTENT, _ROOT_HASH = "stereo:content-sha256", "stereo:root-hash"
_ROOT_HASH_IN_WORDS = re.compile(r"root hash ([0-9a-f]{64})\Z")
_KINDS = {"deb": "debian", "npm": "npm", "pypi": "pypi"}


@dataclass(frozen=True, order=True)
class Row:
    """One component. `kind` is debian, npm, pypi or other; what a document does not say is empty.

    `sha256` is that of the package file, or of a tree of ours.
    """

    kind: str
    name: str
    version: str
    licence: str
    sha256: str
    purl: str


@dataclass(frozen=True)
class Listing:
    """An SBOM. `rows` are sorted; the image itself and the tools that built it are not among them.

    `root_hash` is that of the image that one of ours is about.
    """

    format: str
    name: str
    version: str
    rows: tuple[Row, ...]
    tools: tuple[Row, ...]
    root_hash: str = ""


def read_sbom(path: Path, form: str = "cyclonedx") -> Listing:
    """Read an SBOM file, or that of a dist in the format asked for (a key of FORMATS).

    Raises UsageError where there is none, StereoError for what is no SBOM.
    """
    file = path / FORMATS[form] if path.is_dir() else path
    hint = "give a dist, or one of its SBOMs"
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise UsageError("is no regular file", where=str(file), hint=hint)
        with file.open("rb") as source:
            data = source.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(file), hint=hint) from error
    return parse_sbom(data, str(file))


def parse_sbom(data: bytes, file: str) -> Listing:
    """An SBOM from its bytes; `file` is how errors name it. Raises StereoError for what is none."""
    if len(data) > MAX_BYTES:
        raise StereoError(f"is larger than {MAX_BYTES} bytes", where=file)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StereoError("is no JSON", where=file) from error
    if not isinstance(document, dict):
        raise StereoError("is no SBOM", where=file)
    if document.get("bomFormat") == "CycloneDX":
        return _cyclonedx(document, file)
    if isinstance(document.get("spdxVersion"), str):
        return _spdx(document, file)
    raise StereoError("is neither CycloneDX nor SPDX in JSON", where=file, hint=f"a dist has {CYCLONEDX_FILE}")


def _cyclonedx(document: dict[str, Any], file: str) -> Listing:
    metadata = _table(document.get("metadata"))
    image, tools = _table(metadata.get("component")), metadata.get("tools")
    return Listing(
        "CycloneDX",
        _text(image.get("name")),
        _text(image.get("version")),
        tuple(sorted(_component(row) for row in _rows(document.get("components"), file))),
        tuple(sorted(_component(row) for row in _rows(_table(tools).get("components"), file))),
        _property(image, _ROOT_HASH),
    )


def _component(row: dict[str, Any]) -> Row:
    licences = [_text(_table(one).get("expression")) or _named(_table(one)) for one in _list(row.get("licenses"))]
    digests = [
        _text(one.get("content")) for one in map(_table, _list(row.get("hashes"))) if one.get("alg") == "SHA-256"
    ]
    digest = next(iter(digests), "") or _property(row, _CONTENT)
    licence = " AND ".join(filter(None, licences))
    return _row(_text(row.get("name")), _text(row.get("version")), licence, digest, _text(row.get("purl")))


def _property(row: dict[str, Any], name: str) -> str:
    values = (_text(one.get("value")) for one in map(_table, _list(row.get("properties"))) if one.get("name") == name)
    return next(values, "")


def _named(one: dict[str, Any]) -> str:
    licence = _table(one.get("license"))
    return _text(licence.get("id")) or _text(licence.get("name"))


def _spdx(document: dict[str, Any], file: str) -> Listing:
    relations = _rows(document.get("relationships"), file)
    described, contained, tools = set[str](), set[str](), set[str]()
    for row in relations:
        one, other = _text(row.get("spdxElementId")), _text(row.get("relatedSpdxElement"))
        match row.get("relationshipType"):
            case "DESCRIBES":
                described.add(other)
            case "CONTAINS":
                contained.add(other)
            case "BUILD_TOOL_OF":
                tools.add(one)
    packages = {_text(row.get("SPDXID")): row for row in _rows(document.get("packages"), file)}
    image = next((packages[name] for name in sorted(described) if name in packages), {})
    found = {name: _package(row) for name, row in packages.items() if name not in described}
    return Listing(
        "SPDX",
        _text(image.get("name")),
        _text(image.get("versionInfo")),
        tuple(sorted(row for name, row in found.items() if name in contained or name not in tools)),
        tuple(sorted(row for name, row in found.items() if name in tools)),
        words[1] if (words := _ROOT_HASH_IN_WORDS.search(_text(image.get("comment")))) else "",
    )


def _package(row: dict[str, Any]) -> Row:
    licence = _text(row.get("licenseDeclared"))
    references = map(_table, _list(row.get("externalRefs")))
    purls = [_text(one.get("referenceLocator")) for one in references if one.get("referenceType") == "purl"]
    sums = map(_table, _list(row.get("checksums")))
    digests = [_text(one.get("checksumValue")) for one in sums if one.get("algorithm") == "SHA256"]
    return _row(
        _text(row.get("name")),
        _text(row.get("versionInfo")),
        "" if licence in ("NOASSERTION", "NONE") else licence,
        next(iter(digests), ""),
        next(iter(purls), ""),
    )


def _row(name: str, version: str, licence: str, sha256: str, purl: str) -> Row:
    kind = _KINDS.get(purl.removeprefix("pkg:").partition("/")[0], "other")
    return Row(kind, name, version, licence, sha256, purl)


def _rows(value: object, file: str) -> list[dict[str, Any]]:
    rows = _list(value)
    if len(rows) > MOST_ROWS:
        raise StereoError(f"lists more than {MOST_ROWS} things at one place", where=file)
    return [row for row in rows if isinstance(row, dict)]


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    """A string that can be printed: JSON may name halves of characters."""
    return value[:_LONGEST].encode("utf-8", "replace").decode() if isinstance(value, str) else ""
