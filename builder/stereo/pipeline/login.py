"""Lends a registry's user and password, as a CI hands them over, to the one piece of work that needs them.

They come to it as everybody's do: by a file as docker and podman have it, in a folder of its own that goes when the
work ends. See containers-auth.json(5).
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from stereo.pipeline.jobs import REGISTRY_PASSWORD, REGISTRY_USER
from stereo.registry.reference import parse_root


@contextmanager
def logged_in(to: str, secrets: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The variables that a verb needs to be known at the root `to`: none where no password was handed over."""
    user, password, host = secrets.get(REGISTRY_USER, ""), secrets.get(REGISTRY_PASSWORD, ""), parse_root(to).host
    if not (password and host):
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="stereo-login-") as folder:  # made with mode 0700
        auth = base64.b64encode(f"{user}:{password}".encode()).decode()
        file = Path(folder) / "auth.json"
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            json.dump({"auths": {host: {"auth": auth}}}, stream)
        yield {"REGISTRY_AUTH_FILE": str(file)}


@contextmanager
def added(variables: Mapping[str, str]) -> Iterator[None]:
    """Add variables to our own environment for a while: for work that we do ourselves."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
