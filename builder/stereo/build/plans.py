"""From what was typed, or what a manifest records, to a plan: mixtape, locks, files, version and time."""

from __future__ import annotations

import os
from pathlib import Path

from stereo.build.defaults import chosen_architecture, dev_key, this_machine
from stereo.build.files import read_repository
from stereo.build.version import image_version, revision_of
from stereo.errors import UsageError
from stereo.inputs.lockfiles import LockFolder
from stereo.model.architecture import Architecture
from stereo.model.manifest import EPOCH_MAX, EPOCH_MIN
from stereo.model.mixtape import Mixtape, load_mixtape
from stereo.paths import Checkout
from stereo.plan.plan import Plan, make_plan

DEFAULT_LEVEL = 19
QUICK_LEVEL = 3
_EPOCH_VARIABLE = "SOURCE_DATE_EPOCH"


def plan_of(
    name: str, *, arch: str | None, version: str | None, locks: Path | None, level: int = DEFAULT_LEVEL
) -> Plan:
    """The plan of a mixtape of this checkout. Raises UsageError, ProblemsError, StereoError."""
    checkout = Checkout.containing_this_package()
    mixtape = load_mixtape(name, checkout.mixtapes, dev_key=dev_key())
    return plan_for(
        mixtape,
        chosen_architecture(mixtape, arch),
        version=image_version(version, os.environ, lambda: revision_of(checkout.root)),
        epoch=source_date_epoch(os.environ.get(_EPOCH_VARIABLE, "")),
        level=level,
        locks=locks,
    )


def plan_for(
    mixtape: Mixtape, architecture: Architecture, *, version: str, epoch: int | None, level: int, locks: Path | None
) -> Plan:
    """The plan of a mixtape with everything else decided. Raises ProblemsError and StereoError."""
    checkout = Checkout.containing_this_package()
    folder = LockFolder(locks or checkout.manifests)
    return make_plan(
        mixtape,
        folder.read(mixtape.name, architecture),
        folder.read("tools", this_machine()),
        read_repository(checkout),
        version=version,
        epoch=epoch,
        level=level,
    )


def source_date_epoch(text: str) -> int | None:
    """The value of SOURCE_DATE_EPOCH in seconds, None when it is not set. Raises UsageError."""
    if not text:
        return None
    seconds = int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else -1
    if not EPOCH_MIN <= seconds <= EPOCH_MAX:
        hint = f"seconds since 1970 from {EPOCH_MIN} (1980, the first year that FAT knows) to {EPOCH_MAX}"
        raise UsageError(f"{text[:40]!r} is no time for an image", where=_EPOCH_VARIABLE, hint=hint)
    return seconds
