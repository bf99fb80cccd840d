"""The rows of a running sandbox: made by the command line, measured beside OpenSSH in one guest, and under abuse."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any, TypeVar
from unittest.mock import patch

from ci.benchmark.boots import by_turns
from ci.benchmark.figures import Figure

from stereo.dists import dist_in
from stereo.errors import StereoError
from stereo.paths import Cache
from stereo.report import Report, Silent
from stereo.runner import need_programs
from stereo.sandbox.client import connected
from stereo.vm.boot import Booted, BootFiles, Form, make_spec, running
from stereo.vm.control import Control
from stereo.vm.machine import Accelerator
from stereo.vm.qemu import QemuBackend
from stereos_guest import frames, protocol
from stereos_guest.protocol import LineReader, ProtocolError

T = TypeVar("T")
Pair = tuple[Figure, Figure | None]

NAME = "bench"
_STEREO = (sys.executable, "-P", "-s", "-m", "stereo")
_TRIES, _STARTS, _COPIES = 7, 3, 3
_COPY_BYTES = 100_000_000
_CLIENTS, _PINGS = 50, 10_000
_PARSED, _SENT = 1_000_000, 100_000
_SEEDS = (
    b'{"type":"ping"}',
    b'{"type":"exec","id":7,"payload":{"argv":["true"],"user":"agent"}}',
    b'{"type":"inject_secret","payload":{"name":"K","value":"v","mode":384}}',
    b'{"type":"mount","payload":{"tag":"t","guest_path":"/mnt","fs_type":"virtiofs"}}',
    b'{"type":"hello","id":1,"payload":{"version":1,"features":["id"]}}',
    b"\x017/i some raw data",
)


@dataclass
class Desk:
    """Verbs on the benchmark's sandbox, whose state and jcard are in a folder of their own."""

    dist: Path
    folder: Path
    report: Report

    def __post_init__(self) -> None:
        import stereo
        import stereos_guest

        packages = {str(Path(str(module.__file__)).parents[1]) for module in (stereo, stereos_guest)}
        self.state = str(self.folder / "state")
        self.environment = {**os.environ, "XDG_STATE_HOME": self.state, "PYTHONPATH": ":".join(sorted(packages))}
        jcard = f'mixtape = "{self.dist}"\nname = "{NAME}"\n\n[network]\nmode = "nat"\n'
        (self.folder / "jcard.toml").write_text(jcard)

    def run(self, *argv: str | Path) -> tuple[float, str]:
        """Seconds that a program takes, and what it prints. Raises StereoError if it fails."""
        began = time.monotonic()
        done = subprocess.run(
            [str(word) for word in argv],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        took = time.monotonic() - began
        if done.returncode:
            raise StereoError(f"{Path(argv[0]).name} ended with status {done.returncode}: {done.stderr[-1000:]}")
        return took, done.stdout

    def stereo(self, *words: str | Path) -> float:
        """Seconds that a verb takes, the start of its interpreter included."""
        return self.run(*_STEREO, *words)[0]

    def openssh(self, program: str, *words: str | Path) -> Callable[[], float]:
        """Runs ssh or scp to the sandbox, as admin, and tells the seconds."""
        config = self.folder / "ssh_config"
        config.write_text(self.run(*_STEREO, "ssh", "--config")[1])
        return lambda: self.run(program, "-F", config, *words)[0]

    def ask(self, act: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine that talks to the sandbox."""
        with patch.dict(os.environ, {"XDG_STATE_HOME": self.state}):
            return asyncio.run(act())


@contextmanager
def _desk(dist: Path, report: Report) -> Iterator[Desk]:
    with tempfile.TemporaryDirectory(prefix="stereo-bench-") as name:
        desk = Desk(dist, Path(name), report)
        try:
            yield desk
        finally:
            if Path(desk.state, "stereo/sandboxes", NAME).exists():
                desk.stereo("destroy", NAME, "--yes", "--force")


def measured(dist: Path, wanted: frozenset[str], report: Report) -> dict[str, Pair]:
    """Figures for the `wanted` rows, by their names."""
    found: dict[str, Pair] = {}
    with _desk(dist, report) as desk:
        for name, (doing, measure) in MEASURES.items():
            if name in wanted:
                if name not in _WITHOUT and not Path(desk.state).exists():
                    desk.stereo("up")
                with report.step(doing):
                    found[name] = measure(desk)
    return found


def _first_command(desk: Desk) -> Pair:
    """From the start of `stereo up` until a command inside has ended, against QEMU's start to `ready`."""

    def start() -> float:
        took = desk.stereo("up") + desk.stereo("exec", "true")
        desk.stereo("destroy", NAME, "--yes", "--force")
        return took

    def boot() -> float:
        words = ("boot", desk.dist, "--with", "kernel", "--json")
        return float(json.loads(desk.run(*_STEREO, *words)[1])["total_seconds"])

    pair = by_turns(start, boot, _STARTS)
    for folder in sorted(Path(desk.state).rglob("*"), reverse=True):
        folder.rmdir()
    Path(desk.state).rmdir()
    return pair


def _daemons(desk: Desk) -> Pair:
    time.sleep(10)  # idle
    processes = "pgrep -f '^/usr/bin/python3 .*/usr/lib/stereos/(stereosd|agentd)'"
    script = f"for pid in $({processes}); do grep VmRSS /proc/$pid/status; done"
    lines = desk.run(*_STEREO, "exec", "-u", "root", "sh", "-c", script)[1].splitlines()
    if len(lines) != 2:
        raise StereoError(f"there are {len(lines)} daemons in the guest, not 2")
    return Figure((sum(int(line.split()[1]) * 1024 for line in lines),), "B"), None


def _exec(desk: Desk) -> Pair:
    return by_turns(lambda: desk.stereo("exec", "true"), desk.openssh("ssh", f"stereo-{NAME}", "true"), _TRIES)


def _copy_in(desk: Desk) -> Pair:
    file = desk.folder / "big"
    file.write_bytes(random.Random(0).randbytes(_COPY_BYTES))
    scp = desk.openssh("scp", "-q", file, f"stereo-{NAME}:big")
    return by_turns(lambda: desk.stereo("cp", "-u", "admin", file, ":big"), scp, _COPIES)


def _copy_out(desk: Desk) -> Pair:
    make = f"head -c {_COPY_BYTES} /dev/urandom >/home/admin/out"
    desk.stereo("exec", "-u", "admin", "sh", "-c", make)
    target = desk.folder / "out"
    scp = desk.openssh("scp", "-q", f"stereo-{NAME}:out", target)
    return by_turns(lambda: desk.stereo("cp", "-u", "admin", ":out", target), scp, _COPIES)


def _pings(desk: Desk) -> Pair:
    """The 99th percentile of many clients' pings, against their median."""

    async def client(times: list[float]) -> None:
        async with connected(NAME) as control:
            for _ in range(_PINGS // _CLIENTS):
                began = time.monotonic()
                await control.ping(60)
                times.append(time.monotonic() - began)

    async def everybody() -> list[float]:
        times: list[float] = []
        await asyncio.gather(*(client(times) for _ in range(_CLIENTS)))
        return times

    cuts = quantiles(desk.ask(everybody), n=100)
    return Figure((cuts[98],), "s"), Figure((cuts[49],), "s")


def _parser(desk: Desk) -> Pair:
    """How many bytes of memory a million broken lines leave behind in the parser's process."""
    chance, reader = random.Random(0), LineReader()

    def parse(count: int) -> None:
        for _ in range(count):
            for line in reader.feed(_broken(chance) + b"\n"):
                try:
                    if line is not None:
                        frames.decode(line)
                except ProtocolError:
                    continue

    parse(_PARSED // 10)  # what it keeps anyway
    before = _resident(os.getpid())
    parse(_PARSED)
    return Figure((max(0, _resident(os.getpid()) - before),), "B"), None


def _live(desk: Desk) -> Pair:
    """How many bytes the daemon in a machine has grown by after so many broken lines; it must still answer."""
    cache = Cache.from_environment()
    arch = dist_in(desk.dist).arch
    backend = QemuBackend(need_programs(cache, desk.report, arch), cache.work)
    spec = make_spec(BootFiles.in_folder(desk.dist), Form.KERNEL, arch, Accelerator.TCG)

    async def abuse() -> float:
        async with running(backend, spec, Silent()) as machine:
            control, chance = machine.control, random.Random(0)
            await control.hello()
            await _send_broken(machine, chance, _SENT // 10)  # what it keeps anyway
            before = await _daemon_memory(control)
            await _send_broken(machine, chance, _SENT)
            return max(0.0, await _daemon_memory(control) - before)

    return Figure((asyncio.run(abuse()),), "B"), None


async def _send_broken(machine: Booted, chance: random.Random, count: int) -> None:
    writer = machine.machine.control.writer
    for done in range(0, count, 100):
        writer.write(b"".join(_broken(chance) + b"\n" for _ in range(min(100, count - done))))
        await writer.drain()
    await machine.control.ping(1800)  # it answers in turn


async def _daemon_memory(control: Control) -> float:
    """Bytes that stereosd holds."""
    request = {"argv": ["/bin/sh", "-c", "grep VmRSS /proc/$PPID/status"], "user": "root"}
    said = b""
    async with await control.open_stream(protocol.EXEC, request) as stream:
        while piece := await stream.read():
            said += piece[1]
    return float(said.split()[1]) * 1024


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def _broken(chance: random.Random) -> bytes:
    """A line of noise, or a good one with some bytes changed, cut or doubled."""
    if chance.random() < 0.2:
        return chance.randbytes(chance.randrange(200)).replace(b"\n", b"")
    line = bytearray(chance.choice(_SEEDS))
    for _ in range(chance.randrange(4)):
        place = chance.randrange(len(line) + 1)
        match chance.randrange(3):
            case 0:
                line[place : place + 1] = chance.randbytes(1)
            case 1:
                del line[place : place + chance.randrange(6)]
            case _:
                line[place:place] = line[: chance.randrange(20)]
    return bytes(line).replace(b"\n", b"")


MEASURES: dict[str, tuple[str, Callable[[Desk], Pair]]] = {
    "first-command": ("Starting a sandbox, and booting without one", _first_command),
    "daemons": ("Looking at the daemons' memory", _daemons),
    "exec": ("Running `true` by exec and by ssh", _exec),
    "copy-in": ("Copying 100 MB in, by cp and by scp", _copy_in),
    "copy-out": ("Copying 100 MB out, by cp and by scp", _copy_out),
    "pings": (f"Sending {_PINGS} pings from {_CLIENTS} clients", _pings),
    "fuzz-parser": (f"Parsing {_PARSED} broken lines", _parser),
    "fuzz-live": (f"Sending {_SENT} broken lines to a live daemon", _live),
}
_WITHOUT = ("first-command", "fuzz-parser", "fuzz-live")
