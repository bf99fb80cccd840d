"""The npm registry that this host is configured for, and the credentials for it, as npm itself reads them.

Follows npmrc(5): environment before the user's file; `@scope:registry` for scopes; `//host/path/:_authToken`, `:_auth`
and `:username`/`:_password` for credentials. A credential goes to the registry that it is for and nowhere else; it is
kept out of every text form.
"""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from stereo import process
from stereo.errors import StereoError, UsageError
from stereo.paths import home


@dataclass(frozen=True)
class NpmConfig:
    """`registry` and `scopes` are addresses that end in a slash; `authorization` is by "//host/path/"."""

    registry: str | None = None
    scopes: Mapping[str, str] = field(default_factory=dict)
    authorization: Mapping[str, str] = field(default_factory=dict, repr=False)

    def registry_of(self, name: str) -> str:
        """The registry that serves a package. Raises StereoError if none is configured."""
        scope, slash, _ = name.partition("/")
        registry = self.scopes.get(scope) if slash else None
        registry = registry or self.registry
        if registry is None:
            raise StereoError(
                "this host names no npm registry",
                hint="set it with `npm config set registry URL` or NPM_CONFIG_REGISTRY",
            )
        return registry

    def metadata_url(self, name: str) -> str:
        """Where the registry describes a package and all its versions."""
        return self.registry_of(name) + quote(name, safe="@")

    def tarball_url(self, name: str, version: str) -> str:
        """Where registries keep a tarball; the path is npm's convention and the same for every registry."""
        base = name.rpartition("/")[2]
        return f"{self.registry_of(name)}{quote(name, safe='@/')}/-/{quote(base)}-{quote(version)}.tgz"

    def headers_for(self, url: str) -> dict[str, str]:
        """The Authorization header for an address, if there is a credential for a folder above it."""
        parts = urlsplit(url)
        place = f"//{parts.netloc}{parts.path}"
        matching = [prefix for prefix in self.authorization if place.startswith(prefix)]
        return {"Authorization": self.authorization[max(matching, key=len)]} if matching else {}


def of_host(env: Mapping[str, str], override: str | None = None) -> NpmConfig:
    """Read npm's configuration: `override`, NPM_CONFIG_REGISTRY, .npmrc files, and last npm's own default."""
    settings: dict[str, str] = {}
    lowered = {key.lower(): value for key, value in env.items() if key.lower().startswith("npm_config_")}
    folder = Path(env.get("HOME") or home())
    files = [lowered.get("npm_config_globalconfig"), lowered.get("npm_config_userconfig") or str(folder / ".npmrc")]
    for file in files:
        if file:
            settings.update(_read(Path(file), env))
    registry = override or lowered.get("npm_config_registry") or settings.get("registry")
    if registry is None and shutil.which("npm"):
        registry = _ask_npm(env)
    scopes = {
        key.removesuffix(":registry"): _slashed(value)
        for key, value in settings.items()
        if key.startswith("@") and key.endswith(":registry")
    }
    return NpmConfig(_slashed(registry) if registry else None, scopes, _credentials(settings))


def _ask_npm(env: Mapping[str, str]) -> str | None:
    try:
        said = process.run(
            ["npm", "config", "get", "registry"], env=dict(env), cwd=Path("/"), timeout=60
        ).stdout.strip()
    except StereoError:
        return None
    return said if said.startswith(("http://", "https://")) else None


def _slashed(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError("the configured npm registry is not an http(s) address", hint="see `npm config get registry`")
    return url.rstrip("/") + "/"


def _read(path: Path, env: Mapping[str, str]) -> dict[str, str]:
    """The settings of one file in ini form, with ${VARIABLE} replaced as npm does."""
    try:
        if path.stat().st_size > 1 << 20:
            return {}
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    settings = {}
    for line in lines:
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith(("#", ";", "[")):
            value = value.strip().strip("\"'")
            settings[key.strip()] = re.sub(r"\$\{(\w+)\??\}", lambda found: env.get(found[1], ""), value)
    return settings


def _credentials(settings: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for key, value in settings.items():
        if not key.startswith("//"):
            continue
        prefix, _, kind = key.rpartition(":")
        prefix = prefix.rstrip("/") + "/"
        if kind == "_authToken":
            found[prefix] = f"Bearer {value}"
        elif kind == "_auth":
            found.setdefault(prefix, f"Basic {value}")
        elif kind == "_password" and (user := settings.get(key.removesuffix("_password") + "username")):
            password = base64.b64decode(value, validate=False)
            found.setdefault(prefix, "Basic " + base64.b64encode(user.encode() + b":" + password).decode())
    return found
