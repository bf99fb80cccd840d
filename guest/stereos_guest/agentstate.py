"""How an agent is: what systemd says of its unit and what the unit's last end left behind, made into one entry.

Pure. What an entry looks like, and what its states mean: the original's entry, with our additions, in docs/protocol.md.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in, unlike `signal`

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

WAITING, STARTING, RUNNING, BACKOFF = "waiting", "starting", "running", "backoff"
EXITED, FAILED, STOPPED = "exited", "failed", "stopped"

_SIGNALS = {
    int(getattr(_signal, name)): name[3:]
    for name in sorted(dir(_signal), reverse=True)
    if name.startswith("SIG") and name[3:4] not in ("", "_")
}
# What systemd could not do for it (systemd.exec(5), "Process Exit Codes").
_SYSTEMD_FAILURES = {
    200: "its working directory",
    203: "its program",
    209: "its output",
    217: "its user",
    226: "its namespaces",
    228: "its system call filter",
    233: "its folders",
    243: "its secrets",
}


class Ending:
    """How a run ended. One of `code`, `signal` and `error` says it; `error` may also explain the others."""

    __slots__ = ("at", "code", "error", "restarts", "signal", "timed_out")

    def __init__(self) -> None:
        self.at = 0
        self.code: int | None = None
        self.signal = ""
        self.error = ""
        self.timed_out = False
        self.restarts = 0


def rows(text: str) -> dict[str, str]:
    """The lines NAME=VALUE of a small file."""
    return dict(line.partition("=")[::2] for line in text.splitlines())


def ending(noted: Mapping[str, str], told: str) -> Ending:
    """What `agent-event` noted of a run's end, and what `agent-run` told of the agent itself."""
    end = Ending()
    end.at, end.restarts = number(noted.get("at")), number(noted.get("restarts"))
    end.timed_out = noted.get("result") == "timeout"
    lines = told.splitlines()
    how, _, what = lines[-1].partition(" ") if lines else ("", "", "")
    status = noted.get("status", "")
    if how == "exit":
        end.code = number(what)
    elif how == "signal":
        end.signal = _SIGNALS.get(number(what), what)
    elif how == "error":
        end.error = f"cannot start: {what}"
    elif noted.get("code") == "exited" and how != "started":
        missing = _SYSTEMD_FAILURES.get(number(status), f"status {status}")
        end.error = f"cannot start: systemd could not set up {missing}"
    elif noted.get("code") in ("killed", "dumped"):
        end.signal = status
    else:
        end.error = f"cannot start: {noted.get('result') or 'nothing is known of its end'}"
    if noted.get("memory") == "yes" and end.signal == "KILL":
        end.error = "ran out of memory"
    if end.timed_out:
        end.error = "timed out"
    return end


def entry(
    about: Mapping[str, Any],
    unit: Mapping[str, str],
    end: Ending | None,
    *,
    stopped: bool = False,
    waiting: str = "",
    problem: str = "",
    started_at: int = 0,
) -> dict[str, Any]:
    """The entry of an agent; `about` has its name, type, harness and session, `unit` what `Systemctl.show` found."""
    state = _state(unit, end, stopped, waiting, problem)
    running = state == RUNNING
    found = {"name": about["name"], "type": about.get("type", ""), "harness": about.get("harness", "")}
    found |= {"running": running, "state": state}
    if about.get("session"):
        found["session"] = about["session"]
    restarts = number(unit.get("NRestarts"))
    found["restarts"] = max(restarts, end.restarts) if end else restarts
    started = unit_time(unit.get("ExecMainStartTimestamp")) if running else started_at
    if started:
        found["started_at"] = started
    if end and state in (BACKOFF, EXITED, FAILED, STOPPED) and not problem:
        if end.code is not None:
            found["exit_code"] = end.code
        if end.signal:
            found["exit_signal"] = end.signal
        if end.at:
            found["ended_at"] = end.at
        if state != STOPPED:
            found |= {"timed_out": end.timed_out}
    error = waiting if state == WAITING else problem or (end.error if end and state in (BACKOFF, FAILED) else "")
    if error:
        found["error"] = error
    return found


def _state(unit: Mapping[str, str], end: Ending | None, stopped: bool, waiting: str, problem: str) -> str:
    active, sub = unit.get("ActiveState", "inactive"), unit.get("SubState", "")
    if active == "activating" and sub.startswith("auto-restart"):
        return BACKOFF
    if active == "activating":
        return STARTING
    if active in ("active", "deactivating", "reloading", "refreshing"):
        return RUNNING
    if problem:
        return FAILED
    if waiting:
        return WAITING
    if stopped:
        return STOPPED
    if pending(unit) or end is None:
        return STARTING
    return EXITED if end.code == 0 and not end.timed_out and not end.error else FAILED


def pending(unit: Mapping[str, str]) -> bool:
    """Whether systemd has a job for the unit."""
    return unit.get("Job", "") not in ("", "0")


def settling(unit: Mapping[str, str]) -> bool:
    """Whether the unit leaves its present state without anybody being told: while it runs what told us."""
    return unit.get("SubState") in (
        "start-pre",
        "start",
        "stop-post",
        "final-sigterm",
        "final-sigkill",
        "final-watchdog",
    )


def unit_time(text: str | None) -> int:
    """Seconds since the epoch of a timestamp as `--timestamp=unix` prints it: @1700000000."""
    return number((text or "").removeprefix("@"))


def number(text: str | None) -> int:
    """A number from 0 on; 0 for what is none."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 16 else 0
