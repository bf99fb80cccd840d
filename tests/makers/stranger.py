"""Somebody on another machine, as far as one machine can be made to look like another."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from makers.builds import copy_checkout
from makers.command import Stereo
from makers.users import User
from stereo.build.sandbox import remove
from stereo.paths import Cache


@dataclass(frozen=True)
class Stranger:
    """Another user with a checkout and a cache of their own; `environment` and `umask` are theirs, too."""

    user: User
    stereo: Stereo
    environment: dict[str, str]
    umask: int = 0o077

    @property
    def cache(self) -> Cache:
        return Cache(Path(self.environment["STEREO_CACHE"]))

    def with_an_empty_cache(self) -> Stranger:
        """The same somebody, who has fetched and built nothing so far."""
        cache = self.folder("an empty cache")
        return replace(self, environment={**self.environment, "STEREO_CACHE": str(cache)})

    def folder(self, name: str) -> Path:
        """A new folder of theirs."""
        made = self.user.home / name
        made.mkdir()
        self.user.take(made)
        return made

    def copy(self, folder: Path) -> Path:
        """A copy of a folder that is theirs."""
        copied = self.user.home / folder.name
        shutil.copytree(folder, copied, dirs_exist_ok=True)
        self.user.take(copied)
        return copied

    def give_back(self, out: Path) -> None:
        """Remove what a build put into `out` and what only a build of the same would use again: it is gigabytes."""
        for folder in (out, self.cache.images, self.cache.trees, self.cache.frames):
            remove(folder)


def make_stranger(user: User, stereo: Stereo) -> Stranger:
    """`user` with the working tree as it is, to be started by its launcher, on one core, elsewhere in the world."""
    checkout = copy_checkout(user.home / "their own checkout" / "of stereOS")
    user.take(user.home)
    one_core = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
    launcher = [*user.prefix(hostname="somewhere-else"), *one_core, str(checkout / "stereo")]
    environment = {
        **_npm_registry(),
        **user.environment(),
        "STEREO_CACHE": str(user.home / "their own cache"),
        "TZ": "Pacific/Chatham",
        "LC_ALL": "tr_TR.UTF-8",
        "LANGUAGE": "tr",
        "PYTHONHASHSEED": "4711",
    }
    return Stranger(user, Stereo(stereo.tell, checkout, program=launcher), environment)


def _npm_registry() -> dict[str, str]:
    """npm's registry, which may be configured in the home that the other user does not have."""
    if not shutil.which("npm"):
        return {}
    found = subprocess.run(["npm", "config", "get", "registry"], capture_output=True, text=True, check=True).stdout
    return {"NPM_CONFIG_REGISTRY": found.strip()}
