"""Root in the guest tries to get out of a sandbox with `egress_allow`, by everything that egressprobe.py knows.

Judged twice: by what the guest saw, and by servers of ours on the host that must not have been reached.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from makers.command import Stereo
from makers.sandboxes import Desk, desk
from stereo.model.egress import normal_name

pytestmark = [pytest.mark.boot, pytest.mark.build]

PROBE = Path(__file__).with_name("egressprobe.py").read_text()
SMALL = '[resources]\nmemory = "1GiB"\ndisk = "2GiB"\n'
WAIT = """
import socket, sys
with socket.create_connection(("10.0.2.2", int(sys.argv[1]))) as s:
    print(s.recv(7).decode(), flush=True)
    try: print("closed" if s.recv(7) == b"" else "more")
    except ConnectionError: print("closed")
"""


class Server:
    """Listens on one port of the host, on each of some addresses, and counts who comes."""

    def __init__(self, *addresses: str, patient: bool = False) -> None:
        self.came: list[str] = []
        self.patient = patient  # keeps connections open
        self.kept: list[socket.socket] = []
        self.sockets = [socket.create_server((addresses[0], 0))]
        self.port = int(self.sockets[0].getsockname()[1])
        for address in addresses[1:]:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with suppress(OSError):  # no IPv6 here, or the first one is for all
                self.sockets.append(socket.create_server((address, self.port), family=family))
        for each in self.sockets:
            threading.Thread(target=self._serve, args=(each,), daemon=True).start()
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("0.0.0.0", 0))
        self.datagrams.setblocking(False)

    def _serve(self, server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, (peer, *_) = server.accept()
                self.came.append(str(peer))
                with suppress(OSError):
                    client.sendall(b"reached")
                    if not self.patient:
                        client.shutdown(socket.SHUT_WR)
                self.kept.append(client)

    def knocks(self) -> list[bytes]:
        """The datagrams that came."""
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(self.datagrams.recv(100))
        return found

    def close(self) -> None:
        for each in (*self.sockets, *self.kept, self.datagrams):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@contextmanager
def server(*addresses: str, patient: bool = False) -> Iterator[Server]:
    one = Server(*addresses, patient=patient)
    try:
        yield one
    finally:
        one.close()


def own_addresses() -> list[str]:
    """This host's address towards the world; nothing is sent for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return []
        found = str(probe.getsockname()[0])
    return [] if found.startswith("127.") else [found]


def own_names() -> list[str]:
    """A name that a rule may have, and that leads to this host: what an attacker's DNS would answer with."""
    name = socket.gethostname()
    if normal_name(name) is None or name == "localhost":
        return []
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return []
    return [name]


@dataclass
class Scene:
    """A gated sandbox after the probe ran in it."""

    desk: Desk
    open: Server
    shut: Server
    added: Server
    found: dict[str, Any]
    log: list[dict[str, Any]]
    came: list[str] = field(default_factory=list)
    knocks: list[bytes] = field(default_factory=list)


def probe(one: Desk, *parts: str, **job: Any) -> dict[str, Any]:
    job = {"allowed": 9, "own": [], "names": [], **job, "parts": parts}
    done = one("exec", "-u", "root", "/usr/bin/python3", "-c", PROBE, json.dumps(job), timeout=150)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def card(rules: list[str]) -> str:
    return f"{SMALL}[network]\negress_allow = {json.dumps(rules)}\n"


def rules_for(opened: Server) -> list[str]:
    return [
        f"host.stereo.internal:{opened.port}",
        *("198.51.100.0/24:443", "*.allowed.test:443", *own_names()),
    ]


@pytest.fixture(scope="module")
def scene(stereo: Stereo, base: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        opened = stack.enter_context(server("127.0.0.1", patient=True))
        shut = stack.enter_context(server("127.0.0.1", "::1"))
        added = stack.enter_context(server("127.0.0.1"))
        one = stack.enter_context(desk(stereo, base))
        one.write(card(rules_for(opened)))
        one("up", timeout=400)
        job = {"allowed": opened.port, "shut": shut.port, "own": own_addresses(), "names": own_names()}
        found = probe(one, **job, udp=shut.datagrams.getsockname()[1])
        log = one.lines("logs", "--egress", "--json")
        yield Scene(one, opened, shut, added, found, log, list(shut.came), shut.knocks())


def refused(scene: Scene, protocol: str) -> list[dict[str, Any]]:
    return [row for row in scene.log if row["verdict"] == "refused" and row["protocol"] == protocol]


def test_nothing_of_the_host_that_no_rule_names_was_reached(scene: Scene) -> None:
    assert (scene.came, scene.knocks) == ([], []), "counted on the host"
    assert "connected" not in json.dumps(scene.found["tcp"])


def test_what_the_rules_allow_was_reached(scene: Scene) -> None:
    assert scene.found["allowed"] == "connected: reached"
    assert scene.found["allowed by proxy"].endswith("\r\n\r\nreached")
    assert scene.found["interfaces"] == sorted(scene.found["interfaces"])
    assert len(scene.found["interfaces"]) == 2


def test_no_datagram_has_an_answer_but_from_the_gate(scene: Scene) -> None:
    answers = {place: words for place, words in scene.found["udp"].items() if words.startswith("answered")}
    # QEMU has a TFTP server built in. It has no folder, and says so: opcode 5, an error.
    assert all(words.startswith("answered: 0005") for words in answers.values()), answers
    assert {*answers} <= {"tftp"}


def test_the_proxy_takes_no_spelling_of_the_host_for_another(scene: Scene) -> None:
    passed = {target: words for target, words in scene.found["proxy"].items() if words.split(" ")[1:2] == ["200"]}
    assert passed == {}


def test_a_name_that_leads_to_the_host_is_refused(scene: Scene) -> None:
    for name in own_names():
        assert " 403 " in scene.found["proxy"][f"{name}:{scene.shut.port}"], "DNS rebinding"
        assert scene.found["dns"]["leads to the host"] == "code 5, 0 answers"


def test_no_trick_of_http_leads_elsewhere(scene: Scene) -> None:
    answers = {trick: words.split(" ")[1:2] for trick, words in scene.found["http"].items()}
    del answers["rest of a request"]  # the first of the two was allowed, and its server speaks no HTTP
    assert {*map(tuple, answers.values())} <= {("400",), ("403",)}, answers


def test_the_name_server_carries_nothing(scene: Scene) -> None:
    answers = dict(scene.found["dns"])
    assert answers.pop("own name") == "code 0, 1 answers"
    assert [words for words in answers.values() if words.startswith("code") and words != "code 5, 0 answers"] == []
    assert answers["by TCP"] == "code 5, 0 answers"
    others = [words for place, words in answers.items() if place.startswith(("10.0.2.4", "8.8.8.8"))]
    assert not any(words.startswith("code") for words in others), "nobody else answers"


def test_forged_frames_open_nothing(scene: Scene) -> None:
    frames = scene.found["frames"]
    assert frames["sent"] > 150
    assert (frames["opened"], frames["datagrams"], frames["ipv6"]) == ([], [], 0)
    assert {*frames["echoed"]} <= {"10.0.2.2", "10.0.2.3"}, "QEMU's own addresses answer a ping, and no others"


def test_a_guest_without_filter_and_with_foreign_addresses_reaches_no_more(scene: Scene) -> None:
    assert not any(words.startswith(("connected", "code 0")) for words in scene.found["reconfigured"].values())
    assert scene.found["allowed after all"] == "connected: reached"


def test_each_refusal_of_the_proxy_is_in_the_log(scene: Scene) -> None:
    told = {row["host"] for row in refused(scene, "connect")} | {row["host"] for row in refused(scene, "http")}
    targets = [words for words in scene.found["proxy"] if words.endswith(f":{scene.shut.port}")]
    assert {target.rpartition(":")[0] for target in targets} <= told
    answers = {**scene.found["proxy"], **scene.found["http"]}.values()
    count = sum(words.split(" ")[1:2] in (["400"], ["403"]) for words in answers)
    assert len(refused(scene, "connect")) + len(refused(scene, "http")) >= count


def test_each_refusal_of_the_name_server_is_in_the_log(scene: Scene) -> None:
    told = [row["host"] for row in refused(scene, "dns")]
    assert len([name for name in told if name.endswith(".t.refused.test")]) >= 9
    assert "x.allowed.test" in told


def test_new_rules_close_what_is_open_and_refuse_what_comes(scene: Scene) -> None:
    said: list[str] = []

    def stay() -> None:
        argv = ["/usr/bin/python3", "-c", WAIT, str(scene.open.port)]
        said.append(scene.desk("exec", *argv, status=None, timeout=120).stdout)

    before = len(scene.open.came)
    inside = threading.Thread(target=stay)
    inside.start()
    limit = time.monotonic() + 60
    while len(scene.open.came) == before:
        assert time.monotonic() < limit
        time.sleep(0.2)
    scene.desk.write(card([]))
    scene.desk("apply")
    inside.join(60)
    assert said == ["reached\nclosed\n"]
    now = len(scene.open.came)
    job = {"allowed": scene.open.port, "shut": scene.shut.port}
    found = probe(scene.desk, "allowed", "allowed by proxy", "allowed after all", **job)
    assert "reached" not in json.dumps(found)
    assert len(scene.open.came) == now, "counted on the host"


def test_a_rule_that_is_added_opens(scene: Scene) -> None:
    scene.desk.write(card([f"host.stereo.internal:{scene.open.port}"]))
    scene.desk("apply")
    found = probe(scene.desk, "allowed", "allowed by proxy", allowed=scene.open.port, shut=scene.shut.port)
    assert found["allowed"] == "connected: reached"
    assert found["allowed by proxy"].endswith("\r\n\r\nreached")


def test_a_port_of_the_host_that_the_machine_has_no_wire_for_needs_a_new_start(scene: Scene) -> None:
    scene.desk.write(card([f"host.stereo.internal:{port}" for port in (scene.open.port, scene.added.port)]))
    done = scene.desk("apply", status=1)
    assert "cannot change network.egress_allow" in done.stderr, "a new port of the host takes a new start"
    found = probe(scene.desk, "allowed", "allowed by proxy", allowed=scene.added.port, shut=scene.shut.port)
    assert "reached" not in json.dumps(found)
    assert scene.added.came == []


def test_without_a_network_there_is_nothing_but_lo(scene: Scene) -> None:
    scene.desk("down")
    scene.desk.write(f'{SMALL}[network]\nmode = "none"\n')
    scene.desk("up", timeout=400)
    assert probe(scene.desk, "interfaces", shut=scene.shut.port)["interfaces"] == ["lo"]


def test_behind_nat_the_hosts_loopback_is_closed(scene: Scene) -> None:
    scene.desk("down")
    scene.desk.write(SMALL)
    scene.desk("up", timeout=400)
    before = len(scene.added.came), len(scene.open.came)
    for port in (scene.added.port, scene.open.port):
        found = probe(scene.desk, "tcp", "frames", shut=port, udp=scene.added.datagrams.getsockname()[1])
        reached = [place for place, words in found["tcp"].items() if words == "connected: reached"]
        assert reached == []
    assert (len(scene.added.came), len(scene.open.came)) == before, "counted on the host"
    assert scene.added.knocks() == []
