"""Runs inside a booted image, as root, and finds out all that the tests want to know of it; probevoice.py tells it.

It is put into the machine by makers/probe.py and needs nothing but Debian's Python. It judges nothing: what ought to be
is written in the tests.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shlex
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

HOME = "/home/agent/workspace"
SHELL = "/usr/lib/stereos/agent/shell"
# What a start of the agent tells of itself: where it is, who it is, what it finds.
TELL = (
    'printf "%s\\n" "PATH=$PATH" "PWD=$PWD" "USER=$(id -un)" "EDITOR=$EDITOR" "MASK=$(umask)"; '
    "for program in bash rg git opencode systemctl nft sudo python3 mount dmsetup; do "
    'printf "%s=%s\\n" "$program" "$(command -v "$program")"; done'
)
AS_AGENT = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
CRON = ["env", "-i", "HOME=/home/agent", "LOGNAME=agent", f"SHELL={SHELL}", "PATH=/usr/bin:/bin"]

# Every way in that does not go over the network.
STARTS = {
    "su - agent -c": ["su", "-", "agent", "-c", TELL],
    "su agent -c": ["su", "agent", "-c", TELL],
    "su -P -": ["su", "--pty", "-", "agent", "-c", TELL],
    "runuser -l": ["runuser", "-l", "agent", "-c", TELL],
    "runuser -u": ["runuser", "-u", "agent", "--", "/bin/sh", "-c", TELL],
    "login shell": [*AS_AGENT, "--reset-env", "/bin/bash", "-lc", TELL],
    "login sh": [*AS_AGENT, "--reset-env", "/bin/sh", "-lc", TELL],
    "interactive shell": [*AS_AGENT, "--reset-env", "/bin/bash", "-ic", TELL],
    "cron": [*CRON, *AS_AGENT, SHELL, "-c", TELL],
    "sudo -u": ["su", "-", "admin", "-c", f"sudo -n -u agent -- sh -c {shlex.quote(TELL)}"],
    "cron that goes through PAM": ["runuser", "agent", "-s", "/bin/sh", "-c", TELL],
}
UNITS = {
    "unit": f"ExecStart={SHELL} /run/tell",
    "unit with a PAM session": "PAMName=other\nExecStart=/bin/sh /run/tell",
}
OWN_PROGRAM = "printf '#!/bin/sh\\necho it runs\\n' >mine && chmod +x mine && ./mine"
AGENT_TRIES = {
    "become root by sudo": "/usr/bin/sudo -n /usr/bin/id -u",
    "become root by su": "/usr/bin/su -c /usr/bin/id </dev/null",
    "read shadow": "cat /etc/shadow",
    "read the kernel log": "/usr/bin/dmesg",
    "list the state partition": "ls /state",
    "list secrets": "ls /run/stereos/secrets",
    "list the administrator's home": "ls /home/admin",
    "write to /etc": "echo x >/etc/agent-was-here",
    "write to /usr": "echo x >/usr/lib/stereos/agent/bin/agent-was-here",
    "talk to the control port": "echo x >/dev/vport*p1",
    "write to the disk": "echo x >/dev/vda",
    "stop a service": "/usr/bin/systemctl stop stereosd.service </dev/null",
    "execute in /var/tmp": "cp /usr/bin/id /var/tmp/mine && /var/tmp/mine",
    "execute in /dev/shm": "cp /usr/bin/id /dev/shm/mine && /dev/shm/mine",
}


def run(argv: list[str], seconds: float = 120, said: str | None = None) -> dict[str, Any]:
    """A program's status and what it answered to what is `said` to it."""
    try:
        done = subprocess.run(
            argv, input=said or "", capture_output=True, text=True, errors="replace", timeout=seconds, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"status": -1, "out": "", "err": str(error)}
    return {"status": done.returncode, "out": done.stdout, "err": done.stderr}


def read(path: str) -> str | None:
    """A small file, None if it cannot be read."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return None


def settled(seconds: float = 180) -> str:
    """What the service manager says of the system once it has nothing more to start."""
    until = time.monotonic() + seconds
    while True:
        state = str(run(["systemctl", "is-system-running"])["out"]).strip()
        if state not in ("initializing", "starting") or time.monotonic() > until:
            return state
        time.sleep(0.5)


def files() -> dict[str, list[str]]:
    """What raises privileges, and what everybody may write to, in the whole live tree."""
    raising, writable = [], []
    for folder, names, plain in os.walk("/"):
        if folder == "/":
            names[:] = [name for name in names if name not in ("proc", "sys", "dev")]
        for name in (*plain, *names):
            path = os.path.join(folder, name)  # noqa: PTH118 - a walk over thousands of files, emulated
            try:
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode):
                    owners = f"{stat.S_IMODE(status.st_mode):o} {status.st_uid}:{status.st_gid}"
                    if status.st_mode & 0o6000:
                        raising.append(f"{path} {owners}")
                    if "security.capability" in os.listxattr(path, follow_symlinks=False):
                        raising.append(f"{path} capability")
                elif stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
                    continue
                if status.st_mode & stat.S_IWOTH and not (
                    stat.S_ISLNK(status.st_mode) or stat.S_ISSOCK(status.st_mode)
                ):
                    writable.append(path)
            except OSError:
                continue
    return {"raising": raising, "writable": writable}


def sockets() -> list[str]:
    """Who listens: rows of /proc/net with a local port and without a peer (Documentation/networking/proc_net_tcp)."""
    found = []
    for name in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        for row in (read(f"/proc/net/{name}") or "").splitlines()[1:]:
            fields = row.split()
            if not name.startswith("tcp") or fields[3] == "0A":
                found.append(f"{name} {fields[1]}")
    return found


def writes() -> dict[str, str]:
    """Tries to leave something behind, and tells what an earlier boot left."""
    found = {}
    for path in ("/etc/was-here", "/usr/lib/was-here", "/var/lib/was-here", f"{HOME}/was-here"):
        before = read(path)
        try:
            Path(path).write_text("by the boot before")
            after = "written"
        except OSError as error:
            after = str(error)
        found[path] = f"{before}, {after}"
    return found


def status_of(unit: str) -> str | None:
    """/proc/PID/status of a service's main process."""
    pid = str(run(["systemctl", "show", "--value", "--property=MainPID", unit])["out"]).strip()
    return read(f"/proc/{pid}/status")


def everything() -> dict[str, Any]:
    """All that the tests ask about a healthy machine."""
    found: dict[str, Any] = lasting()
    found["units"] = run(["systemctl", "list-units", "--plain", "--no-legend", "--all"])["out"]
    found["starts"] = {name: run(argv) for name, argv in STARTS.items()}
    found["starts"] |= units()
    found["starts"]["tmux"] = {"status": 0, "out": tmux(), "err": ""}
    found["opencode"] = run(["su", "-", "agent", "-c", "opencode --version"], 300)
    found["agent"] = run(["id", "agent"])
    found["own program"] = run(["su", "-", "agent", "-c", OWN_PROGRAM])
    found["tries"] = {name: run(["su", "-", "agent", "-c", line], 60) for name, line in AGENT_TRIES.items()}
    found["admin"] = run(["su", "-", "admin", "-c", "sudo -n /usr/bin/id -u; echo PATH=$PATH"])
    found["sockets"] = sockets()
    found["nft"] = run(["nft", "-j", "list", "ruleset"])
    found["modules"] = {
        "disabled": read("/proc/sys/kernel/modules_disabled"),
        "try": run(["modprobe", "bridge"]),
        "loaded": read("/proc/modules"),
    }
    found["lockdown"] = read("/sys/kernel/security/lockdown")
    settings = sorted(
        line.partition("=")[0].strip()
        for path in Path("/usr/lib/sysctl.d").glob("*stereos*.conf")
        for line in path.read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    found["sysctl"] = {key: (read("/proc/sys/" + key.replace(".", "/")) or "").strip() for key in settings}
    found["mounts"] = read("/proc/1/mountinfo")
    found["verity"] = run(["dmsetup", "status", "root"])
    found["files"] = files()
    found["daemon"] = status_of("stereosd.service")
    found["accounts"] = {entry.pw_name: [entry.pw_uid, entry.pw_gid, entry.pw_shell] for entry in pwd.getpwall()}
    found["journal"] = {path: os.path.isdir(path) for path in ("/var/log/journal", "/run/log/journal")}  # noqa: PTH112
    return found


def lasting() -> dict[str, Any]:
    """What has to be the same, or gone, at the next boot."""
    state = settled()
    room = os.statvfs("/state")
    return {
        "state": state,
        "failed": run(["systemctl", "--failed", "--plain", "--no-legend"]),
        "machine_id": read("/etc/machine-id"),
        "writes": writes(),
        "partition": int(read("/sys/class/block/vda4/size") or 0) * 512,
        "file system": room.f_blocks * room.f_frsize,
        "log": run(["journalctl", "--boot", "--priority=warning", "--lines=60", "--no-pager", "--output=cat"])["out"],
        "grow": run(["systemctl", "show", "--value", "--property=Result,ConditionResult", "stereos-grow"]),
        "why": run(["journalctl", "--boot", "--no-pager", "--unit=stereos-grow"])["out"],
    }


def units() -> dict[str, Any]:
    """As an orchestrator starts the agent: a unit of the service manager's."""
    Path("/run/tell").write_text(TELL)
    found = {}
    for number, (name, lines) in enumerate(UNITS.items()):
        unit, answer = f"probe-{number}.service", f"/run/tell-{number}"
        text = f"[Service]\nType=oneshot\nUser=agent\nStandardOutput=file:{answer}\n{lines}\n"
        Path(f"/run/systemd/system/{unit}").write_text(text)
        run(["systemctl", "daemon-reload"])
        found[name] = {**run(["systemctl", "start", unit]), "out": read(answer)}
    return found


def tmux() -> str | None:
    """As a harness starts the agent: a session of tmux, whose commands know nothing of us."""
    answer = f"{HOME}/tmux-says"
    script = f"{{ {TELL}; }} >{answer}.new; mv {answer}.new {answer}"
    run(["su", "-", "agent", "-c", f"tmux -L probe new-session -d '{script}'"])
    until = time.monotonic() + 30
    while not Path(answer).exists() and time.monotonic() < until:
        time.sleep(0.2)
    return read(answer)


def damaged(path: str, offset: int) -> dict[str, Any]:
    """What reading a file gives around a block that was altered on disk: the block, and the one before it."""
    found: dict[str, Any] = {}
    for name, at in (("before", offset - 4096), ("there", offset)):
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                data = os.pread(descriptor, 4096, at)
            finally:
                os.close(descriptor)
            found[name] = hashlib.sha256(data).hexdigest()
        except OSError as error:
            found[name] = os.strerror(error.errno or 0)
    found["verity"] = run(["dmsetup", "status", "root"])
    return found


def findings() -> dict[str, Any]:
    words = dict(word.partition("=")[::2] for word in (read("/proc/cmdline") or "").split())
    task = words.get("probe.task", "everything")
    if task == "damaged":
        return damaged(words["probe.file"], int(words["probe.offset"]))
    return everything() if task == "everything" else lasting()
