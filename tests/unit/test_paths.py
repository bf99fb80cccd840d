"""Where things are for a user who has no home, as in a container that runs under any number."""

from __future__ import annotations

import pwd
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import NoReturn

import pytest

from stereo.believed import believed
from stereo.cli.app import run
from stereo.errors import UsageError
from stereo.paths import Cache, home, user_data


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> NoReturn:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "STEREO_CACHE", "STEREO_REGISTRY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("words", [["dists"], ["search"], ["keygen", "x"], ["verify", "nosuch"], ["clean"]])
def test_without_a_home_a_verb_says_so(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    assert "HOME: this user has no home" in capsys.readouterr().err


def test_folders_that_are_named_need_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError):
        home()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("STEREO_CACHE", str(tmp_path))
    assert user_data() == tmp_path / "stereo"
    assert Cache.from_environment().root == tmp_path
    assert [row.detail for row in believed()] == ["this user has no home"]


def test_the_launcher_says_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # nothing beside the launcher, which has no suffix
    found = spec_from_loader("launcher", SourceFileLoader("launcher", str(Path(__file__).parents[2] / "stereo")))
    assert found is not None
    assert found.loader is not None
    launcher = module_from_spec(found)
    found.loader.exec_module(launcher)
    with pytest.raises(launcher.SetupError, match="no home"):
        launcher.cached_venv()
    monkeypatch.setenv("STEREO_CACHE", str(tmp_path))
    assert launcher.cached_venv().is_relative_to(tmp_path)
