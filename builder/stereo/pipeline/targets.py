"""What can be released: the mixtapes of the checkout, for each architecture that they are locked for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from stereo.errors import UsageError
from stereo.inputs.lockfiles import LockFolder
from stereo.model.architecture import Architecture
from stereo.model.document import nearest
from stereo.paths import Checkout


@dataclass(frozen=True, order=True)
class Target:
    """A mixtape and an architecture: one dist of each version."""

    mixtape: str
    arch: str

    def __str__(self) -> str:
        return f"{self.mixtape}/{self.arch}"


def all_targets(checkout: Checkout) -> tuple[Target, ...]:
    """Every mixtape of the checkout with every architecture that it is locked for, sorted; any machine makes all."""
    locks = LockFolder(checkout.manifests)
    names = [path.stem for path in checkout.mixtapes.glob("*.toml")]
    return tuple(
        sorted(Target(name, arch.value) for name in names for arch in Architecture if locks.path(name, arch).is_file())
    )


def chosen_targets(checkout: Checkout, names: Collection[str], archs: Collection[str]) -> tuple[Target, ...]:
    """Those of the mixtapes `names` (all if none is named) for `archs`. Raises UsageError for what is not there."""
    known = all_targets(checkout)
    for name in names:
        if name not in {one.mixtape for one in known}:
            hint = nearest(name, sorted({one.mixtape for one in known}))
            raise UsageError(f"there is no mixtape {name!r} that is locked", where="--mixtapes", hint=hint)
    found = tuple(one for one in known if (not names or one.mixtape in names) and (not archs or one.arch in archs))
    lost = {name for name in names if name not in {one.mixtape for one in found}}
    if lost or not found:
        what = f"{', '.join(sorted(lost)) or 'nothing'} is not locked for {', '.join(archs)}"
        raise UsageError(what, where="--arch", hint=f"there is {', '.join(map(str, known))}")
    return found
