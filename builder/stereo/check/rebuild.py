"""What a rebuild needs besides a build: nothing built before, and the very plan that the manifest records.

Whoever has other locks or other files would build something else, and a difference in the end would say nothing about
the dist. So both are refused before the work begins, with the way to get the right ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stereo.errors import StereoError
from stereo.model.lock import Lock
from stereo.model.manifest import Manifest
from stereo.paths import Cache
from stereo.plan.plan import Plan

_DIRTY = "-dirty"


@dataclass(frozen=True)
class EmptyCache(Cache):
    """A cache that knows downloads and tools, but nothing that was built: a rebuild that copies proves nothing."""

    shared: Cache

    @property
    def store(self) -> Path:
        return self.shared.store

    @property
    def tools(self) -> Path:
        return self.shared.tools


def refuse_other_locks(manifest: Manifest, lock: Lock, tools_lock: Lock) -> None:
    """Raise StereoError unless these are the locks that the dist was built from, by digest."""
    recorded = manifest.build
    rows = ((lock, recorded.lock_sha256), (tools_lock, recorded.tools_lock_sha256))
    others = [f"{one.name}-{one.arch}.lock" for one, digest in rows if one.digest != digest]
    if others:
        raise StereoError(
            f"cannot be built again from here: its locks were others than {' and '.join(others)}",
            where=_named(manifest),
            hint=f"{_checkout(manifest)}, or name the manifests/ of that revision with --locks DIR",
        )


def refuse_other_plan(manifest: Manifest, plan: Plan, revision: str) -> None:
    """Raise StereoError unless `plan` is the one that the manifest records. `revision` is that of this checkout."""
    recorded = manifest.build
    if plan.key == recorded.plan_key:
        return
    if revision != recorded.source_revision:
        reason = f"the source is {revision}, not {recorded.source_revision}"
    elif revision.endswith(_DIRTY):
        reason = "files that are not committed have changed since"
    elif manifest.dev:
        reason = "the developer's SSH key, which is part of it, is another"
    else:
        reason = "it was planned by another version of this tool, or its plan key is wrong"
    raise StereoError(
        f"cannot be built again from here: {reason}", where=_named(manifest), hint=f"{_checkout(manifest)}"
    )


def _named(manifest: Manifest) -> str:
    return f"{manifest.name} {manifest.version}"


def _checkout(manifest: Manifest) -> str:
    revision = manifest.build.source_revision
    command = f"git checkout {revision.removesuffix(_DIRTY)}"
    return command + (", which it was built from with changes that were not committed" * revision.endswith(_DIRTY))
