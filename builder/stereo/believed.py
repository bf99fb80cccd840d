"""Whom this machine believes, what it signs with and which registries it knows: more rows for `stereo doctor`.

Everything is read from files, and no registry and no credential helper is asked.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from stereo.doctor import Check, Status
from stereo.errors import ProblemsError, StereoError, UsageError, shown
from stereo.paths import default_policy, stereo_config
from stereo.registry.credentials import logins
from stereo.registry.reference import default_root
from stereo.trust.keyfiles import OPENPGP_SECRET, SECRET, keys_folder
from stereo.trust.policy import load_policy

_MOST_NAMED = 5


def believed() -> list[Check]:
    """The rows. Never raises for what is wrong with a file."""
    try:
        stereo_config()
    except UsageError as error:
        return [Check("configuration", Status.WARN, error.what, error.hint)]
    return [_policy(), *_keys(keys_folder()), _registry(), _logins()]


def _policy() -> Check:
    name, file = "policy", default_policy()
    if file is None:
        fix = f"write {stereo_config() / 'policy.toml'}; see docs/policy.md"
        return Check(name, Status.WARN, "none: nobody's signature is checked", fix)
    try:
        policy = load_policy(file)
    except ProblemsError as error:
        first = error.problems[0]
        detail = f"{file}: {first.key}: {first.message}"
        return Check(name, Status.WARN, detail, "`stereo verify --policy` tells all; until then verify and pull refuse")
    except StereoError as error:
        return Check(name, Status.WARN, f"{file}: {error.what}", "until it can be read, verify and pull refuse")
    wanted = [f"{kind.value} {number}" for kind, number in policy.require.numbers.items() if number]
    return Check(
        name, Status.OK, f"{file}: believes {_some([key.name for key in policy.key])}; wants {', '.join(wanted)}"
    )


def _keys(folder: Path) -> Iterator[Check]:
    """The user's own secret keys. Signing refuses one that others may read."""
    name = "signing keys"
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in (SECRET, OPENPGP_SECRET))
        modes = {path: path.stat().st_mode for path in files}
    except FileNotFoundError:
        files, modes = [], {}
    except OSError as error:
        yield Check(name, Status.WARN, f"{folder} cannot be read: {error.strerror}", "see who may read there")
        return
    own = [path.stem for path in files if path.suffix == SECRET]
    yield Check(name, Status.OK, f"{_some(own)}, in {folder}" if own else "none; `stereo keygen NAME` makes one")
    for path in files:
        if not stat.S_ISREG(modes[path]):
            yield Check(name, Status.WARN, f"{path} is not a plain file", "remove it")
        elif (mode := stat.S_IMODE(modes[path])) & 0o077:
            yield Check(name, Status.WARN, f"{path} has mode {mode:04o}: others may read it", f"chmod 600 {path}")


def _registry() -> Check:
    name = "registry"
    try:
        root = default_root()
    except StereoError as error:
        return Check(name, Status.WARN, f"STEREO_REGISTRY: {error.what}", error.hint)
    chosen = "" if os.environ.get("STEREO_REGISTRY") else "; STEREO_REGISTRY names another"
    return Check(name, Status.OK, f"{root.name}, for bare names{chosen}")


def _logins() -> Check:
    name = "registry logins"
    try:
        found = [f"{_some(hosts)} in {path}" for path, hosts in logins() if hosts]
    except StereoError as error:
        return Check(name, Status.WARN, f"{error.where}: {error.what}", error.hint or "see who may read it")
    return Check(name, Status.OK, "; ".join(found) or "none: only what a registry gives to everybody")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(shown(name, 80) for name in names[:_MOST_NAMED]) + more
