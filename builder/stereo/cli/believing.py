"""Who is believed: the options --key, --policy and --no-policy, and the policy that they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stereo.cli.options import Verb
from stereo.errors import UsageError

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
    from stereo.trust.policy import default_policy, load_policy, policy_of_keys

    if bool(keys) + bool(file) + no_policy > 1:
        raise UsageError("only one of --key, --policy and --no-policy can say who is believed")
    if keys:
        return policy_of_keys(keys)
    if no_policy:
        return None
    chosen = file or default_policy()
    return load_policy(chosen) if chosen else None
