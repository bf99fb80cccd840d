"""Credentials for a registry, from where docker, podman, skopeo and oras keep them. They are never written anywhere.

In this order, the first file that knows the registry wins: $REGISTRY_AUTH_FILE, config.json in $DOCKER_CONFIG (by
default ~/.docker), containers/auth.json in $XDG_RUNTIME_DIR and in $XDG_CONFIG_HOME. See containers-auth.json(5) and
docker's documentation of config.json. A credential helper that a file names, is asked (docker-credential-NAME get).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stereo.errors import StereoError
from stereo.paths import home
from stereo.process import CommandFailed, run
from stereo.registry.errors import RegistryError
from stereo.registry.hosts import config_keys
from stereo.registry.strict import read_json

_MAX_FILE = 1 << 20
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HELPER_PATIENCE = 60  # seconds: it may ask the user
_NOT_STARTED = 127
_NO_PASSWORD = "<token>"  # what a helper says instead of a user when it has an OAuth token


@dataclass(frozen=True)
class Credentials:
    """A user and a password or access token. Neither is shown by accident."""

    user: str = field(repr=False)
    secret: str = field(repr=False)


def credentials_for(host: str, repository: str) -> Credentials | None:
    """What the user's configuration has for HOST[:PORT], or for this repository in particular; None if nothing.

    Raises RegistryError for a file or helper that cannot be understood.
    """
    for path in _files():
        if (table := _read(path)) is None:
            continue
        for key in config_keys(host, repository):
            if (found := _entry(table, key, path)) is not None:
                return found
        for key in config_keys(host, ""):
            if (helper := _helper_of(table, key)) is not None and (found := _ask(helper, key)) is not None:
                return found
    return None


def logins() -> Iterator[tuple[Path, list[str]]]:
    """By file that is there, the registries that it has a login or a helper for; no helper is asked.

    Raises RegistryError for a file that cannot be understood.
    """
    for path in _files():
        if (table := _read(path)) is None:
            continue
        found: set[str] = set()
        for key in ("auths", "credHelpers"):
            rows = table.get(key)
            found |= rows.keys() if isinstance(rows, dict) else set()
        every = [f"all by {store}"] if isinstance(store := table.get("credsStore"), str) else []
        yield path, sorted(found) + every


def _files() -> Iterator[Path]:
    environ = os.environ
    if chosen := environ.get("REGISTRY_AUTH_FILE"):
        yield Path(chosen)
    yield Path(environ.get("DOCKER_CONFIG") or home() / ".docker") / "config.json"
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers" / "auth.json"
    yield Path(environ.get("XDG_CONFIG_HOME") or home() / ".config") / "containers" / "auth.json"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RegistryError(f"cannot be read: {error.strerror}", where=str(path)) from error
    try:
        table = read_json(data, limit=_MAX_FILE, what=str(path))
    except RegistryError:
        table = None
    if not isinstance(table, dict):  # what is in it, is not to be shown
        raise RegistryError("is no JSON object", where=str(path), hint="it should hold logins of docker or podman")
    return table


def _entry(table: dict[str, Any], key: str, path: Path) -> Credentials | None:
    auths = table.get("auths")
    entry = auths.get(key) if isinstance(auths, dict) else None
    if not isinstance(entry, dict):
        return None
    if isinstance(word := entry.get("auth"), str) and word:
        try:
            user, colon, secret = base64.b64decode(word, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise RegistryError(f"the login for {key} is damaged", where=str(path), hint="log in again") from error
        if colon:
            return Credentials(user, secret.rstrip("\0"))
    match entry:
        case {"username": str(user), "password": str(secret)} if user:
            return Credentials(user, secret)
    return None


def _helper_of(table: dict[str, Any], key: str) -> str | None:
    helpers = table.get("credHelpers")
    chosen = helpers.get(key) if isinstance(helpers, dict) else None
    name = chosen or table.get("credsStore")
    return name if isinstance(name, str) and _HELPER.fullmatch(name) else None


def _ask(helper: str, key: str) -> Credentials | None:
    """What a helper has. One that fails has nothing: that is how they say so, and what else they say may be secret."""
    try:
        said = run([f"docker-credential-{helper}", "get"], env=os.environ, input_text=key, timeout=_HELPER_PATIENCE)
        table = json.loads(said.stdout[:_MAX_FILE])
        user, secret = table["Username"], table["Secret"]
    except CommandFailed as error:
        if error.status != _NOT_STARTED:
            return None
        raise RegistryError("the credential helper cannot be started", where=f"docker-credential-{helper}") from None
    except (StereoError, OSError, ValueError, KeyError, TypeError):
        hint = "see credHelpers and credsStore in the docker configuration"
        raise RegistryError(
            "the credential helper cannot be used", where=f"docker-credential-{helper}", hint=hint
        ) from None
    if not isinstance(user, str) or not isinstance(secret, str) or user == _NO_PASSWORD:
        return None
    return Credentials(user, secret)
