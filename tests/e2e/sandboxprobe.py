"""Runs inside a booted image, as root, and has agentd run sandboxed agents: what they see, how they end, what stays.

It is put into the machine by makers/probe.py. It plays stereosd: it writes the jcard and the secret and says `reload`.
It judges nothing: what ought to be is written in test_gvisor.py.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

CARD = Path("/etc/stereos/jcard.toml")
KEY = "sk-sandboxed-" + "91c07e"  # in two parts, so that this file is not where it is found
RUNSC = "/usr/bin/runsc --root"
NOWHERE = "/home/agent/no/such/folder"
FOUND: dict[str, Any] = {}

# What a sandboxed agent finds out about its place. Only what is on its PATH, and no more processes than needed: each
# costs a quarter of a second where the machine is emulated.
LOOK = """
echo "user=$(id -u):$(id -g) home=$HOME name=$USER pwd=$PWD host=$(</etc/hostname)"
echo "token=$TOKEN colour=$COLOUR path=$PATH"
echo "descriptors=$(echo /proc/self/fd/*)"
grep -E '^Cap' /proc/self/status
echo "privileges=$(/usr/bin/python3 -SE -c 'import ctypes; print(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))')"
/usr/bin/dmesg
cat /workspace/task
echo done >/workspace/result; echo kept >/home/agent/workspace/from-sandbox
( echo no >/reference/result ) 2>/dev/null && echo 'wrote to the reference'
( echo no >/usr/lib/x ) 2>/dev/null && echo 'wrote to /usr'
( echo no >/etc/x ) 2>/dev/null && echo 'wrote to /etc'
echo "reference=$(</reference/fact)"
echo top=$(ls /) run=$(ls -A /run) var=$(ls -A /var) homes=$(ls /home)
for path in /run/stereos /state /etc/shadow /etc/stereos /dev/vda /dev/vport0p1; do
    [ ! -e $path ] || echo "sees $path"
done
grep -c . /proc/mounts >/dev/null && echo 'on stderr' >&2
exit 7
"""
PATIENT = "trap 'echo got TERM; exit 5' TERM; echo up; while :; do sleep 0.2; done"


def run(argv: list[str], seconds: float = 120) -> dict[str, Any]:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=seconds, cwd="/")
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"status": -1, "out": "", "err": str(error)}
    return {"status": done.returncode, "out": done.stdout, "err": done.stderr}


def talk(path: str, words: bytes) -> bytes:
    """What is answered on a socket until the other side has said all."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(60)
        channel.connect(path)
        channel.sendall(words)
        channel.shutdown(socket.SHUT_WR)
        answer = b""
        while data := channel.recv(1 << 16):
            answer += data
    return answer


def control(kind: str, **payload: Any) -> None:
    talk("/run/stereos/agentd-control.sock", json.dumps({"type": kind, "id": 7, "payload": payload}).encode() + b"\n")


def agent(name: str) -> dict[str, Any]:
    request = b"GET /v1/agents HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    body = talk("/run/stereos/agentd.sock", request).partition(b"\r\n\r\n")[2]
    return next((entry for entry in json.loads(body) if entry["name"] == name), {})


def until(name: str, *states: str, seconds: float = 90) -> dict[str, Any]:
    """The agent's entry as soon as it is in one of these states, or as it is when that takes too long."""
    end = time.monotonic() + seconds
    while (now := agent(name)).get("state") not in states and time.monotonic() < end:
        time.sleep(0.3)
    return now


def said(name: str) -> str:
    return str(run(["journalctl", "--no-pager", "--output=cat", f"_SYSTEMD_UNIT=stereos-agent-{name}.service"])["out"])


def until_said(name: str, words: str, times: int = 1, seconds: float = 90) -> bool:
    end = time.monotonic() + seconds
    while said(name).count(words) < times:
        if time.monotonic() > end:
            return False
        time.sleep(0.3)
    return True


def table(name: str, script: str, more: str = "") -> str:
    command = json.dumps(["bash", "-c", script])
    return f'[[agents]]\nname = "{name}"\nharness = "custom"\ncommand = {command}\n{more}\n'


def apply(*tables: str) -> None:
    shares = '[[shared]]\nguest = "/workspace"\n[[shared]]\nguest = "/reference"\nreadonly = true\n'
    CARD.write_text(shares + "".join(tables))
    control("reload")


def processes() -> list[str]:
    """Command lines of everything that is runsc's."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "runsc" in words or "sandbox-run" in words:
            found.append(f"{place.name} {words}")
    return found


def leaks() -> list[str]:
    """Where the key is while the agent that has it runs: files, command lines, the journal."""
    places = [path for path in ("/run", "/state", "/etc", "/tmp", "/dev/shm") if Path(path).is_dir()]
    argv = ["grep", "-rlsa", "--devices=skip", "-e", KEY, *places]
    inside = [f"/proc/{row.split()[0]}/root/run/sandbox" for row in processes() if "sandbox-run" in row]
    found = str(run([*argv, *inside])["out"]).splitlines()
    return found + [row for row in processes() if KEY in row]


def share(path: str, name: str, text: str) -> None:
    os.makedirs(path, exist_ok=True)  # noqa: PTH103
    run(["mount", "-t", "tmpfs", "share", path])
    Path(path, name).write_text(text)
    for each in (path, f"{path}/{name}"):
        shutil.chown(each, "agent", "agent")


def look() -> None:
    apply(table("looker", LOOK, 'secrets = ["TOKEN"]\nenv = { COLOUR = "b$l\\"ue" }'))
    FOUND["looker"] = until("looker", "exited", "failed", seconds=180)
    FOUND["said"] = said("looker")
    FOUND["result"] = {
        path: [Path(path).read_text(), Path(path).stat().st_uid]
        for path in ("/workspace/result", "/home/agent/workspace/from-sandbox")
        if Path(path).exists()
    }


def ends() -> None:
    killed = table("killed", "kill -SEGV $$")
    missing = table("missing", "exec no-such-program"), table("nowhere", "echo here", f'workdir = "{NOWHERE}"')
    apply(killed, *missing, table("patient", PATIENT, 'secrets = ["TOKEN"]'))
    until_said("patient", "up")
    FOUND["leaks"] = leaks()
    FOUND["security"] = run(["systemd-analyze", "security", "--no-pager", "stereos-agent-patient.service"])["out"]
    FOUND["killed"], FOUND["missing"] = until("killed", "failed"), until("missing", "failed")
    FOUND["nowhere"] = [until("nowhere", "failed", "exited"), said("nowhere"), Path(NOWHERE).exists()]
    control("agent", name="patient", action="restart")
    FOUND["restarted"] = until_said("patient", "got TERM") and until_said("patient", "up", 2)
    control("agent", name="patient", action="stop")
    FOUND["stopped"] = until("patient", "stopped", "failed", "exited")
    FOUND["patient said"] = said("patient")
    FOUND["left"] = [processes(), sorted(os.listdir("/run/sandbox"))]  # noqa: PTH208


def struck() -> None:
    apply(table("struck", PATIENT, 'restart = "on-failure"'))
    until_said("struck", "up")
    for number in (1, 2):
        for row in processes():
            if RUNSC in row and " run " in row:
                os.kill(int(row.split()[0]), 9)
        until_said("struck", "up", number + 1)
    FOUND["struck"], FOUND["struck runs"] = until("struck", "running"), processes()
    apply()
    end = time.monotonic() + 60
    while processes() and time.monotonic() < end:
        time.sleep(0.3)
    FOUND["in the end"] = processes()


def findings() -> dict[str, Any]:
    share("/workspace", "task", "the task")
    share("/reference", "fact", "a fact")
    Path("/run/stereos/secrets/TOKEN").write_text(KEY)
    end = time.monotonic() + 60
    while not Path("/run/stereos/agentd-control.sock").exists() and time.monotonic() < end:
        time.sleep(0.2)
    for part in (look, ends, struck):
        try:
            part()
        except Exception as error:  # whatever it is, the host must hear of it
            FOUND[f"{part.__name__} failed"] = f"{type(error).__name__}: {error}"
    FOUND["journal"] = run(["journalctl", "--no-pager", "--output=cat", "--lines=150"])["out"]
    return FOUND
