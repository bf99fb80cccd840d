"""Locks on what is in use: they live as long as their owner, and belong to the very thing that was opened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stereo.errors import StereoError
from stereo.holding import hold, holding, is_held, is_seized, seize

_HOLD = "import sys; from pathlib import Path; from stereo.holding import hold; assert hold(Path(sys.argv[1])); print()"
_PATH = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@contextmanager
def held_elsewhere(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds `path`."""
    words = [sys.executable, "-c", f"{_HOLD}; sys.stdout.flush(); sys.stdin.read()", str(path)]
    with subprocess.Popen(words, env=_PATH, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_others_hold_cannot_be_seized_until_they_die(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    path.mkdir() if kind == "folder" else path.touch()
    with held_elsewhere(path) as process:
        assert seize(path) is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        descriptor = seize(path)
        assert descriptor is not None
        os.close(descriptor)


def test_many_hold_and_nobody_seizes_before_the_last_has_gone(tmp_path: Path) -> None:
    with holding(tmp_path):
        with holding(tmp_path):
            assert seize(tmp_path) is None
        assert seize(tmp_path) is None
    descriptor = seize(tmp_path)
    assert descriptor is not None
    os.close(descriptor)


def test_it_is_told_whether_a_thing_is_held_and_whether_against_all_others(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    with holding(tmp_path):
        assert is_held(tmp_path)
        assert not is_seized(tmp_path)
    descriptor = seize(tmp_path)
    assert descriptor is not None
    assert is_held(tmp_path)
    assert is_seized(tmp_path)
    os.close(descriptor)
    assert not is_seized(tmp_path)


def test_what_is_not_there_is_neither_held_nor_seized(tmp_path: Path) -> None:
    assert hold(tmp_path / "none") is None
    assert seize(tmp_path / "none") is None
    assert not is_held(tmp_path / "none")
    assert not is_seized(tmp_path / "none")
    with pytest.raises(StereoError, match="is not there"), holding(tmp_path / "none"):
        pass


def test_a_pipe_is_no_reason_to_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    descriptor = seize(tmp_path / "pipe")
    assert descriptor is not None
    os.close(descriptor)


def test_what_another_came_in_the_place_of_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between open and flock the thing may be replaced: a lock on the old one protects nothing."""
    path = tmp_path / "it"
    path.mkdir()
    really = os.open

    def swapped(*words: object, **options: object) -> int:
        descriptor = really(*words, **options)  # type: ignore[arg-type]
        path.rename(tmp_path / "aside")
        path.mkdir()
        return descriptor

    monkeypatch.setattr(os, "open", swapped)
    assert hold(path) is None
