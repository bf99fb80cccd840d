"""From what packages say of their licences to SPDX expressions (SPDX 2.3, annex D), and nothing that they do not say.

Debian's machine-readable copyright files (DEP-5) name a licence per group of files; a package's is all of them
together. Names that SPDX knows by another spelling are translated, the others become references of ours: a wrong
identifier would be worse than none. A file in prose states nothing that a program could read: then there is no
expression, only the hint which of Debian's common licences it points to.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from license_expression import Licensing  # type: ignore[import-untyped]

MAX_COPYRIGHT = 1 << 20  # bytes; those of our images have up to 0.1 MB and 3,000 lines
MOST_LINES = 20_000  # the parser takes a kilobyte for each
_MOST_TERMS = 1000
_LONGEST_NAME = 120
_REFERENCE = "LicenseRef-Debian-"

# Short names of DEP-5 (section 7.1) and spellings that Debian's packages use, as SPDX has them.
_SPELLINGS = {
    "expat": "MIT",
    "apache-2": "Apache-2.0",
    "artistic": "Artistic-1.0",
    "artistic-1": "Artistic-1.0",
    "artistic-2": "Artistic-2.0",
    "bsl-1": "BSL-1.0",
    "cc0": "CC0-1.0",
    "openldap-2.8": "OLDAP-2.8",
}
_EXCEPTIONS = {
    "bison": "Bison-exception-2.2",
    "bison-2.2": "Bison-exception-2.2",
    "libtool": "Libtool-exception",
    "linux-syscall-note": "Linux-syscall-note",
    "texinfo": "Texinfo-exception",
}
_GNU = re.compile(
    r"(?P<name>A?GPL|LGPL|GFDL)(?P<niv>-NIV)?-?(?P<major>[1-3])(?:\.(?P<minor>[0-3]))?(?P<later>\+?)", re.I
)
_WITH = re.compile(r"(?P<base>\S+)\s+with\s+(?P<name>\S+)\s+exception", re.I)
_VERSION = re.compile(r"[0-9]{1,20}\.[0-9A-Za-z.+-]{1,100}")
_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9][A-Za-z0-9.+-]{0,30})")
_CLASSIFIERS = {
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "License :: OSI Approved :: Python Software Foundation License": "PSF-2.0",
    "License :: OSI Approved :: The Unlicense (Unlicense)": "Unlicense",
}


@dataclass(frozen=True)
class Stated:
    """What a package says: an SPDX expression or None, names behind our references, and hints."""

    expression: str | None = None
    references: dict[str, str] = field(default_factory=dict)
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Joined:
    """Expressions under one operator, AND or OR."""

    operator: str
    parts: frozenset[_Expression]


_Expression: TypeAlias = "str | _Joined"


def of_copyright(data: bytes) -> Stated:
    """The licence in a Debian copyright file, whatever its bytes are."""
    from debian.copyright import Copyright, logger

    logger.setLevel(logging.ERROR)  # what Debian's packagers write differently is nothing to warn our users of
    if len(data) > MAX_COPYRIGHT:
        return Stated()
    text = data.decode("utf-8", "replace")
    hints = tuple(sorted({name.rstrip(".-") for name in _COMMON.findall(text)}))
    lines = text.splitlines(keepends=True)
    if len(lines) > MOST_LINES:
        return Stated(hints=hints)
    try:
        paragraphs: Any = Copyright(lines, strict=False).all_files_paragraphs()
        names = {paragraph.license.synopsis for paragraph in paragraphs if paragraph.license is not None}
    except Exception:  # the parser knows many ways to refuse what is not machine-readable
        return Stated(hints=hints)
    names.discard("")
    if not names or len(names) > _MOST_TERMS:
        return Stated(hints=hints)
    references: dict[str, str] = {}
    expression = _text(_joined("AND", [_debian(name, references) for name in names]))
    return Stated(expression, references) if expression else Stated(hints=hints)


def of_package_json(data: bytes) -> Stated:
    """The licence in an npm package.json: an expression, or the objects of older packages."""
    document = _table(data)
    found = document.get("license", document.get("licenses"))
    rows = found if isinstance(found, list) else [found]
    names = [row.get("type") if isinstance(row, dict) else row for row in rows[:_MOST_TERMS]]
    expressions = [_valid(name) for name in names if isinstance(name, str)]
    known = {one for one in expressions if one}
    if not known or None in expressions:
        return Stated()
    return Stated(known.pop() if len(known) == 1 else " OR ".join(sorted(f"({one})" for one in known)))


def version_of_package_json(data: bytes) -> str | None:
    """The version in an npm package.json; None for what is none, such as the files that only say `"type": "module"`."""
    version = _table(data).get("version")
    return version if isinstance(version, str) and _VERSION.fullmatch(version) else None


def _table(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def of_metadata(data: bytes) -> Stated:
    """The licence in a wheel's METADATA: License-Expression (PEP 639), else License or a classifier that is clear."""
    from packaging.metadata import parse_email

    raw, _ = parse_email(data)
    candidates: list[str | None] = [raw.get("license_expression"), raw.get("license")]
    candidates += [_CLASSIFIERS.get(row) for row in raw.get("classifiers", ())]
    return Stated(next((found for one in candidates if one and (found := _valid(one))), None))


def _debian(synopsis: str, references: dict[str, str]) -> _Expression:
    """A DEP-5 synopsis. "and" binds tighter than "or", and both tighter than a comma (section 7.2)."""

    def of_names(part: str) -> _Expression:
        return _operated(re.split(r"\s+(and|or)\s+", part), lambda name: _term(name, references))

    return _operated(re.split(r"\s*,\s*(?:(and|or)\s+)?", " ".join(synopsis.split())), of_names)


def _operated(parts: Sequence[str | None], inner: Callable[[str], _Expression]) -> _Expression:
    """`parts` is operand, operator, operand, ...; without an operator a comma makes a list, so "and"."""
    groups: list[list[_Expression]] = [[]]
    for operand, operator in zip_longest(parts[::2], parts[1::2]):
        if operand:
            groups[-1].append(inner(operand))
        if operator == "or":
            groups.append([])
    return _joined("OR", [_joined("AND", group) for group in groups])


def _term(name: str, references: dict[str, str]) -> _Expression:
    """One licence's name: SPDX's identifier, or a reference of ours, which is noted."""
    if name.lower() == "perl":
        return _joined("OR", ["Artistic-1.0", "GPL-1.0-or-later"])
    if known := _identifier(name):
        return known
    if (found := _WITH.fullmatch(name)) and (base := _identifier(found["base"])):
        exception = _EXCEPTIONS.get(found["name"].lower())
        if exception:
            return f"{base} WITH {exception}"
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")[:_LONGEST_NAME]
    if slug != name:  # two names must not become one
        slug = f"{slug}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}".lstrip("-")
    reference = _REFERENCE + slug
    references[reference] = name
    return reference


def _identifier(name: str) -> str | None:
    identifiers = _identifiers()
    if found := _GNU.fullmatch(name):
        invariants = "-no-invariants" if found["niv"] else ""
        later = "-or-later" if found["later"] else "-only"
        stem = f"{found['name'].upper()}-{found['major']}.{found['minor'] or '0'}{invariants}"
        return identifiers.get(f"{stem}{later}".lower())
    return identifiers.get(_SPELLINGS.get(name.lower(), name).lower())


@cache
def licensing() -> Licensing:
    """The parser of SPDX expressions. Making one takes a while."""
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


@cache
def _identifiers() -> dict[str, str]:
    """SPDX's licence identifiers by their lower-case form; deprecated and foreign ones are left out."""
    from license_expression import get_license_index

    return {
        row["spdx_license_key"].lower(): row["spdx_license_key"]
        for row in get_license_index()
        if row.get("spdx_license_key")
        and not row["spdx_license_key"].startswith("LicenseRef-")
        and not row.get("is_exception")
        and not row.get("is_deprecated")
    }


def _valid(expression: str) -> str | None:
    """An expression that is SPDX's already, in its normal spelling; None for anything else."""
    from license_expression import ExpressionError

    if len(expression) > 1000 or "LicenseRef-" in expression or expression.count("(") > 20:
        return None
    try:
        parsed = licensing().parse(expression, validate=True, strict=True)
    except ExpressionError:
        return None
    return str(parsed.render("{symbol.key}")) if parsed is not None else None


def _joined(operator: str, parts: Iterable[_Expression]) -> _Expression:
    """Parts under one operator: each once, and no operator within itself, so that equal statements are equal."""
    flat: set[_Expression] = set()
    for part in parts:
        if isinstance(part, str):
            flat.add(part)
        elif part.operator == operator:
            flat |= part.parts
        elif part.parts:
            flat.add(part)
    return flat.pop() if len(flat) == 1 else _Joined(operator, frozenset(flat))


def _text(expression: _Expression, *, inner: bool = False) -> str:
    if isinstance(expression, str):
        return expression
    text = f" {expression.operator} ".join(sorted(_text(part, inner=True) for part in expression.parts))
    return f"({text})" if inner else text
