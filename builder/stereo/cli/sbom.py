"""`stereo sbom`: which software is in a dist, and what of it is other than in another."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stereo.cli.output import Output, safe, speaking
from stereo.errors import UsageError

if TYPE_CHECKING:
    from stereo.sbom.difference import Changed
    from stereo.sbom.reading import Listing, Row

_OPERATORS = ("AND", "OR", "WITH")
_MOST_LICENCES = 12
_CHANGES = {
    "added": "{} added",
    "removed": "{} removed",
    "version": "{} with another version",
    "licence": "{} with another licence",
    "content": "{} with other bytes",
}
_WIDEST = 60  # characters of a licence in the table; with -v all of it


@click.command(
    short_help="Show which software is in a dist.",
    epilog="""\b
Examples:
  stereo sbom result                             kinds, licences, and every component; long licences whole with -v
  stereo sbom result --format spdx --json | jq -r '.components[].purl'
  stereo sbom --diff dist/coder/2026.01.31.0/x86_64 dist/coder/2026.01.31.1/x86_64
  stereo sbom --diff old/sbom.cdx.json result

The documents themselves lie in the dist: sbom.cdx.json (CycloneDX) and sbom.spdx.json (SPDX).

Exit status: 0 shown, or no difference; 1 different, or no SBOM that can be read; 2 wrong usage.""",
)
@click.argument("places", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR|FILE [DIR|FILE]")
@click.option("--diff", "compare", is_flag=True, help="Tell in words what changed from the first to the second.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["cyclonedx", "spdx"]),
    default="cyclonedx",
    show_default=True,
    help="Which SBOM of a dist to read.",
)
@speaking(as_json=True)
def sbom(out: Output, places: tuple[Path, ...], compare: bool, form: str) -> int:
    """Show the bill of materials of a dist (or any SBOM file), or how two differ."""
    from stereo.sbom.difference import difference
    from stereo.sbom.reading import read_sbom

    if len(places) != 1 + compare:
        if compare:
            raise UsageError(f"--diff compares two dists or SBOMs, and {len(places)} is given", hint="give A and B")
        raise UsageError(f"one dist or SBOM is shown, and {len(places)} are given", hint="to compare two: --diff")
    listings = [read_sbom(place, form) for place in places]
    if compare:
        found = difference(*listings)
        out.result(_as_data(listings, found), _as_words(listings, found))
        return int(bool(found))
    (listing,) = listings
    data = {
        "format": listing.format,
        "name": listing.name,
        "version": listing.version,
        "components": [asdict(row) for row in listing.rows],
        "tools": [asdict(row) for row in listing.tools],
    }
    out.result(data, "\n".join(_as_table(listing, verbose=out.verbose)))
    return 0


def _as_data(listings: Sequence[Listing], found: Sequence[Changed]) -> dict[str, Any]:
    images = [{"format": one.format, "name": one.name, "version": one.version} for one in listings]
    return {"images": images, "identical": not found, "changes": [asdict(one) for one in found]}


def _as_words(listings: Sequence[Listing], found: Sequence[Changed]) -> str:
    first, second = (f"{one.name} {one.version}" for one in listings)
    counts = Counter(one.change.value for one in found)
    summary = ", ".join(_CHANGES[change].format(counts[change]) for change in counts) or "the same software"
    return "\n".join([*(safe(str(one)) for one in found), safe(f"from {first} to {second}: {summary}")])


def _as_table(listing: Listing, *, verbose: bool) -> Iterator[str]:
    yield safe(f"{listing.name} {listing.version} ({listing.format})")
    kinds = Counter(row.kind for row in listing.rows)
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    yield f"{len(listing.rows)} components ({told or 'none'}), built with {len(listing.tools)} tools"
    silent = sum(not row.licence for row in listing.rows)
    yield f"licences: {safe(_licences(listing.rows))}; {silent} components state none that a program could read"
    yield ""
    rows = [("KIND", "NAME", "VERSION", "LICENCE"), *(_cells(row, verbose=verbose) for row in listing.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip()


def _cells(row: Row, *, verbose: bool) -> tuple[str, str, str, str]:
    whole = row.licence or "-"
    licence = whole if verbose or len(whole) <= _WIDEST else whole[: _WIDEST - 1] + "…"
    return row.kind, safe(row.name), safe(row.version), safe(licence)


def _licences(rows: Sequence[Row]) -> str:
    """The licences that most components name, each with their number."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update({word for word in re.findall(r"[^\s()]+", row.licence) if word not in _OPERATORS})
    common = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    told = [f"{name} ({count})" for name, count in common[:_MOST_LICENCES]]
    if len(common) > _MOST_LICENCES:
        told.append(f"{len(common) - _MOST_LICENCES} others")
    return ", ".join(told) or "none"
