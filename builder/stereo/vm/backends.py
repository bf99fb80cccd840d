"""Which program runs a machine: QEMU everywhere, or on a Mac Apple's Virtualization framework through vfkit."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from enum import StrEnum

from stereo.errors import UsageError

VARIABLE = "STEREO_BACKEND"


class BackendName(StrEnum):
    """The backends, as people choose them."""

    QEMU = "qemu"
    APPLEVIRT = "applevirt"


def choose_backend(asked: str | None, environment: Mapping[str, str], kept: str | None = None) -> BackendName:
    """The one that was `asked` for, else that of `environment`, else the one that has the disk already (`kept`).

    Where nothing was said it is applevirt on a Mac with a vfkit, and QEMU anywhere else. Raises UsageError.
    """
    if asked is None and (word := environment.get(VARIABLE)):
        if word not in set(BackendName):
            raise UsageError(f"{word!r} is no backend", where=VARIABLE, hint=f"one of {', '.join(BackendName)}")
        asked = word
    if asked or kept:
        return BackendName(asked or kept or "")
    return BackendName.APPLEVIRT if sys.platform == "darwin" and shutil.which("vfkit") else BackendName.QEMU
