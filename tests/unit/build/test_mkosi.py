"""How mkosi is started, and what becomes of its failures."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from stereo.build import mkosi
from stereo.errors import StereoError
from stereo.model.architecture import Architecture
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
        mkosi.run_mkosi(stage, arch=Architecture(platform.machine()), tools=work.parent / "tools", work=work)
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
