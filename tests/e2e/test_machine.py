"""What a machine can reach of its host, and what its host sees of it: networks, shares, credentials, privileges."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from makers.given import assert_for_root_alone, given
from makers.processes import Process, alive, descendants, settled
from makers.shell import RootShell, machine_with_shell
from stereo.errors import StereoError
from stereo.paths import Cache
from stereo.report import Silent
from stereo.vm.accel import choose
from stereo.vm.boot import BootFiles, Form, make_spec
from stereo.vm.machine import Forward, Gated, MachineSpec, Nat, Share
from stereo.vm.programs import Programs
from stereo.vm.qemu import QemuBackend

pytestmark = [pytest.mark.boot, pytest.mark.build]

Visit = Callable[[RootShell], Awaitable[dict[str, Any]]]

CONNECT = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as s: print(s.recv(20).decode())
except OSError as error: print("no:", error)
"""
# A frame of our own making, past the guest's routes: a SYN to 127.0.0.1 of whoever takes it from the wire.
FORGE = """
import socket, struct, sys, time
def check(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
source, target, port = socket.inet_aton("10.0.2.15"), socket.inet_aton(sys.argv[1]), int(sys.argv[2])
tcp = struct.pack("!HHIIBBHHH", 40001, port, 7, 0, 80, 2, 64000, 0, 0)
tcp = tcp[:16] + struct.pack("!H", check(source + target + struct.pack("!HH", 6, 20) + tcp)) + tcp[18:]
ip = struct.pack("!BBHHHBBH4s4s", 69, 0, 40, 1, 0, 64, 6, 0, source, target)
ip = ip[:10] + struct.pack("!H", check(ip)) + ip[12:]
name = [n for _, n in socket.if_nameindex() if n != "lo"][0]
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((name, 0))
mac = bytes.fromhex(open(f"/sys/class/net/{name}/address").read().strip().replace(":", ""))
for line in open("/proc/net/arp").read().splitlines()[1:]:
    if line.split()[0] == "10.0.2.2": gateway = bytes.fromhex(line.split()[3].replace(":", ""))
wire.send(gateway + mac + b"\\x08\\x00" + ip + tcp)
time.sleep(2)
"""
SERVE = """
import socket
with socket.create_server(("0.0.0.0", 7777)) as s:
    while True:
        c, _ = s.accept(); c.sendall(b"from inside"); c.close()
"""


def python(program: str, *words: object) -> str:
    return shlex.join(["python3", "-c", program, *map(str, words)])


@contextmanager
def listener(address: str, answer: bytes = b"reached") -> Iterator[tuple[int, list[str]]]:
    """A server on an own port; the list tells who came."""
    came: list[str] = []
    with socket.create_server((address, 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, (peer, *_) = server.accept()
                    came.append(peer)
                    with client, suppress(OSError):
                        client.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)


def own_address() -> str | None:
    """This host's address towards the world; nothing is sent for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        found = str(probe.getsockname()[0])
    return None if found.startswith("127.") else found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def answer_of(port: int, seconds: float = 30) -> str:
    """What is said by whoever listens on the host's loopback."""
    end = time.monotonic() + seconds
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            said = (await reader.read(100)).decode()
            writer.close()
            if said or time.monotonic() > end:
                return said
        if time.monotonic() > end:
            return ""
        await asyncio.sleep(0.3)


@pytest.fixture(scope="module")
def spec(dist: Path, tools_tree: Path, cache: Cache) -> MachineSpec:
    programs = Programs.find(tools_tree)
    accelerator = choose(programs, cache.probe, Silent())
    return make_spec(BootFiles.in_folder(dist), Form.KERNEL, programs.arch, accelerator)


@pytest.fixture(scope="module")
def visit(
    tools_tree: Path, tell: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[MachineSpec, Visit, str], dict[str, Any]]:
    """Boots a machine, and has a look at it."""

    def look(spec: MachineSpec, inside: Visit, why: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("machine")

        async def run() -> dict[str, Any]:
            backend = QemuBackend(Programs.find(tools_tree), folder / "scratch")
            async with machine_with_shell(backend, spec, folder) as shell:
                return await inside(shell)

        tell(f"booting: {why}")
        return asyncio.run(run())

    return look


def qemu_of(those: list[Process]) -> Process:
    return next(one for one in those if b"-nodefaults" in Path(f"/proc/{one.pid}/cmdline").read_bytes())


def privileges(pid: int) -> dict[str, Any]:
    """What the kernel says of a process, and the interfaces of its network namespace."""
    rows = dict(line.partition(":")[::2] for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    found: dict[str, Any] = {name: value.split() for name, value in rows.items()}
    found["interfaces"] = [
        line.partition(":")[0].strip() for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    ]
    found["cmdline"] = Path(f"/proc/{pid}/cmdline").read_text()
    with suppress(PermissionError):  # an ordinary user may not look
        found["root"] = {path.name for path in Path(f"/proc/{pid}/root").iterdir()}
        found["devices"] = {path.name for path in Path(f"/proc/{pid}/root/dev").iterdir()}
    return found


@pytest.fixture(scope="module")
def nat(
    visit: Callable[[MachineSpec, Visit, str], dict[str, Any]],
    spec: MachineSpec,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What was found in and around a machine behind NAT with shares and a credential."""
    folder = tmp_path_factory.mktemp("shared")
    data, fixed, gone, outside = (folder / name for name in ("data, with=a comma", "fixed", "gone", "outside"))
    for each in (data, fixed, gone, outside):
        each.mkdir()
        (each / "file").write_text(f"in {each.name}")
    (outside / "file").write_text("nobody inside may read this")
    (data / "absolute").symlink_to(outside / "file")
    (data / "climbing").symlink_to("../outside/file")
    (data / "passwd").symlink_to("/etc/passwd")
    port = free_port()
    machine = replace(
        spec,
        network=Nat((Forward(port, 7777),)),
        shares=(Share("data", data), Share("fixed", fixed, read_only=True), Share("gone", gone)),
        credentials={"stereo.test": "a value, with=commas"},
    )

    async def look(shell: RootShell) -> dict[str, Any]:
        found: dict[str, Any] = {"folder": data, "port": port}

        async def ask(name: str, command: str) -> None:
            found[name] = (await shell(command, status=None)).strip()

        started = descendants(os.getpid())
        found["processes"] = started
        found["qemu"] = privileges(qemu_of(started).pid)
        await ask("credential", "cat /run/credentials/@system/stereo.test")
        await shell("mkdir -p /mnt/a /mnt/b /mnt/c; for _ in a; do mount -t virtiofs data /mnt/a; done")
        await shell("mount -t virtiofs fixed /mnt/b; mount -t virtiofs gone /mnt/c")
        await ask("seen", "stat -c %u:%g /mnt/a /mnt/a/file")
        agent = "setpriv --reuid=1000 --regid=1000 --clear-groups sh -ec"
        await ask(
            "agent", f"{agent} 'cd /mnt/a; cat file; echo from the agent >agents; mkdir folder; stat -c %u agents'"
        )
        await ask(
            "root", "cd /mnt/a; echo from root >roots; chown 4242:4242 roots; stat -c %u:%g roots; chmod 600 roots"
        )
        for name, command in {
            "setuid": "cp /usr/bin/true s; chmod 4755 s",
            "setgid": "cp /usr/bin/true g; chmod 2755 g",
            "setuid at once": "python3 -c 'import os; os.open(\"o\", os.O_CREAT | os.O_WRONLY, 0o4777)'",
            "device": "mknod device b 254 0",
            "capability": "cp /usr/bin/true c; python3 -c 'import os; "
            'os.setxattr("c", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))\'',
            "absolute": "cat absolute",
            "climbing": "cat climbing",
        }.items():
            await ask(name, f"cd /mnt/a && {command} && echo done")
        await ask("passwd", "cmp /mnt/a/passwd /etc/passwd && echo same")
        await ask(
            "read-only", "cat /mnt/b/file; echo x >/mnt/b/file; rm /mnt/b/file; chmod 777 /mnt/b/file; mkdir /mnt/b/d"
        )
        await ask("read-only again", "mount -o remount,rw /mnt/b; echo x >/mnt/b/new && echo done")
        (gone / "file").unlink()
        gone.rmdir()
        await ask("gone", "cat /mnt/c/file; ls /mnt/c; echo x >/mnt/c/new; echo still here")

        await shell(
            "until grep -q ' 00000000' /proc/net/route || grep -q '0202000A' /proc/net/route; do sleep 0.5; done"
        )
        await ask("address", "hostname -I || true")
        with listener("127.0.0.1") as (local, came):
            for name, address in {"gateway": "10.0.2.2", "loopback": "127.0.0.1", "resolver": "10.0.2.3"}.items():
                await ask(f"{name} to the host's loopback", python(CONNECT, address, local))
            await ask("forged", python(FORGE, "127.0.0.1", local))
            await ask("forged to the gateway", python(FORGE, "10.0.2.2", local))
            if own := own_address():
                await ask("the host's own address to its loopback", python(CONNECT, own, local))
            found["came to the loopback"] = came
        if own := own_address():
            with listener(own) as (public, came):
                await ask("the host's own address", python(CONNECT, own, public))
                await shell(python(FORGE, own, public))
                found["came to the own address"] = len(came)
        await shell("nft flush ruleset")
        await shell(f"{python(SERVE)} </dev/null >/dev/null 2>&1 &")
        found["forwarded"] = await answer_of(port)
        if own:
            with socket.socket() as other:
                found["forwarded on another address"] = other.connect_ex((own, port))
        victim = next(one for one in started if b"passt" in Path(f"/proc/{one.pid}/cmdline").read_bytes())
        os.kill(victim.pid, signal.SIGKILL)
        try:
            await asyncio.wait_for(shell.booted.machine.wait(), 10)
        except StereoError as error:
            found["death"] = str(error)
        return found

    found = visit(machine, look, "a machine behind NAT, with shares")
    found["left"] = [] if settled(lambda: alive(found["processes"]), seconds=2) else alive(found["processes"])
    return found


def test_qemu_is_nobody_and_alone(nat: dict[str, Any]) -> None:
    qemu = nat["qemu"]
    assert "0" not in qemu["Uid"]
    assert "0" not in qemu["Gid"]
    assert (qemu["CapEff"], qemu["CapPrm"], qemu["NoNewPrivs"], qemu["Seccomp"]) == (
        ["0" * 16],
        ["0" * 16],
        ["1"],
        ["2"],
    )
    assert qemu["interfaces"] == ["lo"]
    assert qemu.get("root", set()).isdisjoint({"etc", "proc", "sys", "run", "var"})
    assert qemu.get("devices", set()) <= {"null", "kvm"}


def test_by_firmware_credentials_arrive_for_root_alone(
    dist: Path, spec: MachineSpec, tools_tree: Path, tell: Callable[[str], None], tmp_path: Path
) -> None:
    tell("booting: a machine by UEFI, with credentials")
    assert_for_root_alone(given(replace(spec, kernel=None), QemuBackend(Programs.find(tools_tree), tmp_path)))


def test_a_credential_reaches_the_guest_and_no_command_line(nat: dict[str, Any]) -> None:
    assert nat["credential"] == "a value, with=commas"
    assert "commas" not in nat["qemu"]["cmdline"]


def test_files_are_the_agents_inside_and_the_callers_outside(nat: dict[str, Any]) -> None:
    folder = nat["folder"]
    assert nat["seen"].split() == ["1000:1000"] * 2
    assert nat["agent"].splitlines() == ["in data, with=a comma1000"] or nat["agent"].endswith("1000")
    assert nat["root"] == "1000:1000"
    for name in ("agents", "folder", "roots"):
        status = (folder / name).stat()
        assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
    assert (folder / "agents").read_text() == "from the agent\n"


@pytest.mark.parametrize("what", ["setuid", "setgid", "setuid at once", "device", "capability"])
def test_even_root_in_the_guest_leaves_nothing_dangerous_in_a_share(nat: dict[str, Any], what: str) -> None:
    assert "done" not in nat[what]
    for path in nat["folder"].iterdir():
        status = path.lstat()
        assert not status.st_mode & 0o6000
        assert stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)
        assert "security.capability" not in os.listxattr(path, follow_symlinks=False)


@pytest.mark.parametrize("link", ["absolute", "climbing"])
def test_a_link_out_of_a_share_leads_to_the_guests_own_files(nat: dict[str, Any], link: str) -> None:
    assert "No such file" in nat[link]
    assert nat["passwd"] == "same"


def test_the_host_keeps_a_read_only_share_as_it_is(nat: dict[str, Any]) -> None:
    folder = nat["folder"].parent / "fixed"
    assert nat["read-only"].startswith("in fixed")
    assert "done" not in nat["read-only again"]
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_text() == "in fixed"


def test_a_share_whose_folder_is_gone_gives_errors(nat: dict[str, Any]) -> None:
    assert nat["gone"].endswith("still here")
    assert "No such file" in nat["gone"]


def test_the_hosts_loopback_is_out_of_reach_behind_nat(nat: dict[str, Any]) -> None:
    assert nat["came to the loopback"] == []
    assert [name for name in nat if "loopback" in name and str(nat[name]).startswith("reached")] == []


def test_what_the_host_reaches_is_reached_behind_nat(nat: dict[str, Any]) -> None:
    if "the host's own address" not in nat:
        pytest.skip("this host has no address but its loopback")
    assert nat["the host's own address"] == "reached"
    assert nat["came to the own address"] == 2, "forged frames arrive, where they may"


def test_a_forwarded_port_is_open_on_loopback_alone(nat: dict[str, Any]) -> None:
    assert nat["forwarded"] == "from inside"
    assert nat.get("forwarded on another address") != 0


def test_the_death_of_passt_is_told(nat: dict[str, Any]) -> None:
    assert "passt, which serves the network, was killed by signal 9" in nat["death"]


def test_nothing_of_a_machine_is_left(nat: dict[str, Any]) -> None:
    assert nat["left"] == []


@pytest.fixture(scope="module")
def gated(visit: Callable[[MachineSpec, Visit, str], dict[str, Any]], spec: MachineSpec) -> dict[str, Any]:
    """What was found in and around a gated machine."""

    async def look(shell: RootShell) -> dict[str, Any]:
        found: dict[str, Any] = {}

        async def ask(name: str, command: str) -> None:
            found[name] = (await shell(command, status=None)).strip()

        gate = shell.booted.machine.gate
        found["gate"] = sorted(gate)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"through the gate")
            await writer.drain()
            writer.close()

        gate["tcp", 3128].setblocking(False)
        proxy = await asyncio.start_server(serve, sock=gate["tcp", 3128])
        found["qemu"] = privileges(qemu_of(descendants(os.getpid())).pid)
        await shell("until grep -q 0202000A /proc/net/route; do sleep 0.5; done")
        with listener("127.0.0.1") as (local, came), listener("0.0.0.0") as (everywhere, came_too):
            await ask("proxy", python(CONNECT, "10.0.2.2", 3128))
            await ask("named port", python(CONNECT, "10.0.2.2", 8080))
            for address in ("10.0.2.2", "10.0.2.3", "127.0.0.1", "192.0.2.1", "1.1.1.1", own_address() or "10.0.2.4"):
                await ask(f"to {address}", python(CONNECT, address, local))
                await ask(f"to {address} again", python(CONNECT, address, everywhere))
            await ask("forged", python(FORGE, "127.0.0.1", local))
            await ask("IPv6", "cat /proc/net/if_inet6; " + python(CONNECT, "fec0::2", everywhere))
            found["came"] = [*came, *came_too]
        gate["udp", 53].setblocking(False)
        asking = asyncio.create_task(
            shell(
                python(
                    "import socket; s = socket.socket(2, 2); s.settimeout(9); s.sendto(b'who', ('10.0.2.2', 53)); "
                    "print(s.recv(9).decode())"
                )
            )
        )
        loop = asyncio.get_running_loop()
        data, peer = await asyncio.wait_for(loop.sock_recvfrom(gate["udp", 53], 100), 20)
        await loop.sock_sendto(gate["udp", 53], data + b" me", peer)
        found["datagram"] = (await asking).strip()
        proxy.close()
        return found

    return visit(replace(spec, network=Gated((8080,))), look, "a gated machine")


def test_the_death_of_virtiofsd_is_told(
    visit: Callable[[MachineSpec, Visit, str], dict[str, Any]], spec: MachineSpec, tmp_path: Path
) -> None:
    async def look(shell: RootShell) -> dict[str, Any]:
        started = descendants(os.getpid())
        for one in started:
            if b"virtiofsd" in Path(f"/proc/{one.pid}/cmdline").read_bytes():
                os.kill(one.pid, signal.SIGKILL)
        with pytest.raises(StereoError, match="virtiofsd, which serves the share data, was killed by signal 9"):
            await asyncio.wait_for(shell.booted.machine.wait(), 10)
        return {"interfaces": await shell("ls /sys/class/net")}

    found = visit(replace(spec, shares=(Share("data", tmp_path),)), look, "a machine without a network")
    assert found["interfaces"].split() == ["lo"]


_BRIDGE = """
mount -t sysfs sysfs /sys
ip link add br0 type bridge && ip link set br0 up && exec "$@"
"""
_ON_BRIDGE = """
import asyncio, socket, sys
from dataclasses import replace
from pathlib import Path
from stereo.vm.boot import BootFiles, Form, make_spec
from stereo.vm.machine import Accelerator, Bridged
from stereo.vm.programs import Programs
from stereo.vm.qemu import QemuBackend
dist, tree, folder = map(Path, sys.argv[1:4])
async def run():
    programs = Programs.find(tree)
    spec = make_spec(BootFiles.in_folder(dist), Form.KERNEL, programs.arch, Accelerator.TCG, network=Bridged("br0"))
    async with QemuBackend(programs, folder / "scratch").start(spec):
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as wire:
            wire.bind(("br0", 0))
            wire.settimeout(120)
            print(wire.recv(2000)[6:12].hex(":"))
asyncio.run(run())
print([name for _, name in socket.if_nameindex()])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a bridge to try")
def test_on_a_bridge_a_guest_is_heard_by_its_neighbours(dist: Path, tools_tree: Path, tmp_path: Path) -> None:
    inside = [sys.executable, "-c", _ON_BRIDGE, str(dist), str(tools_tree), str(tmp_path)]
    argv = ["unshare", "--net", "--mount", "sh", "-ec", _BRIDGE, "sh", *inside]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    address, left = done.stdout.splitlines()
    assert address.startswith("52:54:00:")
    assert left == "['lo', 'br0']"


def test_a_gated_guest_reaches_the_gate(gated: dict[str, Any]) -> None:
    assert gated["gate"] == [("tcp", 53), ("tcp", 3128), ("tcp", 8080), ("udp", 53)]
    assert gated["proxy"] == "through the gate"
    assert gated["datagram"] == "who me"


def test_a_gated_guest_reaches_nothing_else(gated: dict[str, Any]) -> None:
    assert gated["came"] == []
    assert [name for name, said in gated.items() if name.startswith("to ") and not said.startswith("no:")] == []
    assert gated["qemu"]["interfaces"] == ["lo"]


_PARENT = """
import asyncio, json, sys
from dataclasses import replace
from pathlib import Path
from stereo.vm.boot import BootFiles, Form, make_spec
from stereo.vm.machine import Accelerator, Nat, Share
from stereo.vm.programs import Programs
from stereo.vm.qemu import QemuBackend
dist, tree, folder = map(Path, sys.argv[1:4])
async def run():
    programs = Programs.find(tree)
    spec = make_spec(BootFiles.in_folder(dist), Form.KERNEL, programs.arch, Accelerator.TCG, network=Nat())
    spec = replace(spec, shares=(Share("data", folder),))
    async with QemuBackend(programs, folder / "scratch").start(spec):
        print("up", flush=True)
        await asyncio.sleep(60)
asyncio.run(run())
"""


def test_whoever_is_killed_takes_machine_and_helpers_along(dist: Path, tools_tree: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", _PARENT, str(dist), str(tools_tree), str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env={"PYTHONPATH": os.pathsep.join(sys.path)}) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"up\n"
        started = descendants(parent.pid)
        assert len(started) >= 3
        parent.kill()
    assert settled(lambda: alive(started), seconds=3), alive(started)
