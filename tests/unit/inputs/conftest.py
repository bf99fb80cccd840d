from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stereo.inputs import discover, fetch
from stereo.inputs.store import Store
from unit.inputs import loopback

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxy_and_no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loopback mirror is reached directly, and retries do not wait."""
    for name in _PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(fetch, "BACKOFF", 0.001)
    monkeypatch.setattr(discover, "BACKOFF", 0.001)


@pytest.fixture
def mirror() -> Iterator[loopback.Mirror]:
    with loopback.mirror() as running:
        yield running


@pytest.fixture
def other() -> Iterator[loopback.Mirror]:
    with loopback.mirror() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")
