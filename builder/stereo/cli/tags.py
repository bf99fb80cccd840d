"""`stereo tags`, `stereo inspect` and `stereo search`: what a registry has, without pulling it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from stereo.cli.measure import amount
from stereo.cli.output import Output, columns, safe, speaking
from stereo.cli.places import complete_reference
from stereo.errors import UsageError, shown

if TYPE_CHECKING:
    from stereo.distribution.overview import Overview, Signed

_plain_http = click.option("--plain-http", is_flag=True, help="Speak http, and not https, to the registry.")
_SHORT = len("sha256:") + 12


@click.command(
    short_help="List the versions of a published mixtape.",
    epilog="""\b
Examples:
  stereo tags registry.example.org/mixtapes/base
  stereo tags oci:/srv/mixtapes/base --json | jq -r '.versions[0]'
  stereo tags base --json | jq -r '.architectures | to_entries[] | select(.value | index("aarch64")).key'

Exit status: 0 shown, 1 there are none or the registry refuses, 2 wrong usage.""",
)
@click.argument("reference", metavar="REF", shell_complete=complete_reference)
@_plain_http
@speaking(as_json=True)
def tags(out: Output, reference: str, plain_http: bool) -> None:
    """List versions, the newest first, for which machines they are, and what floating tags such as latest name."""
    from stereo.distribution.overview import tags_of
    from stereo.registry.reference import parse_reference
    from stereo.registry.remote import open_remote

    found = tags_of(open_remote(parse_reference(reference), plain_http=plain_http))
    data = {
        "versions": list(found.releases),
        "architectures": {version: list(archs) for version, archs in found.architectures.items()},
        "floating": [
            {"tag": one.tag, "digest": one.digest, "version": one.release, "architectures": list(one.architectures)}
            for one in found.floating
        ],
    }
    rows = [(version, _machines(found.architectures.get(version))) for version in found.releases]
    rows += [
        (f"{safe(one.tag)} -> {one.release or 'no mixtape'} ({one.digest[:_SHORT]})", _machines(one.architectures))
        for one in found.floating
    ]
    out.result(data, "\n".join(columns(rows)))


def _machines(architectures: Sequence[str] | None) -> str:
    return ", ".join(architectures or ())


@click.command(
    short_help="Show what a published mixtape is.",
    epilog="""\b
Examples:
  stereo inspect registry.example.org/mixtapes/base:2026.01.31.0
  stereo inspect base --json | jq .signed

Signatures are listed, not checked: `stereo pull` and `stereo verify` do that.

Exit status: 0 shown, 1 it is not there or the registry refuses, 2 wrong usage.""",
)
@click.argument("reference", metavar="REF", shell_complete=complete_reference)
@_plain_http
@speaking(as_json=True)
def inspect(out: Output, reference: str, plain_http: bool) -> None:
    """Show platforms, disk formats, files and their sizes, SBOMs, and which keys claim to have signed it."""
    from stereo.distribution.overview import overview_of
    from stereo.registry.reference import parse_reference
    from stereo.registry.remote import open_remote

    place = parse_reference(reference)
    found = overview_of(open_remote(place, plain_http=plain_http), place.version)
    out.result(_data(found), "\n".join(_lines(found)))


def _data(found: Overview) -> dict[str, Any]:
    return {
        "digest": found.digest,
        "name": found.name,
        "version": found.version,
        "manifests": [
            {
                "architecture": one.architecture,
                "format": one.disk_format,
                "digest": one.digest,
                "layers": [{"file": name, "size": size, "digest": digest} for name, size, digest in one.layers],
            }
            for one in found.images
        ],
        "sboms": {arch: list(names) for arch, names in found.sboms.items()},
        "checksums": {arch: list(names) for arch, names in found.checksums.items()},
        "signed": {arch: [_signed(one) for one in rows] for arch, rows in found.signed.items()},
    }


def _signed(one: Signed) -> dict[str, Any]:
    return {"kind": one.kind, "keyids": list(one.keyids), "issued": one.issued.isoformat() if one.issued else None}


def _lines(found: Overview) -> Iterator[str]:
    yield f"{safe(found.name)} {safe(found.version)}  {found.digest}"
    for image in found.images:
        total = amount(sum(size for _, size, _ in image.layers), "B")
        yield f"\n{_machine(image.architecture)} {image.disk_format}, {total}  {image.digest}"
        rows = [(f"  {name}", amount(size, "B"), digest[:_SHORT]) for name, size, digest in image.layers]
        yield from columns(rows)
    for arch, signed in found.signed.items():
        yield f"\nabout {_machine(arch)}"
        yield f"  SBOM: {', '.join(map(safe, found.sboms[arch])) or 'none'}"
        yield f"  checksums: {', '.join(map(safe, found.checksums[arch])) or 'none'}"
        for one in signed:
            when = f", {one.issued:%Y-%m-%d}" if one.issued else ""
            keys = ", ".join(safe(key[:16]) for key in one.keyids) or "nobody"
            yield f"  {safe(one.kind)}: signed by {keys}{when} (not checked)"
        if not signed:
            yield "  nobody signed it"


def _machine(architecture: str) -> str:
    """OCI's name of an architecture behind ours, which `--arch` takes."""
    from stereo.model.architecture import Architecture

    known = {one.debian: one.value for one in Architecture}
    return f"{known[architecture]} ({architecture})" if architecture in known else safe(architecture)


@click.command(
    short_help="List the mixtapes of a registry.",
    epilog="""\b
Examples:
  stereo search
  stereo search code --in registry.example.org/mixtapes
  stereo search --in oci:/srv/mixtapes

Without --in, $STEREO_REGISTRY is searched, or else the registry in your own data folder.

Exit status: 0 something is found, 1 nothing is or the registry refuses, 2 wrong usage.""",
)
@click.argument("text", default="")
@click.option("--in", "root", metavar="REF", help="A registry, a part of one, or a folder of OCI layouts.")
@_plain_http
@speaking(as_json=True)
def search(out: Output, text: str, root: str | None, plain_http: bool) -> int:
    """List what has releases and TEXT in its name."""
    from stereo.distribution.overview import MOST_FOUND
    from stereo.distribution.overview import search as search_root
    from stereo.registry.reference import FOLDERS, WEB, parse_root

    if text.startswith((*FOLDERS, *WEB)):
        what = "is a place, and what is looked for is a part of a name"
        raise UsageError(what, where=shown(text, 120), hint="name the place with --in")
    place = parse_root(root)
    found, more = search_root(place, text, plain_http=plain_http)
    if more:
        out.report.warn(f"there are more names than the {MOST_FOUND} that were looked at: say more of the name")
    rows = [("NAME", "NEWEST", "FOR", "RELEASES", "REFERENCE")]
    rows += [
        (one.name, one.newest, _machines(one.architectures), str(one.releases), safe(one.reference)) for one in found
    ]
    data = [{**vars(one), "architectures": list(one.architectures)} for one in found]
    if not found:
        out.report.note(f"nothing with releases in {safe(str(place))}")
    out.result(data, "\n".join(columns(rows)) if found else "")
    return 0 if found else 1
