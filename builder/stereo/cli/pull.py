"""`stereo pull`: get a published mixtape, verified on the way, and only what of it is not here yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from stereo.cli import importing
from stereo.cli.believing import NOBODY, believing, chosen_policy
from stereo.cli.measure import amount
from stereo.cli.options import arch_option
from stereo.cli.output import Output, safe, speaking
from stereo.cli.places import complete_reference

if TYPE_CHECKING:
    from stereo.distribution.pull import Pulled
    from stereo.model.architecture import Architecture
    from stereo.model.pulled import Format


@click.command(
    short_help="Get a published mixtape.",
    epilog="""\b
Examples:
  stereo pull registry.example.org/mixtapes/opencode-mixtape:2026.01.31.0
  stereo pull registry.example.org/mixtapes/opencode-mixtape         its latest
  stereo pull oci:/srv/mixtapes/base:2026.01.31.0 -o ./base          into a folder, not the local store
  stereo pull https://example.org/mixtapes/base --key release.pub    from plain files on a web server
  stereo pull registry.example.org/mixtapes/base --arch aarch64      for another machine than this one

What was pulled is in the local store: `mixtape = "NAME"` in a jcard.toml finds it, and `stereo dists`
lists it. A pull that was stopped goes on where it was. What a dist in the store has already is not
fetched again; docs/deltas.md tells how.

Without --key, --policy and --no-policy, $STEREO_POLICY or policy.toml in stereo's folder of your
configuration says who is believed; with none of them, nobody's signature is checked.

Exit status: 0 it is here, 1 it is not there, not believed or not whole,
2 wrong usage, or another dist has its place.""",
)
@click.argument("reference", metavar="REF", shell_complete=complete_reference)
@click.option(
    "-o",
    "--output-dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Make DIR the dist; default: the local store.",
)
@click.option(
    "--format",
    "disk_format",
    type=click.Choice(["raw", "qcow2", "all"]),
    default="raw",
    show_default=True,
    help="Which disks.",
)
@arch_option
@believing
@click.option("--jobs", type=click.IntRange(1, 16), default=4, show_default=True, metavar="N", help="Blobs at a time.")
@click.option("--force", is_flag=True, help="Replace another dist that has the place.")
@click.option("--allow-older", is_flag=True, help="Follow a floating tag back to an older release.")
@click.option("--plain-http", is_flag=True, help="Speak http, and not https, to the registry.")
@click.option(
    "--redirect-host", "redirect_hosts", multiple=True, metavar="HOST", help="Let HOST serve blobs of this registry."
)
@speaking(as_json=True)
def pull(
    out: Output,
    reference: str,
    folder: Path | None,
    disk_format: str,
    arch: str | None,
    keys: tuple[Path, ...],
    policy_file: Path | None,
    no_policy: bool,
    jobs: int,
    force: bool,
    allow_older: bool,
    plain_http: bool,
    redirect_hosts: tuple[str, ...],
) -> None:
    """Pull a mixtape from a registry, an OCI layout in a folder, or one on a web server."""
    with importing():
        from datetime import UTC, datetime

        from stereo.distribution.pull import Options
        from stereo.distribution.pull import pull as pull_dist
        from stereo.registry.reference import parse_reference
        from stereo.registry.remote import open_remote

        place = parse_reference(reference)
        policy = chosen_policy(keys, policy_file, no_policy=no_policy)
        remote = open_remote(place, plain_http=plain_http, redirect_hosts=redirect_hosts)
    formats = cast("tuple[Format, ...]", ("raw", "qcow2") if disk_format == "all" else (disk_format,))
    options = Options(
        formats,
        _architecture(arch),
        folder,
        jobs,
        force=force,
        allow_older=allow_older,
    )
    pulled = pull_dist(place, remote, options, policy=policy, now=datetime.now(UTC), users=_users, report=out.report)
    out.result(_data(place.name, pulled), _text(pulled))


def _architecture(option: str | None) -> Architecture:
    from stereo.build.defaults import this_machine
    from stereo.model.architecture import Architecture

    return Architecture(option) if option else this_machine()


def _users() -> dict[Path, str]:
    from stereo.sandbox.state import users_of_dists

    return users_of_dists()


def _data(name: str, pulled: Pulled) -> dict[str, object]:
    manifest = pulled.manifest
    return {
        "path": str(pulled.path),
        "reference": name,
        "digest": pulled.digest,
        "name": manifest.name,
        "version": manifest.version,
        "arch": manifest.arch,
        "was_there": pulled.was_there,
        "bytes": {"size": pulled.size, "fetched": pulled.fetched, "reused": pulled.reused},
        "signers": None if pulled.signers is None else list(dict.fromkeys(pulled.signers)),
    }


def _text(pulled: Pulled) -> str:
    manifest = pulled.manifest
    # Who signed it, signed what it says of its files; that they still are so, only reading them tells.
    how = (
        "was there already (`stereo verify` reads it again)"
        if pulled.was_there
        else f"fetched {amount(pulled.fetched, 'B')}"
    )
    if pulled.reused:
        how += f", {amount(pulled.reused, 'B')} were here"
    lines = [f"{pulled.path}: {manifest.name} {manifest.version}, {how}"]
    if pulled.signers is None:
        lines.append(NOBODY)
    else:
        lines.append(f"signed by {', '.join(map(safe, dict.fromkeys(pulled.signers)))}")
    return "\n".join(lines)
