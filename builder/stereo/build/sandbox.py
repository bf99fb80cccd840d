"""Where mkosi runs: no network, its own mounts and processes, root only in name for an ordinary user.

util-linux's unshare(1) makes the namespaces. Whoever starts it becomes root inside, with the subordinate ids of
subuid(5) mapped, so that root and ordinary users take the same way and build the same bytes. When we die, the kernel
kills everything inside, and its mounts go with it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from stereo.build import userns_main
from stereo.errors import StereoError
from stereo.process import closed_environment, run

_NAMESPACES = ("--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc")
_MOUNT_POINTS = ("/mnt", "/media", "/srv", "/opt", "/home")
_OWN_IDS = ("--map-root-user", "--map-auto")


def enclosed(argv: Sequence[str | Path], *, own_users: bool = False) -> list[str]:
    """`argv` inside the sandbox. Root has a user namespace there only with `own_users`, others always."""
    root = os.geteuid() == 0
    users = [sys.executable, "-I", "-S", userns_main.__file__] if root and own_users else []
    return [*users, "unshare", *(() if root else _OWN_IDS), *_NAMESPACES, "--", *map(str, argv)]


def check() -> None:
    """Raise StereoError, with the remedy, if this machine cannot make the sandbox."""
    if sys.platform != "linux":
        raise StereoError("images are built on Linux", hint="build there, and publish the dist or copy it here")
    try:
        run(enclosed(["true"]), timeout=30)
    except StereoError as error:
        hint = "`stereo doctor` names what is missing"
        if os.geteuid() != 0 and shutil.which("newuidmap") is None:
            hint = (
                "install the package uidmap and give this user subordinate ids (usermod --add-subuids, --add-subgids)"
            )
        raise StereoError(f"cannot make namespaces to build in: {error.what}", hint=hint) from error


def remove(path: Path) -> None:
    """Delete a tree that may belong to subordinate ids, and so can only be deleted from inside."""
    if not path.exists():
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        run(enclosed(["rm", "-rf", "--one-file-system", path]), env=closed_environment())


def mount_point(*needed: Path) -> Path:
    """A folder of every system under which nothing lies that is needed inside: `needed`, or our Python."""
    places = [*needed, Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable)]
    kept = [one for place in places for one in (place.absolute(), place.resolve())]
    for name in _MOUNT_POINTS:
        if Path(name).is_dir() and not any(one.is_relative_to(name) for one in kept):
            return Path(name)
    raise StereoError(
        f"there is no folder to show mkosi its workspace in: tried {', '.join(_MOUNT_POINTS)}",
        hint="make an empty folder /mnt, or choose another place for the cache with STEREO_CACHE",
    )
