"""Runs inside a booted image, as root, and puts agentd through what an operator and hostile agents would.

It is put into the machine by makers/probe.py. It plays stereosd: it writes the jcard and the secrets and says `reload`.
It judges nothing: what ought to be is written in test_agents.py.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

CARD = Path("/etc/stereos/jcard.toml")
SECRETS = Path("/run/stereos/secrets")
KEY, OTHER = "sk-first-5f2a91", "sk-second-77ab03"
# Of systemd's messages (sd-messages.h): a unit has failed, and it will be started again.
FAILED, RESTART_SCHEDULED = "d9b373ed55a64feb8242e02dbe79a49c", "5eb03494b6584870a536b337290809b3"
FOUND: dict[str, Any] = {}

# Where a hostile agent would look for what belongs to another.
SEARCH = """
echo listing; ls /run/stereos /run/credentials /run/agentd 2>&1
for folder in /run/credentials /run/agentd /run/stereos /run/systemd /tmp /var/tmp /home /etc/stereos /dev/shm; do
    timeout 60 grep -rlsa --devices=skip -e "$NEEDLE" "$folder"
done
grep -lsa -e "$NEEDLE" /proc/[0-9]*/environ /proc/[0-9]*/cmdline
echo processes; ls -d /proc/[0-9]*
echo searched
"""


def run(argv: list[str], seconds: float = 120) -> dict[str, Any]:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=seconds, cwd="/")
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"status": -1, "out": "", "err": str(error)}
    return {"status": done.returncode, "out": done.stdout, "err": done.stderr}


def talk(path: str, said: bytes, seconds: float = 30) -> bytes:
    """What is answered on a socket until the other side has said all."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(seconds)
        channel.connect(path)
        channel.sendall(said)
        channel.shutdown(socket.SHUT_WR)
        answer = b""
        while data := channel.recv(1 << 16):
            answer += data
    return answer


def http(path: str) -> Any:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    head, _, body = talk("/run/stereos/agentd.sock", request).partition(b"\r\n\r\n")
    return {"status": int(head.split()[1]), "body": json.loads(body)}


def control(kind: str, **payload: Any) -> list[dict[str, Any]]:
    """Every line that agentd says on its control socket around one request."""
    line = json.dumps({"type": kind, "id": 7, "payload": payload}).encode() + b"\n"
    return [json.loads(row) for row in talk("/run/stereos/agentd-control.sock", line).splitlines()]


def agents() -> dict[str, Any]:
    for _ in range(100):
        try:
            return {entry["name"]: entry for entry in http("/v1/agents")["body"]}
        except OSError:
            time.sleep(0.3)  # it is being restarted
    return {}


def until(test: Any, seconds: float = 90) -> dict[str, Any]:
    """The agents as soon as `test` of them is true, or as they are when that takes too long."""
    end = time.monotonic() + seconds
    while True:
        now = agents()
        try:
            if test(now) or time.monotonic() > end:
                return now
        except KeyError:
            if time.monotonic() > end:
                return now
        time.sleep(0.3)


def settled(*names: str, seconds: float = 90) -> dict[str, Any]:
    """The agents once all of `names` have come to their end."""
    return until(lambda now: all(now[name]["state"] in ("exited", "failed", "stopped") for name in names), seconds)


def in_state(state: str, *names: str, seconds: float = 90) -> dict[str, Any]:
    return until(lambda now: all(now[name]["state"] == state for name in names), seconds)


def apply(text: str) -> None:
    CARD.write_text(text)
    control("reload")


def secret(name: str, value: str) -> None:
    (SECRETS / name).write_text(value)


def shell(name: str, script: str, more: str = "") -> str:
    """The table of a native agent that runs a shell script."""
    command = json.dumps(["bash", "-c", script])
    return f'[[agents]]\nname = "{name}"\ntype = "native"\nharness = "custom"\ncommand = {command}\n{more}\n'


def said(name: str) -> str:
    argv = ["journalctl", "--no-pager", "--output=cat", f"_SYSTEMD_UNIT=stereos-agent-{name}.service"]
    return str(run(argv)["out"])


def pid(name: str) -> str:
    argv = ["systemctl", "show", "--value", "--property=MainPID", f"stereos-agent-{name}.service"]
    return str(run(argv)["out"]).strip()


def daemon(word: str = "MainPID") -> str:
    return str(run(["systemctl", "show", "--value", f"--property={word}", "agentd.service"])["out"]).strip()


# --- what is tried ---


def idle() -> None:
    """agentd without a jcard, and how much it takes."""
    until(lambda now: True)
    FOUND["idle"] = {"agents": http("/v1/agents"), "health": http("/v1/health")}
    FOUND["memory"] = Path(f"/proc/{daemon()}/status").read_text()
    FOUND["unit"] = run(["systemctl", "show", "--property=ActiveState,SubState,NRestarts", "agentd.service"])["out"]


def ends() -> None:
    """Every way to end, and every way not to begin."""
    odd = "100% of $HOME `id` \\ \"quoted\" 'x' \t\u00e9\nsecond line -- end"
    apply(
        shell(
            "good", "echo fine; echo bad >&2; echo HOME=$HOME USER=$USER PATH=$PATH PWD=$PWD ODD=$ODD; id; umask"
        ).replace("command", f"env = {{ ODD = {json.dumps(odd)} }}\ncommand")
        + shell("seven", "exit 7")
        + shell("likely", "exit 137")
        + shell("killed", "kill -KILL $BASHPID")
        + shell("terminated", "kill -TERM $BASHPID")
        + f'[[agents]]\nname="odd"\ntype="native"\nharness="custom"\ncommand=["printf"]\nargs=["<%s>"]\n'
        f"prompt={json.dumps(odd)}\n"
        + '[[agents]]\nname="absent"\ntype="native"\nharness="custom"\ncommand=["no-such-program"]\nrestart="always"\n'
        + shell("nowhere", "true", 'workdir = "/no/such/folder"')
        + '[[agents]]\nname="speechless"\ntype="native"\nharness="custom"\ncommand=["true"]\nprompt_file="/no/prompt"\n'
    )
    names = ("good", "seven", "likely", "killed", "terminated", "odd", "absent", "nowhere", "speechless")
    FOUND["ends"] = settled(*names)
    FOUND["said"] = {name: said(name) for name in names}
    FOUND["failed units"] = run(["systemctl", "--failed", "--plain", "--no-legend"])["out"]
    FOUND["one"] = [http("/v1/agents/SEVEN"), http("/v1/agents/nobody")]


def systemd_said(message: str, name: str) -> list[int]:
    """When systemd said this of an agent's unit, in microseconds."""
    argv = ["journalctl", "--output=json", "--no-pager", f"MESSAGE_ID={message}", f"UNIT=stereos-agent-{name}.service"]
    return [int(json.loads(row)["__REALTIME_TIMESTAMP"]) for row in run(argv)["out"].splitlines()]


def restarts() -> None:
    apply(
        shell("thrice", "echo run; exit 3", 'restart = "on-failure"\nmax_restarts = 2')
        + shell("twice", "echo run", 'restart = "always"\nmax_restarts = 1')
        + shell("once", "echo run", 'restart = "on-failure"')
        + shell("ever", "echo run; exit 1", 'restart = "on-failure"')
    )
    FOUND["backoff"] = in_state("backoff", "ever")
    FOUND["restarts"] = settled("thrice", "twice", "once")
    FOUND["runs"] = {name: said(name).count("run\n") for name in ("thrice", "twice", "once")}
    FOUND["ever"] = until(lambda now: now["ever"]["restarts"] >= 3)["ever"]
    moments = {message: systemd_said(message, "ever") for message in (FAILED, RESTART_SCHEDULED)}
    FOUND["waits"] = [b - a for a, b in zip(moments[FAILED], moments[RESTART_SCHEDULED], strict=False)]


def limits() -> None:
    apply(
        shell("late", "trap 'echo asked' TERM; while :; do sleep 0.2; done", 'timeout="3s"\ngrace_period="1s"')
        + shell("polite", "trap 'echo bye; exit 0' TERM; while :; do sleep 0.2; done", 'timeout="3s"\nrestart="always"')
        + '[[agents]]\nname="greedy"\ntype="native"\nharness="custom"\ncommand=["tail","/dev/zero"]\nmemory="64MiB"\n'
        + shell("survivor", "tail /dev/zero; echo went on after $?", 'memory = "64MiB"')
        + shell("crowd", "for i in {1..60}; do sleep 100 & done; wait", "pid_limit = 20")
    )
    FOUND["limits"] = settled("late", "polite", "greedy", "survivor", "crowd", seconds=150)
    FOUND["limits said"] = {name: said(name) for name in ("late", "polite", "survivor", "crowd")}


def secrets() -> None:
    """An agent holds a secret; another one looks for it everywhere."""
    secret("FIRST", KEY + "\n")
    secret("SECOND", OTHER)
    holder = "echo length ${#FIRST} other ${#SECOND}; cat $CREDENTIALS_DIRECTORY/FIRST | wc -c; sleep 1000"
    apply(
        shell("holder", holder, 'secrets = ["FIRST"]')
        + shell("patient", "echo got $THIRD", 'secrets = ["THIRD"]')
        + shell("thief", "sleep 3;" + SEARCH, 'secrets = ["SECOND"]\nenv = { NEEDLE = "5f2a9[1]" }')
    )
    FOUND["waiting"] = in_state("waiting", "patient")
    FOUND["theft"] = settled("thief", seconds=240)
    FOUND["thief"], FOUND["holder"] = said("thief"), said("holder")
    before = pid("holder")
    secret("THIRD", "third")
    control("reload")
    FOUND["patient"] = [settled("patient")["patient"], said("patient")]
    secret("FIRST", KEY + "\n")  # the same value
    control("reload")
    time.sleep(2)
    FOUND["holder kept"] = [before, pid("holder")]
    secret("FIRST", "another")
    control("reload")
    until(lambda now: pid("holder") not in (before, "0"))
    FOUND["holder changed"] = [before, pid("holder")]
    (SECRETS / "FIRST").unlink()
    control("reload")
    FOUND["revoked"] = in_state("waiting", "holder")["holder"]
    secret("FIRST", KEY)
    everywhere = ["journalctl", "--no-pager", "--output=export"]
    FOUND["journal has key"] = KEY in run(everywhere)["out"]
    texts = [path.read_text() for path in Path("/run/systemd/system").glob("stereos-agent-*")]
    FOUND["unit has key"] = any(KEY in text for text in texts)
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    FOUND["command line has key"] = any(KEY.encode() in line for line in lines)


def reloads() -> None:
    """Changes touch what changed; what cannot be used touches nothing; the dead daemon is not missed."""
    three = {name: shell(name, "sleep 1000") for name in ("one", "two", "three")}
    apply("".join(three.values()) + shell("done", "exit 4"))
    in_state("running", *three)
    settled("done")
    first = {name: pid(name) for name in three}
    apply(three["one"] + shell("two", "sleep 1001") + shell("four", "sleep 1000") + shell("done", "exit 4"))
    FOUND["reloaded"] = until(lambda now: "three" not in now and now["four"]["state"] == "running" and now["two"])
    until(lambda now: pid("two") not in ("0", first["two"]))
    second = {name: pid(name) for name in ("one", "two", "four")}
    FOUND["pids"] = [first, second]
    FOUND["three gone"] = run(["systemctl", "show", "--property=LoadState,ActiveState", "stereos-agent-three.service"])
    CARD.write_text('[[agents]]\nharness = "nonsense"\ntype = "native"\n')
    FOUND["refused"] = control("reload")
    time.sleep(2)
    FOUND["after refusal"] = [{name: pid(name) for name in second}, http("/v1/health")["body"], agents()]
    os.kill(int(daemon()), 9)
    run(["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "stereos-agent-four.service"])
    now = until(lambda now: now["four"]["state"] == "failed")
    FOUND["after kill"] = [{name: pid(name) for name in ("one", "two")}, now, daemon("NRestarts")]
    apply(three["one"] + shell("done", "exit 4"))
    FOUND["taken up"] = [until(lambda now: "two" not in now and "four" not in now), pid("one")]


def operator() -> None:
    apply(
        shell("worker", "trap 'echo woken' USR1; while :; do sleep 0.2; done", 'restart = "always"')
        + '[[agents]]\nname="team"\ntype="native"\nharness="custom"\ncommand=["sleep","1000"]\nreplicas=3\n'
    )
    FOUND["replicas"] = in_state("running", "worker", "team-0", "team-1", "team-2")
    first = pid("worker")
    FOUND["signal"] = control("agent", name="worker", action="signal", signal="USR1")
    time.sleep(1.5)
    FOUND["signalled"] = said("worker")
    FOUND["stop"] = control("agent", name="worker", action="stop")
    FOUND["stopped"] = in_state("stopped", "worker")["worker"]
    control("reload")
    time.sleep(1.5)
    FOUND["stays stopped"] = agents()["worker"]
    FOUND["start"] = control("agent", name="worker", action="start")
    FOUND["started"] = [in_state("running", "worker")["worker"], first, pid("worker")]
    control("agent", name="worker", action="restart")
    FOUND["restarted"] = [until(lambda now: pid("worker") not in ("0", FOUND["started"][2])), pid("worker")]
    FOUND["wrong"] = [
        control("agent", name="nobody", action="stop"),
        control("agent", name="worker", action="dance"),
        control("agent", name="worker", action="signal", signal="STOP"),
    ]


class Person:
    """Somebody at a terminal, as user agent, who attaches to an agent."""

    def __init__(self, name: str) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.setgroups([])
            os.setgid(1000)
            os.setuid(1000)
            variables = {"TERM": "xterm", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "HOME": "/home/agent"}
            os.execve("/usr/lib/stereos/agent-attach", ["agent-attach", name], variables)
        fcntl.fcntl(self.terminal, fcntl.F_SETFL, os.O_NONBLOCK)
        self.seen = b""

    def see(self, wanted: bytes, seconds: float = 30) -> bool:
        end = time.monotonic() + seconds
        while wanted not in self.seen and time.monotonic() < end:
            try:
                self.seen += os.read(self.terminal, 1 << 16)
            except BlockingIOError:
                time.sleep(0.1)
            except OSError:
                break
        return wanted in self.seen

    def type(self, text: bytes) -> None:
        os.write(self.terminal, text)

    def left(self, seconds: float = 30) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return True
            self.see(b"never", 0.2)
        return False


def terminals() -> None:
    """An interactive agent is joined, left, joined again and ended."""
    ask = "echo ready for you; tty; read line; echo heard $line; sleep 1; exit 5"
    spy = 'ls -a /run/agentd /run/agentd/*; for s in /run/agentd/*/tmux; do tmux -S "$s" ls && echo reached $s; done'
    apply(
        shell("typist", ask, 'session = "typist"')
        + shell("ended", "echo off", 'session = "ended"')
        + shell("hung", "trap 'echo told; exit 9' TERM; echo up; while :; do sleep 0.2; done", 'session = "hung"')
        + shell("spy", "sleep 8; " + spy)
    )
    FOUND["terminals"] = in_state("running", "typist", "hung")
    socket_path = Path("/run/agentd/typist/tmux")
    until(lambda now: socket_path.exists(), 30)
    first = Person("typist")
    FOUND["seen"] = [first.see(b"ready for you"), first.seen.decode(errors="replace")]
    first.type(b"\x02d")
    FOUND["left"] = [first.left(), agents()["typist"]]
    second = Person("typist")
    FOUND["again"] = second.see(b"ready for you")
    second.type(b"hello there\r")
    FOUND["heard"] = second.see(b"heard hello there")
    FOUND["typed"] = [settled("typist", "ended", "spy"), second.left(), said("typist"), said("ended"), said("spy")]
    control("agent", name="hung", action="stop")
    FOUND["hung"] = [in_state("stopped", "hung")["hung"], said("hung")]
    FOUND["left over"] = run(["pgrep", "-lf", "tmux"])["out"]


def findings() -> dict[str, Any]:
    FOUND["seconds"] = {}
    for part in (idle, ends, restarts, limits, secrets, reloads, operator, terminals):
        began = time.monotonic()
        try:
            part()
        except Exception as error:  # the others are worth hearing of all the same
            FOUND[f"{part.__name__} failed"] = f"{type(error).__name__}: {error}"
        FOUND["seconds"][part.__name__] = round(time.monotonic() - began, 1)
    FOUND["log"] = run(["journalctl", "--no-pager", "--unit=agentd.service", "--lines=60"])["out"]
    FOUND["warnings"] = run(["journalctl", "--no-pager", "--priority=warning", "--lines=80", "--output=short"])["out"]
    FOUND["memory at the end"] = Path(f"/proc/{daemon()}/status").read_text()
    return FOUND
