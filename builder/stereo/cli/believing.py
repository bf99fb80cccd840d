"""Who is believed: the options --key, --policy and --no-policy, and the policy that they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stereo.cli.options import Verb
from stereo.errors import UsageError
from stereo.paths import default_policy

if TYPE_CHECKING:
    from stereo.trust.policy import Policy

NOBODY = "nobody's signature was checked: name a key with --key, or a policy with --policy"


def believing(verb: Verb) -> Verb:
    """Give a verb the three options; it gets them as `keys`, `policy_file` and `no_policy`, for `chosen_policy`."""
    file = click.Path(path_type=Path, dir_okay=False)
    verb = click.option("--no-policy", is_flag=True, help="Check no signature, whatever policy there is.")(verb)
    text = "Believe whom this policy names."
    verb = click.option("--policy", "policy_file", type=file, metavar="FILE", help=text)(verb)
    text = "Believe this public key; may be given again."
    return click.option("--key", "keys", multiple=True, type=file, metavar="PUB", help=text)(verb)


def chosen_policy(keys: tuple[Path, ...], file: Path | None, *, no_policy: bool) -> Policy | None:
    """Who is believed: by these options, else by $STEREO_POLICY or the user's policy.toml. None: nobody is asked for.

    Raises UsageError and ProblemsError.
    """
    if bool(keys) + bool(file) + no_policy > 1:
        raise UsageError("only one of --key, --policy and --no-policy can say who is believed")
    chosen = None if no_policy else file or default_policy()
    if not keys and chosen is None:
        return None
    from stereo.trust.policy import load_policy, policy_of_keys

    return policy_of_keys(keys) if keys or chosen is None else load_policy(chosen)
