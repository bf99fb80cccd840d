"""Who uses a dist: programs that run hold its folder, and sandboxes that exist are told of by who knows them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from stereo.holding import seize

Users = Mapping[Path, str]
"""Who else needs a dist, such as "sandbox work", by the dist's resolved path."""


def in_use(dist: Path, users: Users | None = None) -> str | None:
    """Who uses the dist in the folder `dist`, in words; None if nobody does, or there is no such folder."""
    if who := (users or {}).get(dist.resolve()):
        return who
    descriptor = seize(dist)
    if descriptor is None:
        return "a running program" if dist.is_dir() else None
    os.close(descriptor)
    return None
