"""Agents that have come to their memory limit, and neither end nor go on.

The kernel ends one only when there is nothing left to take from it. The pages of its own program can always be taken,
and are read again at once: what is large, as runsc is, spends all its time so (cgroup-v2.rst, psi.rst of the kernel).
"""

from __future__ import annotations

from stereos_guest import agentfiles, agentstate

CGROUPS = "/sys/fs/cgroup/stereos.slice/stereos-agents.slice"
_KEPT = ("anon", "shmem", "kernel")  # what cannot be taken back; there is no swap
_FULL = 0.95  # of the limit
_WAITS = 15.0  # percent of a minute in which nothing of it could do anything but wait for memory; runsc reaches 35
_MOST = 16 << 10


def stalled(folder: str) -> bool:
    """Whether the control group in `folder` has used up its limit and waits for memory much of the time."""
    limit = agentstate.number(_read(f"{folder}/memory.max").strip())  # 0 for `max`
    return (
        bool(limit) and full_pressure(_read(f"{folder}/memory.pressure")) >= _WAITS and _kept(folder) >= limit * _FULL
    )


def _kept(folder: str) -> int:
    rows = (line.partition(" ") for line in _read(f"{folder}/memory.stat").splitlines())
    return sum(agentstate.number(value) for name, _, value in rows if name in _KEPT)


def full_pressure(text: str) -> float:
    """The percentage of the last minute, of a pressure file, in which all waited; 0 if it does not say."""
    for line in text.splitlines():
        kind, *fields = line.split()
        for field in fields if kind == "full" else ():
            name, _, value = field.partition("=")
            if name == "avg60" and value.replace(".", "", 1).isdecimal():
                return float(value)
    return 0.0


def _read(path: str) -> str:
    try:
        return (agentfiles.read(path, _MOST) or b"").decode(errors="replace")
    except OSError:
        return ""  # its group is just going, or the kernel does not measure
