"""What the doctor says of vfkit: nothing where there is none and no Mac, else whether macOS lets it do its work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stereo import doctor
from stereo.doctor import Check, Status
from stereo.vm.vfkit import ENTITLEMENT


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def program(folder: Path, name: str, says: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\necho '{says}'\n")
    (folder / name).chmod(0o755)


def row() -> Check | None:
    found = list(doctor._vfkit())
    assert len(found) <= 1
    return found[0] if found else None


def test_elsewhere_nobody_misses_it(path: Path) -> None:
    assert row() is None


def test_elsewhere_one_that_is_there_is_told(path: Path) -> None:
    program(path, "vfkit", "vfkit version: v0.6.1")
    assert row() == Check("vfkit", Status.OK, f"v0.6.1, {path}/vfkit")


def test_a_mac_without_one_is_told_where_it_is_from(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    found = row()
    assert found
    assert found.status is Status.WARN
    assert "run by QEMU" in found.detail
    assert found.fix
    assert "brew install vfkit" in found.fix


@pytest.mark.parametrize("signed", [True, False])
def test_on_a_mac_it_must_be_signed_for_the_framework(
    path: Path, monkeypatch: pytest.MonkeyPatch, signed: bool
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    program(path, "vfkit", "vfkit version: v0.6.1")
    program(path, "codesign", f"<key>{ENTITLEMENT}</key><true/>" if signed else "")
    found = row()
    assert found
    assert found.status is (Status.OK if signed else Status.WARN)
    assert ("not signed" in found.detail) is not signed


def test_a_mac_without_codesign_cannot_tell(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    program(path, "vfkit", "vfkit version: v0.6.1")
    found = row()
    assert found
    assert found.status is Status.WARN
