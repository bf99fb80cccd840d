"""How an argument names a dist or a published mixtape, and what a shell may complete of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest

from stereo import dists
from stereo.cli.app import run
from stereo.cli.places import DistType, complete_reference
from stereo.distribution.publish import publish
from stereo.model.architecture import Architecture
from stereo.registry.reference import parse_reference
from stereo.registry.remote import open_remote
from stereo.report import Silent
from unit.distribution.publishing import NAME, VERSION, release

Capture = pytest.CaptureFixture[str]
PARAMETER = click.Argument(["where"])


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("STEREO_POLICY", "STEREO_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)


def stored(folder: Path, arch: Architecture = Architecture.X86_64) -> Path:
    release(folder, arch=arch)
    dists.register(folder, name=NAME, version=VERSION, arch=arch.value, store=dists.store_folder())
    return folder


def verified(capsys: Capture, word: str, status: int = 0) -> str:
    capsys.readouterr()
    assert run(["verify", word, "-q"]) == status
    return "".join(capsys.readouterr())


@pytest.mark.parametrize("word", [NAME, f"{NAME}:{VERSION}", f"{NAME}:latest"])
def test_a_dist_of_the_local_store_has_a_name(word: str, tmp_path: Path, capsys: Capture) -> None:
    stored(tmp_path / "made")
    assert f"ok: {NAME} {VERSION}" in verified(capsys, word)


def test_what_is_there_is_a_folder_whatever_the_store_has(tmp_path: Path, capsys: Capture) -> None:
    stored(tmp_path / "made")
    Path(NAME).mkdir()
    assert "mixtape.toml" in verified(capsys, NAME, status=1)
    Path(NAME).rmdir()
    Path(NAME).symlink_to("nowhere")
    assert "does not exist" in verified(capsys, NAME, status=2)
    assert "does not exist" in verified(capsys, f"./{NAME}:{VERSION}", status=2)
    Path(NAME).unlink()
    assert f"ok: {NAME}" in verified(capsys, NAME)


def test_what_is_neither_says_so_and_what_there_is(tmp_path: Path, capsys: Capture) -> None:
    stored(tmp_path / "made")
    assert "no folder here, and there is no dist of nosuch" in verified(capsys, "nosuch", status=2)
    assert VERSION in verified(capsys, f"{NAME}:2026.01.09.0", status=2)
    for word in ("", "Up", "a..b", "a:b:c", "\x1b[31m", "~", "²"):
        said = verified(capsys, word, status=2)
        assert "Traceback" not in said
        assert "\x1b" not in said
    assert run(["verify", "nosuch", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["where"] == "nosuch"


def test_of_two_architectures_this_machines_is_meant_and_an_only_one_is_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    other = stored(tmp_path / "arm", Architecture.AARCH64)
    convert = DistType().convert
    assert convert(NAME, PARAMETER, None) == other
    own = stored(tmp_path / "own")
    assert convert(f"{NAME}:{VERSION}", PARAMETER, None) == own


def completed(incomplete: str) -> list[str]:
    return complete_reference(click.Context(click.Command("x")), PARAMETER, incomplete)


def test_names_and_tags_of_folders_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dist = tmp_path / "dist"
    release(dist)
    for place in ("sample", f"oci:{tmp_path}/other"):
        publish([dist], open_remote(parse_reference(place)), floating=None, report=Silent())
    assert completed("sa") == ["sample"]
    assert completed("sample:") == [f"sample:{VERSION}", "sample:latest"]
    assert completed("sample:l") == ["sample:latest"]
    assert completed("other") == []
    place = f"oci:{tmp_path}/other"
    assert completed(f"{place}:2") == [f"{place}:{VERSION}"]
    assert completed(f"{tmp_path}/other:l") == [f"{tmp_path}/other:latest"]
    monkeypatch.setenv("STEREO_REGISTRY", str(tmp_path))
    assert completed("oth") == ["other"]


@pytest.mark.parametrize("registry", ["192.0.2.1/mixtapes", "https://192.0.2.1/mixtapes", "no root at all"])
@pytest.mark.parametrize(
    "word", ["", "sample:", "192.0.2.1/x:", "https://192.0.2.1/x:", "oci:", "/", "~nobody/x:", "²"]
)
@pytest.mark.timeout(20)
def test_completing_asks_nobody_and_never_fails(registry: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEREO_REGISTRY", registry)
    assert completed(word) == []


def test_completing_survives_a_layout_that_is_none(tmp_path: Path) -> None:
    layout = tmp_path / "data/stereo/registry/sample"
    layout.mkdir(parents=True)
    (layout / "oci-layout").write_text("{")
    os.mkfifo(layout / "index.json")
    assert completed("sample") == []
    assert completed("sample:") == []
