"""`stereo verify`: prove that a dist is what its manifest says, and that those say so who are believed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stereo.cli.believing import believing, chosen_policy
from stereo.cli.options import complete_key, dist_argument, keep, rebuild_options
from stereo.cli.output import Output, speaking
from stereo.cli.verdict import Answer, Rebuilt
from stereo.errors import UsageError

if TYPE_CHECKING:
    from stereo.model.manifest import Manifest
    from stereo.rebuild import Means
    from stereo.report import Report
    from stereo.trust.keys import SecretKey


@click.command(
    short_help="Prove that a dist is unaltered, and who says so.",
    epilog="""\b
Examples:
  stereo verify result
  stereo verify opencode-mixtape:2026.01.31.0        in the local store, where `stereo pull` puts it
  stereo verify result --key release.pub
  stereo verify result --policy policy.toml
  stereo verify result --rebuild --sign-with me
  stereo verify dist/opencode-mixtape/2026.01.31.0/x86_64 --json | jq .failed

What has a '/' or is there is a folder, anything else a NAME[:VERSION] of the local store: for this
machine, or for the only architecture that it is there for.

Without --key, --policy and --no-policy, $STEREO_POLICY or policy.toml in stereo's folder of your
configuration is the policy; docs/policy.md tells what one may say. With --key, one of the keys must
have signed the release. --rebuild builds the dist again, as `stereo rebuild` does, and --sign-with
then adds your signed statement that the bytes are the same.

Exit status: 0 everything holds, 1 something does not, 2 there is nothing to verify.""",
)
@dist_argument("folder")
@believing
@click.option("--rebuild", "again", is_flag=True, help="Build it again, and compare.")
@click.option(
    "--sign-with",
    metavar="NAME|FILE|-",
    shell_complete=complete_key,
    help="With --rebuild: sign with this key that the bytes are the same.",
)
@rebuild_options
@speaking(as_json=True)
def verify(
    out: Output,
    folder: Path,
    keys: tuple[Path, ...],
    policy_file: Path | None,
    no_policy: bool,
    again: bool,
    sign_with: str | None,
    offline: bool,
    jobs: int | None,
    mirror: tuple[str, ...],
    locks: Path | None,
) -> int:
    """Check every file of a dist and what is inside of them against its mixtape.toml, and who signed it."""
    from datetime import UTC, datetime

    from stereo.check.verify import verify as verify_dist
    from stereo.trust.dist import examine

    if not again and (sign_with or offline or mirror or locks):
        raise UsageError("--sign-with, --offline, --mirror and --locks are for a rebuild", hint="add --rebuild")
    policy = chosen_policy(keys, policy_file, no_policy=no_policy)
    secret = _secret(sign_with) if sign_with else None
    keep(folder)
    verdict = verify_dist(folder, out.report, jobs=jobs)
    manifest, papers, rebuilt = verdict.manifest, None, None
    if manifest:
        papers = examine(folder, manifest, policy, datetime.now(UTC))
    if again and manifest and papers and verdict.ok and papers.consistent:
        from stereo.rebuild import Means

        rebuilt = _rebuild(folder, manifest, Means(offline, jobs, mirror, locks), secret, out.report)
        if rebuilt.statement:
            papers = examine(folder, manifest, policy, datetime.now(UTC))
    answer = Answer(verdict, papers, policy is not None, again, rebuilt)
    out.result(answer.data(), "\n".join(answer.lines(verbose=out.verbose)))
    return 0 if answer.ok else 1


def _secret(name: str) -> SecretKey:
    from stereo.trust.keyfiles import find_key, load_secret

    return load_secret(find_key(name))


def _rebuild(folder: Path, manifest: Manifest, means: Means, secret: SecretKey | None, report: Report) -> Rebuilt:
    """Build it again; the same bytes are what `secret`, if any, signs for."""
    from datetime import UTC, datetime

    from stereo.rebuild import build_again
    from stereo.trust.rebuilt import rebuild_predicate
    from stereo.trust.sign import Terms, add_statement, refuse_what_is_no_release

    missing = [name for name, _, _ in manifest.files() if not (folder / name).exists()]
    if missing:
        what = f"{missing[0]} is not here, and only a whole dist is compared"
        raise UsageError(what, where=str(folder), hint="pull it with `--format all`")
    if secret:
        refuse_what_is_no_release(folder, manifest)
    differences = tuple(build_again(folder, manifest, means, report))
    if differences or secret is None:
        return Rebuilt(differences, None)
    predicate, terms = rebuild_predicate(manifest), Terms(datetime.now(UTC))
    return Rebuilt((), add_statement(folder, manifest, "rebuild", predicate, secret, terms, report).file)
