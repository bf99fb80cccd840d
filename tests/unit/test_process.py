"""Starting programs: what they say is kept, and whatever goes wrong leaves none of them running."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

import pytest

from stereo.process import CommandFailed, run


def test_output_and_status_are_kept() -> None:
    assert run(["sh", "-c", "echo out; echo err >&2"]).stdout == "out\n"
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", "echo why >&2; exit 3"])
    assert (caught.value.status, caught.value.output) == (3, "why\n")


def test_a_program_that_does_not_exist_is_a_failed_command() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["/nonexistent/program"])
    assert caught.value.status == 127


def test_a_program_that_does_not_end_in_time_is_killed() -> None:
    with pytest.raises(CommandFailed, match=r"no end after 0\.2 s"):
        run(["sleep", "60"], timeout=0.2)


def test_the_environment_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAK", "1")
    assert "LEAK" not in run(["env"]).stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_program_is_being_started_is_not_lost_and_leaves_nothing_running(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []
    original = subprocess.Popen

    def interrupted(*words: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(original(*words, **options))
        signal.raise_signal(number)  # as if it came while Popen was at work
        return started[0]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)  # as the command line does
    monkeypatch.setattr(subprocess, "Popen", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(["sleep", "60"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert started[0].returncode is not None
