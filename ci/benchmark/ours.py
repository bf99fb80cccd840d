"""Our side: a copy of the checkout, a cache with nothing in it but downloads and tools, and timed runs of ./stereo."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from ci.benchmark.measure import Timed, timed

from stereo.build import sandbox
from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.paths import Cache
from stereo.process import run

_CHANGED = "overlays/base/etc/bash.bashrc"


@dataclass
class Ours:
    """Runs of ./stereo below `work`, in a checkout and with a cache of their own. All figures are of the last runs."""

    source: Path
    cache: Cache
    work: Path
    mixtape: str
    level: int
    full: list[Timed] = field(default_factory=list)
    overlay: list[Timed] = field(default_factory=list)
    unchanged: list[Timed] = field(default_factory=list)

    @property
    def checkout(self) -> Path:
        return self.work / "checkout"

    @property
    def dist(self) -> Path:
        """The last dist that was built."""
        return (self.work / "result").resolve()

    def prepare(self) -> None:
        """Clone the checkout with its uncommitted changes and its Python environment, so that it may be changed."""
        shutil.rmtree(self.checkout, ignore_errors=True)
        run(["git", "clone", "--quiet", "--shared", self.source, self.checkout], timeout=120)
        changed = run(["git", "-C", self.source, "ls-files", "-z", "-m", "-o", "-d", "--exclude-standard"]).stdout
        for name in filter(None, changed.split("\0")):
            ours, theirs = self.checkout / name, self.source / name
            ours.unlink(missing_ok=True)
            if theirs.exists() or theirs.is_symlink():
                ours.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(theirs, ours, follow_symlinks=False)
        venv = self.source / ".venv"
        if venv.is_dir():  # else the launcher makes one, which is part of no figure: see `warm_up`
            shutil.copytree(venv, self.checkout / ".venv", symlinks=True)
        self.stereo("--version")  # byte code, and the environment if there was none

    def empty_cache(self) -> None:
        """A cache in which only the downloads and the tools are; they are links to the real ones."""
        fresh = Cache(self.work / "cache")
        sandbox.remove(fresh.root)
        fresh.root.mkdir(parents=True)
        for ours, real in ((fresh.store, self.cache.store), (fresh.tools, self.cache.tools)):
            shutil.copytree(real, ours, symlinks=True, copy_function=_link)
        shutil.rmtree(self.work / "dist", ignore_errors=True)

    def build(self) -> Timed:
        """./stereo build of the state that the checkout is in."""
        return self.stereo("build", self.mixtape, "--offline", "--level", str(self.level))

    def build_for(self, arch: Architecture) -> Timed:
        """The same for another architecture, in a folder of its own: it is no `dist` of the figures about this one."""
        folder = self.work / arch
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        words = ("build", self.mixtape, "--arch", arch, "--offline", "--level", str(self.level))
        return self.stereo(*words, cwd=folder)

    def dist_for(self, arch: Architecture) -> Path:
        """What `build_for` built last."""
        return (self.work / arch / "result").resolve()

    def change_overlay(self) -> None:
        """Change one file of the overlays, a little more with each call."""
        path = self.checkout / _CHANGED
        if not path.is_file():
            raise StereoError("the file to change is not there", where=str(path))
        with path.open("a") as file:
            file.write(f"# changed by the benchmark {os.urandom(8).hex()}\n")

    def verify(self) -> Timed:
        """./stereo verify of the last dist."""
        return self.stereo("verify", str(self.dist))

    def stereo(self, *words: str, cwd: Path | None = None) -> Timed:
        """One run of ./stereo in `cwd` (default: the work folder), to its end. Raises StereoError if it fails."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(("STEREO_", "_STEREO_"))}
        env["STEREO_CACHE"] = str(self.work / "cache")
        env["XDG_DATA_HOME"] = str(self.work / "data")  # what is built to be measured has no place in the user's store
        return timed([self.checkout / "stereo", *words], cwd=cwd or self.work, env=env, log=self.work / "ours.log")

    def files(self) -> list[Path]:
        """The files of the last dist."""
        return sorted(self.dist.iterdir())

    def remove(self) -> None:
        """Free the room that the builds took."""
        sandbox.remove(self.work / "cache")
        for name in ("checkout", "dist", "data", *Architecture):
            shutil.rmtree(self.work / name, ignore_errors=True)
        (self.work / "result").unlink(missing_ok=True)


def _link(source: str, target: str) -> str:
    os.link(source, target, follow_symlinks=False)
    return target
