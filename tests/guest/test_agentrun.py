"""The first process of an agent's unit: secrets, signals, and the true end. The real program, without systemd."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from stereo.paths import Checkout

PROGRAM = Checkout.containing_this_package().root / "guest" / "agent-run"
PATH = "/usr/bin:/bin"


class Run:
    """One run of it, with the descriptors that systemd would open."""

    def __init__(
        self,
        folder: Path,
        *argv: str,
        grace: str = "5",
        workdir: str = "/",
        secrets: str = "",
        own: bytes | None = None,
    ) -> None:
        self.record = folder / "record"
        self.record.write_bytes(b"")
        variables = {"PATH": PATH, "CREDENTIALS_DIRECTORY": str(folder), "LISTEN_PID": "1", "LISTEN_FDS": "1"}
        files = [os.open(self.record, os.O_WRONLY)]
        if own is not None:
            (folder / "own").write_bytes(own)
            files.append(os.open(folder / "own", os.O_RDONLY))
            variables["LISTEN_FDS"] = "2"
        moves = " ".join(f"{3 + number}<&{descriptor}" for number, descriptor in enumerate(files))
        script = f'exec {PROGRAM} "$@" {moves.replace("3<&", "3>&")}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", grace, workdir, secrets, "--", *argv],
            env=variables,
            pass_fds=files,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for descriptor in files:
            os.close(descriptor)

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err

    def told(self) -> list[str]:
        return self.record.read_text().splitlines()

    def until_trapped(self) -> None:
        """Until the agent has set its trap, and says so by the file `trapped`."""
        end = time.monotonic() + 60
        while not self.record.with_name("trapped").exists():
            assert time.monotonic() < end
            time.sleep(0.02)


def trapping(folder: Path, trap: str) -> tuple[str, str, str]:
    """The command of an agent that lives until a signal ends it."""
    return "bash", "-c", f"trap {trap}; : >{folder}/trapped; while :; do sleep 0.05; done"


@pytest.mark.parametrize("code", [0, 3, 137, 255])
def test_an_exit_code_is_the_agents_own(tmp_path: Path, code: int) -> None:
    run = Run(tmp_path, "sh", "-c", f"exit {code}")
    assert run.end()[0] == code
    assert run.told() == ["started", f"exit {code}"]


def test_a_signal_is_no_exit_code(tmp_path: Path) -> None:
    run = Run(tmp_path, "sh", "-c", "kill -KILL $$")
    assert run.end()[0] == 137
    assert run.told() == ["started", "signal 9"]


def test_arguments_arrive_as_they_are(tmp_path: Path) -> None:
    words = ["a b", "$HOME", "", "x\ny", "\u00e9", "--"]
    assert Run(tmp_path, "printf", "<%s>", *words).end()[1] == "".join(f"<{word}>" for word in words)


def test_secrets_become_variables_without_their_last_newline(tmp_path: Path) -> None:
    (tmp_path / "KEY").write_text("two\nlines\n\n")
    (tmp_path / "OTHER").write_text("x")
    _, out, _ = Run(tmp_path, "env", "-0", secrets="KEY").end()
    variables = dict(row.split("=", 1) for row in out.split("\0") if row)
    assert variables["KEY"] == "two\nlines"
    assert "OTHER" not in variables
    assert not [name for name in variables if name.startswith(("LISTEN_", "NOTIFY_"))]


def test_own_variables_win(tmp_path: Path) -> None:
    (tmp_path / "KEY").write_text("secret")
    _, out, _ = Run(tmp_path, "sh", "-c", 'echo "$KEY $A"', secrets="KEY", own=b"KEY=mine\0A=b=c\0").end()
    assert out == "mine b=c\n"


@pytest.mark.parametrize(
    ("argv", "more", "reason"),
    [
        (["no-such-program"], {}, "no-such-program: No such file or directory"),
        (["/etc/passwd"], {}, "/etc/passwd: Permission denied"),
        (["true"], {"workdir": "/no/folder"}, "working directory /no/folder: No such file or directory"),
        (["true"], {"secrets": "GONE"}, "secret GONE: No such file or directory"),
    ],
)
def test_what_keeps_it_from_starting_is_told(
    tmp_path: Path, argv: list[str], more: dict[str, str], reason: str
) -> None:
    run = Run(tmp_path, *argv, **more)  # type: ignore[arg-type]
    assert run.end() == (127, "", f"cannot start: {reason}\n")
    assert run.told() == [f"error {reason}"]


def test_a_secret_that_no_variable_can_hold_is_refused_without_being_shown(tmp_path: Path) -> None:
    (tmp_path / "KEY").write_bytes(b"bef\0ore")
    code, _, err = Run(tmp_path, "true", secrets="KEY").end()
    assert (code, "bef" in err) == (127, False)


def test_signals_are_passed_on(tmp_path: Path) -> None:
    run = Run(tmp_path, *trapping(tmp_path, "'exit 9' USR1"))
    run.until_trapped()
    run.process.send_signal(signal.SIGUSR1)
    assert run.end()[0] == 9


def test_sigterm_gives_the_agent_its_grace_and_then_ends_it(tmp_path: Path) -> None:
    run = Run(tmp_path, *trapping(tmp_path, "'echo asked' TERM"), grace="0.7")
    run.until_trapped()
    began = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    assert run.end()[:2] == (137, "asked\n")
    assert 0.6 < time.monotonic() - began < 10
    assert run.told() == ["started", "signal 9"]


def test_no_grace_is_no_grace(tmp_path: Path) -> None:
    run = Run(tmp_path, *trapping(tmp_path, "'' TERM"), grace="0.000")
    run.until_trapped()
    run.process.send_signal(signal.SIGTERM)
    assert run.end()[0] == 137


def test_the_agent_cannot_write_its_own_record(tmp_path: Path) -> None:
    run = Run(tmp_path, "bash", "-c", "echo forged >&3")
    run.end()
    assert run.told() == ["started", "exit 1"]
