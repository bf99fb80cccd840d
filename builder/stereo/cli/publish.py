"""`stereo publish`: make a release available to others, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import click

from stereo.cli.measure import amount
from stereo.cli.options import keep
from stereo.cli.output import Output, safe, speaking
from stereo.errors import UsageError


@click.command(
    short_help="Publish a dist to a registry.",
    epilog="""\b
Examples:
  stereo publish result --to registry.example.org/mixtapes/opencode-mixtape
  stereo publish result --to registry.example.org/mixtapes/opencode-mixtape --tag nightly
  stereo publish dist/base/2026.01.31.0/x86_64 dist/base/2026.01.31.0/aarch64 --to oci:/srv/mixtapes/base
  stereo publish result --to base --policy policy.toml
  stereo publish result --to registry.example.org/mixtapes/base --attestations

The version of the dist becomes a tag, once everything was sent, read back and compared. Last moves
`latest`, unless that names a newer version; or what --tag names, instead. A version that is there
with other bytes stays; one that lacks this architecture gets it. No tag moves to a version for fewer
architectures than the one it names: of those that come one after the other, the last moves `latest`.
Run again, it sends what is missing and changes nothing else. --attestations adds the signed
statements in the dist, such as that of your own rebuild, to what is published already. Only --policy
is asked here: $STEREO_POLICY says whom you believe, not what you may publish. Credentials are those of
`docker login` or `podman login`.

Exit status: 0 published, 1 the dist does not verify or the registry refuses, 2 it is no release.""",
)
@click.argument(
    "dists", nargs=-1, required=True, metavar="DIR...", type=click.Path(path_type=Path, file_okay=False, exists=True)
)
@click.option("--to", "reference", required=True, metavar="REF", help="The repository; its tag is the version.")
@click.option(
    "--tag", "floating", multiple=True, metavar="TAG", help="The tag that moves; default: latest. Repeatable."
)
@click.option("--no-tag", is_flag=True, help="Only the version, and no tag that moves.")
@click.option("--allow-fewer", is_flag=True, help="Move tags also away from versions for more architectures.")
@click.option(
    "--policy",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Refuse what those whom this policy names did not sign.",
)
@click.option("--attestations", is_flag=True, help="Only add the signed statements to what is published.")
@click.option("--plain-http", is_flag=True, help="Speak http, and not https, to the registry.")
@click.option("--jobs", type=click.IntRange(1, 16), default=4, show_default=True, metavar="N", help="Blobs at a time.")
@speaking(as_json=True)
def publish(
    out: Output,
    dists: tuple[Path, ...],
    reference: str,
    floating: tuple[str, ...],
    no_tag: bool,
    allow_fewer: bool,
    policy: Path | None,
    attestations: bool,
    plain_http: bool,
    jobs: int,
) -> None:
    """Verify dists of one release, and publish them."""
    from stereo.distribution.publish import publish as publish_dists
    from stereo.distribution.publish import publish_statements
    from stereo.registry.reference import parse_reference
    from stereo.registry.remote import open_remote
    from stereo.trust.policy import load_policy

    place = parse_reference(reference)
    if place.version is not None:
        raise UsageError("names a version; the dist says which one it is", where=reference, hint=f"--to {place.name}")
    if place.kind == "static":
        hint = "publish to an OCI layout (`oci:DIR`), and have the web server offer that"
        raise UsageError("is a web server, and that takes nothing", where=reference, hint=hint)
    remote = open_remote(place, plain_http=plain_http)
    believed = load_policy(policy) if policy else None
    if floating and no_tag:
        raise UsageError("says the opposite of --tag", where="--no-tag", hint="give one of the two")
    if attestations and (len(dists) != 1 or floating or policy):
        raise UsageError("goes with one dist, and without --tag and --policy", where="--attestations")
    keep(*dists)
    if attestations:
        done = publish_statements(dists[0], remote, report=out.report, jobs=jobs)
    else:
        tags = floating or (() if no_tag else None)
        done = publish_dists(
            dists, remote, floating=tags, allow_fewer=allow_fewer, policy=believed, report=out.report, jobs=jobs
        )
    data = {"reference": done.reference, "digest": done.digest, "sent": done.sent, "tags": list(done.tags)}
    sent = f"{amount(done.sent, 'B')} sent" if done.sent else "everything was there"
    moved = f", new: {', '.join(map(safe, done.tags))}" if done.tags else ""
    out.result(data, f"{safe(done.reference)}@{done.digest}\n{sent}{moved}")
