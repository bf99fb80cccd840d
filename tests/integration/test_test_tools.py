"""The programs of other projects that tests hold ours against start from their unpacked tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from makers.tools import program


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("casync", "--version"),
        ("cosign", "version"),
        ("docker-registry", "--version"),
        ("gpgv", "--version"),
        ("oras", "version"),
        ("skopeo", "--version"),
        ("systemd-pull", "--version"),
    ],
)
def test_it_starts(test_tools: Path, name: str, word: str) -> None:
    assert program(test_tools, name)(word).strip()


def test_htpasswd_makes_what_a_registry_reads(test_tools: Path) -> None:
    assert program(test_tools, "htpasswd")("-nbB", "me", "secret").startswith("me:$2y$")
