"""`--backend` of up and boot: who has a say, and what is refused before anything is started."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from makers.dist import make_dist
from stereo.cli.app import run
from stereo.sandbox.job import Job
from stereo.sandbox.state import Folder, Record, sandboxes

Write = Callable[[str], None]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("STATE", "CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"XDG_{variable}_HOME", str(tmp_path / variable.lower()))
    monkeypatch.delenv("STEREO_CACHE", raising=False)
    monkeypatch.delenv("STEREO_BACKEND", raising=False)
    make_dist(tmp_path / "dist")
    monkeypatch.chdir(tmp_path)
    Path("jcard.toml").write_text(f'mixtape = "{tmp_path}/dist"\nname = "box"\n')
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def have_vfkit() -> None:
    Path("bin/vfkit").write_text("#!/bin/sh\n")
    Path("bin/vfkit").chmod(0o755)


def test_without_a_vfkit_it_is_told_where_one_is_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["up", "--backend", "applevirt"]) == 1
    assert "no vfkit on PATH" in capsys.readouterr().err
    assert not sandboxes().exists()


def test_the_variable_is_heard_and_checked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEREO_BACKEND", "applevirt")
    assert run(["up"]) == 1
    assert "no vfkit on PATH" in capsys.readouterr().err
    for verb in (["up"], ["apply"], ["boot", "dist"]):
        monkeypatch.setenv("STEREO_BACKEND", "xen")
        assert run(verb) == 2
        assert "'xen' is no backend" in capsys.readouterr().err


def test_a_dist_of_another_architecture_is_refused_before_it_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    have_vfkit()
    assert run(["up", "--backend", "applevirt"]) == 1
    assert "runs aarch64, not x86_64" in capsys.readouterr().err
    assert not sandboxes().exists()


def test_a_word_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["up", "--backend", "hyperkit"]) == 2
    assert run(["boot", "dist", "--backend", "hyperkit"]) == 2
    assert "qemu" in capsys.readouterr().err


def test_boot_of_a_qcow2_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    have_vfkit()
    manifest = Path("dist/mixtape.toml")
    manifest.write_text(manifest.read_text().replace("x86_64-linux", "aarch64-linux"))
    assert run(["boot", "dist", "--backend", "applevirt", "--with", "qcow2", "--until", "ready"]) == 1
    assert "raw disks only" in capsys.readouterr().err


def test_changes_go_to_a_sandbox_by_whatever_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who began it with --backend has no such option for `apply`, and needs none."""
    folder = Folder("box")
    folder.make()
    folder.write(Record("box", "/j", "base:1", "/dist", "0" * 64, 0.0, disk=1 << 30, backend="qemu"))
    asked: list[Job] = []

    @asynccontextmanager
    async def connected(name: str) -> AsyncIterator[Asked]:
        yield Asked(asked)

    monkeypatch.setattr("stereo.sandbox.client.connected", connected)
    monkeypatch.setenv("STEREO_BACKEND", "applevirt")
    assert run(["apply"]) == 0
    assert [job.backend for job in asked] == ["qemu"]


class Asked:
    """The supervisor of a sandbox, which notes what it is asked for."""

    def __init__(self, asked: list[Job]) -> None:
        self._asked = asked

    async def request(self, kind: str, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        self._asked.append(Job.decode(body["job"]))
        return {"notes": [], "changes": []}
