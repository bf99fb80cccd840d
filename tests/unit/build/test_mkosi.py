"""How mkosi is started, and what becomes of its failures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from stereo.build import mkosi
from stereo.errors import StereoError
from stereo.process import CommandFailed


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """mkosi fails, saying what the test puts under `output`; `argv` and `env` are what it was started with."""
    seen: dict[str, Any] = {}

    def run(argv: Sequence[str], **options: Any) -> NoReturn:
        seen.update(argv=argv, **options)
        raise CommandFailed(argv, 1, seen["output"])

    monkeypatch.setattr(mkosi, "run", run)
    return seen


def failure(work: Path) -> StereoError:
    stage = work / "image"
    stage.mkdir(parents=True)
    with pytest.raises(StereoError) as caught:
        mkosi.run_mkosi(stage, tools=work.parent / "tools", work=work)
    return caught.value


def test_no_path_of_the_machine_reaches_mkosi_itself(failing: dict[str, Any], tmp_path: Path) -> None:
    failing["output"] = ""
    failure(tmp_path / "a cache" / "work")
    words = failing["argv"][failing["argv"].index("mkosi") :]
    assert not [word for word in words if str(tmp_path) in word]
    assert not [value for value in failing["env"].values() if str(tmp_path) in value]


def test_a_failure_tells_the_step_and_the_last_lines(failing: dict[str, Any], tmp_path: Path) -> None:
    failing["output"] = "‣  Installing Debian\nE: Unable to locate package nonesuch\n"
    error = failure(tmp_path / "work")
    assert "at “Installing Debian”" in error.what
    assert "E: Unable to locate package nonesuch" in error.what
    assert error.where == "stage image"


def test_a_full_disk_is_told_without_mkosis_traceback(failing: dict[str, Any], tmp_path: Path) -> None:
    failing["output"] = (
        "‣  Copying\nTraceback (most recent call last):\n  File …\nOSError: [Errno 28] No space left on device\n"
    )
    error = failure(tmp_path / "work")
    assert error.what == "mkosi failed at “Copying”: No space left on device"
    assert str(error.hint).startswith("make room")


def test_the_workspace_is_never_shown_over_what_mkosi_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    (tmp_path / "link").symlink_to(folders[1])
    monkeypatch.setattr(mkosi, "_MOUNT_POINTS", (str(tmp_path / "absent"), *map(str, folders)))
    assert mkosi._mount_point() == folders[0]
    assert mkosi._mount_point(folders[0] / "cache") == folders[1]
    assert mkosi._mount_point(folders[0] / "cache", tmp_path / "link" / "tools") == folders[2]
    monkeypatch.setattr(sys, "prefix", str(folders[0] / "venv"))
    assert mkosi._mount_point() == folders[1]
    with pytest.raises(StereoError, match="no folder to show mkosi"):
        mkosi._mount_point(*folders)
