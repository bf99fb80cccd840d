"""Which architecture a sandbox has: the host's own, unless somebody asked for another, or its disk is of another."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest

from makers.dist import make_dist
from stereo.dists import register, store_folder
from stereo.errors import UsageError
from stereo.model.architecture import Architecture
from stereo.model.manifest import MANIFEST_FILE, render_manifest
from stereo.report import Silent
from stereo.sandbox.job import Job
from stereo.sandbox.prepare import read_job
from stereo.sandbox.state import Folder, Record


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A jcard for base, of which the local store has an older dist for the host and a newer one for the other."""
    for variable in ("DATA", "STATE"):
        monkeypatch.setenv(f"XDG_{variable}_HOME", str(tmp_path / variable))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    for arch, version in (("x86_64", "2026.01.31.0"), ("aarch64", "2026.02.01.0")):
        folder = tmp_path / arch
        manifest = make_dist(folder, arch=Architecture(arch))
        named = manifest.model_copy(update={"name": "base", "version": version})
        (folder / MANIFEST_FILE).write_text(render_manifest(named))
        register(folder, name="base", version=version, arch=arch, store=store_folder())
    jcard = tmp_path / "jcard.toml"
    jcard.write_text('mixtape = "base"\nname = "box"\n')
    return jcard


def record_of(job: Job, *, proven: bool = True) -> Record:
    names = (job.name, job.jcard, job.mixtape, job.dist, job.manifest)
    return Record(*names, created=1.0, disk=job.disk, arch=job.arch, proven=proven)


def test_the_hosts_own_architecture_is_taken_and_another_on_request(both: Path) -> None:
    assert read_job(both, {}, Silent()).arch == "x86_64"
    asked = read_job(both, {}, Silent(), "aarch64")
    assert (asked.arch, asked.mixtape) == ("aarch64", "base:2026.02.01.0")


def test_a_path_decides_and_cannot_be_asked_to_be_another(both: Path, tmp_path: Path) -> None:
    both.write_text(f'mixtape = "{tmp_path}/aarch64"\nname = "box"\n')
    assert read_job(both, {}, Silent()).arch == "aarch64"
    with pytest.raises(UsageError, match="is for aarch64, not for x86_64"):
        read_job(both, {}, Silent(), "x86_64")


def test_a_sandbox_keeps_its_architecture(both: Path) -> None:
    folder = Folder("box")
    folder.make()
    folder.write(record_of(read_job(both, {}, Silent(), "aarch64")))
    assert read_job(both, {}, Silent()).arch == "aarch64"
    folder.write(record_of(read_job(both, {}, Silent(), "aarch64"), proven=False))
    assert read_job(both, {}, Silent()).arch == "x86_64"


def test_a_record_of_earlier_versions_says_no_architecture(both: Path) -> None:
    folder = Folder("box")
    folder.make()
    folder.write(replace(record_of(read_job(both, {}, Silent())), arch=""))
    assert read_job(both, {}, Silent()).arch == "x86_64"
