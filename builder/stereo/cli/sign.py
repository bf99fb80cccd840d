"""`stereo sign`: sign a dist, beside and outside of what builds compare."""

from __future__ import annotations

from pathlib import Path

import click

from stereo.cli.options import complete_key, dist_argument, keep
from stereo.cli.output import Output, speaking
from stereo.errors import StereoError, UsageError, shown


@click.command(
    short_help="Sign a dist.",
    epilog="""\b
Examples:
  stereo sign result --key release
  stereo sign result --key keys/ci.key --expires 400d --builder-id https://ci.example.org/stereo
  pass show stereo/release | stereo sign result --key -

It writes SHA256SUMS, SHA256SUMS.sig and .gpg, and into attestations/ a signed statement that this is a release and one
of how it was built. Again with the same key, it writes only what is missing, has expired or says something else by now;
with --expires also what has no end or a later one, or of whose time more than half has gone.
A second key adds its own statements; SHA256SUMS keeps the first one's signature. What - reads may hold NAME.key and
NAME.pgp, one behind the other. docs/signing.md tells how to check all of it with standard tools.

Exit status: 0 signed, 1 the dist does not verify, 2 it is no release or there is no such key.""",
)
@dist_argument("folder")
@click.option(
    "--key",
    required=True,
    metavar="NAME|FILE|-",
    shell_complete=complete_key,
    help="One of your keys, a .key file, or - for one on stdin.",
)
@click.option("--builder-id", metavar="URI", help="Who built it, for the provenance; default: a name of the key.")
@click.option("--expires", metavar="AGE", help="How long the statements hold: 36h, 30d, 52w; default: without end.")
@speaking(as_json=True)
def sign(out: Output, folder: Path, key: str, builder_id: str | None, expires: str | None) -> int:
    """Verify a dist, then say with a key that it is a release, and how it was built."""
    from datetime import UTC, datetime

    from stereo.check.verify import verify
    from stereo.model.units import parse_age
    from stereo.trust.keyfiles import find_key, load_secret
    from stereo.trust.provenance import refuse_what_is_no_builder
    from stereo.trust.sign import Terms, refuse_what_is_no_release, sign_dist

    try:
        lasting = parse_age(expires) if expires is not None else None
    except ValueError as error:
        raise UsageError(str(error), where="--expires") from error
    if builder_id is not None:
        refuse_what_is_no_builder(builder_id)
    secret = load_secret(find_key(key))
    keep(folder)
    verdict = verify(folder, out.report)
    if verdict.manifest is None or not verdict.ok:
        fault = next(row for row in verdict.findings if not row.ok)
        what = f"it does not verify: {shown(fault.artifact, 80)}: {shown(fault.message)}"
        raise StereoError(what, where=str(folder), hint=f"see `stereo verify {folder}`; nothing was signed")
    manifest = verdict.manifest
    refuse_what_is_no_release(folder, manifest)
    terms = Terms(datetime.now(UTC), lasting)
    laid = sign_dist(folder, manifest, secret, terms, out.report, builder_id=builder_id)
    if secret.openpgp is None:
        out.report.note("no OpenPGP key lies beside this key, so SHA256SUMS.gpg is not made")
    if any(row.state == "another key's" for row in laid):
        out.report.note("SHA256SUMS.sig is not by this key and stays as it is; remove it to have this key's there")
    data = {
        "name": manifest.name,
        "version": manifest.version,
        "arch": manifest.arch,
        "keyid": secret.public.keyid,
        "files": [{"file": row.file, "state": row.state} for row in laid],
    }
    lines = [f"{row.state:<8}  {row.file}" for row in laid]
    lines.append(f"signed: {manifest.name} {manifest.version} {manifest.arch} by {secret.public.keyid}")
    out.result(data, "\n".join(lines))
    return 0
