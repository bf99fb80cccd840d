"""Keys and signed statements for tests, made by the real code."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stereo.trust.envelope import seal
from stereo.trust.keyfiles import load_secret, make_key
from stereo.trust.keys import KeyType, SecretKey
from stereo.trust.statement import render_statement

NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
SUBJECTS = {"stereos.img": "1" * 64, "mixtape.toml": "2" * 64}
RELEASE: Mapping[str, Any] = {"purl": "pkg:generic/base@2026.01.31.0", "releaseId": "base@2026.01.31.0/x86_64-linux"}


def new_key(folder: Path, name: str = "release", key_type: KeyType = "ed25519") -> SecretKey:
    """A key of four files in `folder`, read back: with the OpenPGP key beside it."""
    make_key(name, key_type, folder)
    return load_secret(folder / f"{name}.key")


def release_payload(expires_on: datetime | None = None) -> bytes:
    """A small statement of release."""
    return render_statement("release", SUBJECTS, RELEASE, NOW, expires_on)


def release_envelope(key: SecretKey) -> bytes:
    """The same, signed."""
    return seal(release_payload(), key)
