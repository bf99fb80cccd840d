"""Where things are: the checkout, the cache, the user's configuration. See the XDG base directory specification."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from stereo.errors import UsageError


def home() -> Path:
    """The user's own folder. Raises UsageError for one who has none, as of a container that runs under any number."""
    try:
        return Path.home()
    except RuntimeError as error:
        raise UsageError(
            "this user has no home", where="HOME", hint="set HOME to a folder that may be written"
        ) from error


def _xdg(variable: str, default: str) -> Path:
    value = Path(os.environ.get(variable, ""))
    return value if value.is_absolute() else home() / default


@dataclass(frozen=True)
class Cache:
    """The cache and its rooms. Everything in it can be made again; `stereo clean` empties it."""

    root: Path

    @classmethod
    def from_environment(cls) -> Cache:
        """STEREO_CACHE, else `stereo` in XDG_CACHE_HOME."""
        chosen = os.environ.get("STEREO_CACHE")
        return cls(Path(chosen).absolute() if chosen else _xdg("XDG_CACHE_HOME", ".cache") / "stereo")

    @property
    def store(self) -> Path:
        """Downloads by content: .debs, tarballs, wheels."""
        return self.root / "store"

    @property
    def tools(self) -> Path:
        """Unpacked tools trees by key."""
        return self.root / "tools"

    @property
    def trees(self) -> Path:
        """Installed package trees (.tar) by key."""
        return self.root / "trees"

    @property
    def images(self) -> Path:
        """What mkosi put out, by key."""
        return self.root / "images"

    @property
    def frames(self) -> Path:
        """Compressed zstd frames by content."""
        return self.root / "frames"

    @property
    def work(self) -> Path:
        """Workspaces of running builds; what a dead one left is removed by the next."""
        return self.root / "work"

    @property
    def verified(self) -> Path:
        """Verdicts on the files of dists that were held against their manifests."""
        return self.root / "verified"

    @property
    def probe(self) -> Path:
        """Verdicts on accelerators."""
        return self.root / "probe"


@dataclass(frozen=True)
class Checkout:
    """A checkout of this repository."""

    root: Path

    @classmethod
    def containing_this_package(cls) -> Checkout:
        """The checkout that this code runs from."""
        return cls(Path(__file__).resolve().parents[2])

    @property
    def mixtapes(self) -> Path:
        return self.root / "mixtapes"

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"


def user_config() -> Path:
    """`~/.config/stereos`: the developer's SSH key is there, as in the original system."""
    return _xdg("XDG_CONFIG_HOME", ".config") / "stereos"


def stereo_config() -> Path:
    """`~/.config/stereo`: what the user decided: keys, and whose signatures are needed."""
    return _xdg("XDG_CONFIG_HOME", ".config") / "stereo"


def default_policy() -> Path | None:
    """What STEREO_POLICY names, else `policy.toml` in our folder of XDG_CONFIG_HOME if that is there, else None."""
    if named := os.environ.get("STEREO_POLICY"):
        return Path(named)
    usual = stereo_config() / "policy.toml"
    return usual if os.path.lexists(usual) else None  # a link that leads nowhere is a fault, not leave to believe all


def user_state() -> Path:
    """What outlives a run and is of this machine only: the sandboxes."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "stereo"


def user_data() -> Path:
    """What the user has and would not want to make again: the local store of dists."""
    return _xdg("XDG_DATA_HOME", ".local/share") / "stereo"
