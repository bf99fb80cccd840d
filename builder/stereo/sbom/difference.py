"""How two SBOMs differ, in words: what came, what went, what has another version, licence or content."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from stereo.sbom.reading import Listing, Row


class Change(StrEnum):
    """What happened to a component."""

    ADDED = "added"
    REMOVED = "removed"
    VERSION = "version"
    LICENCE = "licence"
    CONTENT = "content"


@dataclass(frozen=True)
class Changed:
    """One change. `before` and `after` are versions, licences or digests; one is empty where there is none."""

    change: Change
    kind: str
    name: str
    before: str
    after: str
    tool: bool = False

    def __str__(self) -> str:
        who = f"{'tool, ' if self.tool else ''}{self.kind}: {self.name}"
        match self.change:
            case Change.ADDED:
                return f"{who} {self.after} is new"
            case Change.REMOVED:
                return f"{who} {self.before} is gone"
            case Change.VERSION:
                return f"{who} {self.before} became {self.after}"
            case Change.LICENCE:
                return f"{who}: licence {_licence_words(self.before, self.after)}"
            case Change.CONTENT:
                return f"{who} {self.after}: the same version with other bytes"


def _licence_words(before: str, after: str) -> str:
    """What a licence lost and gained: the expressions of large packages are long, their changes short."""
    gone, new = _terms(before) - _terms(after), _terms(after) - _terms(before)
    if not before or not after or len(gone) == len(new) == 1:
        return f"{' AND '.join(sorted(gone)) or 'not stated'} became {' AND '.join(sorted(new)) or 'not stated'}"
    words = [f"no longer {term}" for term in sorted(gone)] + [f"now also {term}" for term in sorted(new)]
    return ", ".join(words)


def _terms(expression: str) -> set[str]:
    """What stands under the outermost AND of an expression."""
    terms, depth, begun = set(), 0, 0
    for found in re.finditer(r"[()]| AND ", expression):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if depth == 0 and found[0] == " AND ":
            terms.add(expression[begun : found.start()])
            begun = found.end()
    return terms | {expression[begun:]} - {""}


def difference(a: Listing, b: Listing) -> tuple[Changed, ...]:
    """What became of the components of `a` in `b`, then of its tools; sorted by kind and name."""
    return (*_changes(a.rows, b.rows, tool=False), *_changes(a.tools, b.tools, tool=True))


def _changes(a: tuple[Row, ...], b: tuple[Row, ...], *, tool: bool) -> Iterator[Changed]:
    before, after = _by_name(a), _by_name(b)
    for kind, name in sorted({*before, *after}):
        left, right = before.get((kind, name), {}), after.get((kind, name), {})
        gone, new = sorted({*left} - {*right}), sorted({*right} - {*left})
        while gone and new:
            old, fresh = gone.pop(0), new.pop(0)
            yield Changed(Change.VERSION, kind, name, old, fresh, tool)
            yield from _licences(left[old], right[fresh], tool)
        yield from (Changed(Change.REMOVED, kind, name, version, "", tool) for version in gone)
        yield from (Changed(Change.ADDED, kind, name, "", version, tool) for version in new)
        for version in sorted({*left} & {*right}):
            yield from _licences(left[version], right[version], tool)
            digests = {left[version].sha256, right[version].sha256}
            if len(digests - {""}) == 2:  # else one of the two does not say
                yield Changed(Change.CONTENT, kind, name, version, version, tool)


def _licences(left: Row, right: Row, tool: bool) -> Iterator[Changed]:
    if _terms(left.licence) != _terms(right.licence) and not tool:  # tools are not handed on: theirs are not told
        yield Changed(Change.LICENCE, left.kind, left.name, left.licence, right.licence, tool)


def _by_name(rows: tuple[Row, ...]) -> Mapping[tuple[str, str], dict[str, Row]]:
    found: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        found[row.kind, row.name][row.version] = row
    return found
