"""The proxy between real sockets: what passes, what is refused, and every trick that we know."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from makers.gate import Running, Site, World, drain, listening, running, site
from stereo.model.egress import Rules

PUBLIC = "93.184.216.34"


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as made:
        yield made


@pytest.fixture
def world(web: Site) -> World:
    return World(names={"good.example": [PUBLIC]}, routes={(PUBLIC, 80): web.port, (PUBLIC, 443): web.port})


@pytest.fixture
def gate(tmp_path: Path, world: World) -> Iterator[Running]:
    with running(tmp_path, "good.example", world=world) as made:
        yield made


def get(url: str, *fields: str, method: str = "GET") -> bytes:
    host = url.partition("://")[2].partition("/")[0]
    return "\r\n".join([f"{method} {url} HTTP/1.1", f"Host: {host}", *fields, "", ""]).encode()


def last(url: str, *fields: str) -> bytes:
    return get(url, *fields, "Connection: close")


def test_an_allowed_request_passes_and_is_written_down(gate: Running, web: Site) -> None:
    answer = gate.talk(last("http://good.example/a?b=c"))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"hello from /a?b=c")
    method, path, fields, _ = web.asked[0]
    assert (method, path, fields["Host"], fields["Connection"]) == ("GET", "/a?b=c", "good.example", "close")
    allowed, closed = gate.rows()
    assert {key: allowed[key] for key in ("verdict", "protocol", "host", "port", "address", "reason")} == {
        "verdict": "allowed",
        "protocol": "http",
        "host": "good.example",
        "port": 80,
        "address": PUBLIC,
        "reason": "rule good.example",
    }
    assert closed["verdict"] == "closed"
    assert closed["bytes_in"] > len("hello from /a?b=c") < closed["bytes_out"]


def test_a_refusal_says_in_words_what_to_add_and_asks_nobody(gate: Running) -> None:
    answer = gate.talk(get("http://evil.example:8080/"))
    assert answer.startswith(b"HTTP/1.1 403")
    assert b'add "evil.example:8080" to egress_allow' in answer
    assert not gate.world.lookups
    assert not gate.world.connected
    (row,) = gate.rows()
    assert (row["verdict"], row["protocol"], row["host"], row["port"]) == ("refused", "http", "evil.example", 8080)


def test_a_port_of_the_host_is_opened_by_a_new_start(gate: Running) -> None:
    answer = gate.talk(get("http://host.stereo.internal:9/"))
    assert b'add "host.stereo.internal:9" to egress_allow in jcard.toml and run `stereo down` and `stereo up`' in answer
    assert b"run `stereo apply`" in gate.talk(get("http://evil.example/"))


def test_the_words_arrive_although_the_guest_is_still_sending(gate: Running) -> None:
    body = bytes(32 << 20)
    request = get("http://evil.example/", f"Content-Length: {len(body)}", method="POST")
    assert b"egress_allow" in gate.talk(request + body)


def test_rules_hold_for_every_request_of_a_connection(gate: Running, web: Site) -> None:
    with gate.dial() as client:
        client.sendall(get("http://good.example/1"))
        until(client, b"hello from /1")
        client.sendall(get("http://good.example/2"))
        until(client, b"hello from /2")
        client.sendall(get("http://evil.example/3"))
        assert drain(client).startswith(b"HTTP/1.1 403")
    assert [path for _, path, *_ in web.asked] == ["/1", "/2"]


def test_pipelined_requests_are_decided_on_one_by_one(gate: Running, web: Site) -> None:
    answer = gate.talk(get("http://good.example/1") + get("http://evil.example/2") + get("http://good.example/3"))
    assert answer.count(b"HTTP/1.1 200") == 1
    assert answer.count(b"HTTP/1.1 403") == 1
    assert len(web.asked) == 1


@pytest.mark.parametrize("url", ["http://GOOD.Example./", "HTTP://good.example:80/", "http://good.example?q"])
def test_other_spellings_of_an_allowed_name_are_that_name(gate: Running, url: str) -> None:
    assert gate.talk(last(url).replace(b"good.example?q\r\n", b"good.example\r\n")).startswith(b"HTTP/1.1 200")


def test_a_tunnel_carries_bytes_both_ways_and_ends_with_its_ends(gate: Running) -> None:
    with listening() as server:
        gate.world.routes[PUBLIC, 443] = server.getsockname()[1]
        with gate.dial() as client:
            client.sendall(b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:443\r\n\r\nearly")
            far, _ = server.accept()
            with far:
                assert far.recv(100) == b"early"
                assert client.recv(1 << 16).endswith(b"\r\n\r\n")
                far.sendall(b"reply")
                assert client.recv(100) == b"reply"
                client.sendall(b"more")
                client.shutdown(socket.SHUT_WR)
                assert drain(far) == b"more"
                far.sendall(b"rest")
            assert drain(client) == b"rest"
    wait_for(lambda: len(gate.rows()) == 2)
    closed = gate.rows("closed")[0]
    assert (closed["protocol"], closed["bytes_in"], closed["bytes_out"]) == ("connect", 9, 9)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("evil.example:443", 403),
        ("good.example", 400),
        ("good.example:0", 400),
        ("good.example:65536", 400),
        ("good.example:http", 400),
        ("user@good.example:443", 400),
        ("user:pass@good.example:443", 400),
        ("http://good.example:443", 400),
        ("good.example:443/path", 400),
        ("good.example:443@evil.example:443", 400),
        ("good.example%00.evil.example:443", 400),
        ("127.0.0.1:443", 403),
        ("[::1]:443", 403),
        ("[::ffff:127.0.0.1]:443", 403),
        ("0.0.0.0:443", 403),
        ("0x7f.1:443", 403),
        ("0x7f000001:443", 403),
        ("2130706433:443", 403),
        ("127.1:443", 403),
        ("0177.0.0.1:443", 403),
        ("localhost:443", 403),
        ("169.254.169.254:80", 403),
        ("host.stereo.internal:443", 403),
        ("[fe80::1%25eth0]:443", 400),
    ],
)
def test_tunnels_to_elsewhere_are_refused(gate: Running, target: str, status: int) -> None:
    answer = gate.talk(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert not gate.world.connected
    assert not gate.world.lookups
    assert [row["verdict"] for row in gate.rows()] == ["refused"]


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.8.9.10",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.169.254",
        ),
        *("224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1"),
        *(
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ),
        *("64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:7f00:1::", "8.8.8.8"),
    ],
)
def test_an_allowed_name_may_not_lead_where_only_this_host_can_go(gate: Running, address: str) -> None:
    gate.world.names["good.example"] = [address]
    gate.world.own = {"8.8.8.8"}
    answer = gate.talk(b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:443\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403")
    assert b"which is not a public address" in answer
    assert gate.world.connected == []


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(gate: Running) -> None:
    gate.world.on_lookup = lambda: gate.world.names.update(
        {"good.example": ["127.0.0.1"]} if gate.world.lookups[1:] else {}
    )
    assert gate.talk(last("http://good.example/")).startswith(b"HTTP/1.1 200")
    assert gate.talk(last("http://good.example/")).startswith(b"HTTP/1.1 403")
    assert gate.world.connected == [(PUBLIC, 80)]
    assert len(gate.world.lookups) == 2


def test_of_several_addresses_only_those_that_pass_are_tried(gate: Running) -> None:
    gate.world.names["good.example"] = ["10.0.0.1", "93.184.216.35", PUBLIC, "::1"]
    assert gate.talk(last("http://good.example/")).startswith(b"HTTP/1.1 200")
    assert gate.world.connected == [("93.184.216.35", 80), (PUBLIC, 80)]


def test_a_rule_for_addresses_opens_them_for_names_and_by_themselves(tmp_path: Path, web: Site) -> None:
    world = World(names={"good.example": ["10.0.0.1"]}, routes={("10.0.0.1", 80): web.port})
    with running(tmp_path, "good.example", "10.0.0.0/24:80", world=world) as gate:
        assert gate.talk(last("http://good.example/")).startswith(b"HTTP/1.1 200")
        assert gate.talk(last("http://10.0.0.1/")).startswith(b"HTTP/1.1 200")
        assert gate.talk(last("http://[::ffff:10.0.0.1]/")).startswith(b"HTTP/1.1 200")
        assert gate.talk(last("http://10.0.1.1/")).startswith(b"HTTP/1.1 403")
        assert gate.talk(last("http://10.0.0.1:81/")).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize(("moment", "connected"), [("on_lookup", 0), ("on_connect", 1)])
def test_rules_that_change_meanwhile_decide(gate: Running, web: Site, moment: str, connected: int) -> None:
    setattr(gate.world, moment, lambda: gate._gate.apply(Rules()))
    assert gate.talk(last("http://good.example/")).startswith(b"HTTP/1.1 403")
    assert len(gate.world.connected) == connected
    assert web.asked == []
    assert [row["verdict"] for row in gate.rows()] == ["refused"]


GOOD = "http://good.example/"
LENGTH = "Content-Length: 4\r\n"
BODY = "1\r\nx\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (f"GET {GOOD} HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400),
        (f"GET {GOOD} HTTP/1.1\r\nHost: good.example:81\r\n\r\n", 400),
        (f"GET {GOOD} HTTP/1.1\r\nHost: good.example\r\nHost: evil.example\r\n\r\n", 400),
        (f"GET {GOOD} HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: good.example\r\n\r\n", 400),
        ("GET good.example HTTP/1.1\r\nHost: good.example\r\n\r\n", 400),
        ("GET https://good.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n", 400),
        ("GET ftp://good.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n", 400),
        ("GET http://u:p@good.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n", 400),
        ("GET http://good.example#@evil.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n", 400),
        ("GET http://good.example\\@evil.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n", 400),
        ("GET http:///x HTTP/1.1\r\nHost: good.example\r\n\r\n", 400),
        (f"POST {GOOD} HTTP/1.1\r\nHost: good.example\r\n{LENGTH}Transfer-Encoding: chunked\r\n\r\n{BODY}", 400),
        (f"POST {GOOD} HTTP/1.1\r\nHost: good.example\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (f"POST {GOOD} HTTP/1.1\r\nHost: good.example\r\nContent-Length: -1\r\n\r\n", 400),
        (f"POST {GOOD} HTTP/1.1\r\nHost: good.example\r\nContent-Length: +1\r\n\r\na", 400),
        (f"POST {GOOD} HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked, identity\r\n\r\n{BODY}", 501),
        (f"POST {GOOD} HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: xchunked\r\n\r\n{BODY}", 501),
        (f"POST {GOOD} HTTP/1.0\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n{BODY}", 400),
        (f"POST {GOOD} HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding : chunked\r\n\r\n{BODY}", 400),
        ("CONNECT good.example:443 HTTP/1.1\r\nHost: good.example\r\nContent-Length: 3\r\n\r\nabc", 400),
        ("CONNECT good.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400),
        (f"GET {GOOD} HTTP/1.1\r\nHost: good.example\r\nA: {'x' * 200_000}\r\n\r\n", 431),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", 400),
    ],
)
def test_what_can_be_read_in_two_ways_is_not_passed_on(gate: Running, request_text: str, status: int) -> None:
    answer = gate.talk(request_text.encode("latin-1"))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert gate.world.connected == []
    assert [row["verdict"] for row in gate.rows()] == ["refused"]


def test_fields_for_one_hop_end_here_and_nothing_is_upgraded(gate: Running, web: Site) -> None:
    fields = (
        "Connection: close, X-Secret",
        "X-Secret: 1",
        "Upgrade: websocket",
        "Proxy-Authorization: Basic eDp5",
        "X-Kept: 2",
    )
    answer = gate.talk(get("http://good.example/", *fields))
    assert b"X-Private" not in answer
    _, _, seen, _ = web.asked[0]
    assert seen["X-Kept"] == "2"
    assert not {"X-Secret", "Upgrade", "Proxy-Authorization"} & {*seen}


def test_a_server_cannot_switch_the_protocol(gate: Running) -> None:
    answer = gate.talk(get("http://good.example/upgraded", "Upgrade: x", "Connection: upgrade"))
    assert answer.startswith(b"HTTP/1.1 502")
    assert b"raw" not in answer


def test_a_body_passes_with_its_length_and_in_chunks(gate: Running, web: Site) -> None:
    sized = get("http://good.example/sized", "Content-Length: 5", method="POST") + b"12345"
    chunked = get("http://good.example/chunked", "Transfer-Encoding: chunked", "Connection: close", method="POST")
    answer = gate.talk(sized + chunked + b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: x\r\n\r\n")
    assert answer.count(b"took 5 bytes") == 2
    assert [body for *_, body in web.asked] == [b"12345", b"abcde"]


def test_what_follows_a_body_is_a_request_of_its_own(gate: Running, web: Site) -> None:
    smuggled = get("http://evil.example/")
    answer = gate.talk(get("http://good.example/", "Content-Length: 1", method="POST") + b"x" + smuggled)
    assert b"HTTP/1.1 200" in answer
    assert b"HTTP/1.1 403" in answer
    assert len(web.asked) == 1


def test_answers_without_a_body_leave_the_connection_usable(gate: Running) -> None:
    with gate.dial() as client:
        for request, expected in (
            (get("http://good.example/", method="HEAD"), b"HTTP/1.1 200"),
            (get("http://good.example/nothing"), b"HTTP/1.1 204"),
            (get("http://good.example/", method="HEAD"), b"HTTP/1.1 200"),
        ):
            client.sendall(request)
            assert until(client, b"\r\n\r\n").startswith(expected)


def test_who_waits_for_leave_to_send_a_body_gets_the_servers_word(gate: Running) -> None:
    with gate.dial() as client:
        client.sendall(get("http://good.example/", "Content-Length: 2", "Expect: 100-continue", method="POST"))
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 100")
        client.sendall(b"hi")
        until(client, b"took 2 bytes")


def test_events_of_a_stream_arrive_while_it_goes_on(gate: Running, web: Site) -> None:
    with gate.dial() as client:
        client.sendall(last("http://good.example/stream"))
        assert b"two" not in until(client, b"one")
        web.block.set()
        rest = drain(client)
    assert b"data: two" in rest
    assert rest.endswith(b"0\r\n\r\n")


def test_a_guest_that_hangs_up_ends_the_connection_to_the_outside(gate: Running) -> None:
    with gate.dial() as client:
        client.sendall(get("http://good.example/stream"))
        until(client, b"one")
    wait_for(lambda: bool(gate.rows("closed")))
    assert gate.rows("closed")[0]["reason"] == "the guest hung up"


def test_a_slow_reader_holds_up_the_sender(gate: Running, web: Site) -> None:
    size = 64 << 20
    with gate.dial() as client:
        client.sendall(last(f"http://good.example/big/{size}"))
        assert client.recv(1000)
        time.sleep(0.5)
        assert web.sent < size // 2  # what fits into buffers of the kernel
        assert len(drain(client)) > size - 1000


def test_unreachable_is_told_apart_from_refused(gate: Running) -> None:
    answer = gate.talk(last("http://good.example:81/"))
    assert answer.startswith(b"HTTP/1.1 502")
    assert b"The rules allow good.example:81, but connecting to" in answer
    (row,) = gate.rows()
    assert row["verdict"] == "allowed"
    assert "Connection refused" in row["reason"]


def test_a_name_that_does_not_exist_is_unreachable(tmp_path: Path) -> None:
    with running(tmp_path, "*.example") as gate:
        assert gate.talk(last("http://none.example/")).startswith(b"HTTP/1.1 502")


def test_a_head_that_does_not_come_is_not_waited_for(tmp_path: Path, world: World) -> None:
    with running(tmp_path, "good.example", world=world, head=0.3) as gate, gate.dial() as client:
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.05):
                try:
                    client.sendall(b"G")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        assert drain(client) == b""
        stop.set()
        thread.join()


def test_a_tunnel_in_which_nothing_moves_ends(tmp_path: Path, world: World) -> None:
    with running(tmp_path, "good.example", world=world, idle=0.3) as gate:
        answer = gate.talk(b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:443\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
        wait_for(lambda: bool(gate.rows("closed")))
        assert "nothing moved" in gate.rows("closed")[0]["reason"]


def test_a_tunnel_in_which_one_side_speaks_stays(tmp_path: Path, world: World) -> None:
    with running(tmp_path, "good.example", world=world, idle=0.4) as gate, listening() as server:
        world.routes[PUBLIC, 443] = server.getsockname()[1]
        with gate.dial() as client:
            client.sendall(b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:443\r\n\r\n")
            far, _ = server.accept()
            with far:
                until(client, b"\r\n\r\n")
                for _ in range(10):
                    time.sleep(0.1)
                    far.sendall(b".")
                    assert client.recv(10) == b"."


def test_new_rules_close_what_they_do_not_allow_and_nothing_else(tmp_path: Path, world: World) -> None:
    world.names["other.example"] = ["93.184.216.35"]
    world.routes["93.184.216.35", 80] = world.routes[PUBLIC, 80]
    with running(tmp_path, "good.example", "other.example", world=world) as gate:
        with gate.dial() as client, gate.dial() as other:
            for each, name in ((client, "good"), (other, "other")):
                each.sendall(f"CONNECT {name}.example:80 HTTP/1.1\r\nHost: {name}.example\r\n\r\n".encode())
                assert each.recv(1000).startswith(b"HTTP/1.1 200")
            assert gate.apply("other.example:80") == 1
            assert drain(client) == b""
            other.sendall(b"GET /still HTTP/1.0\r\n\r\n")
            assert b"hello from /still" in drain(other)
        assert gate.talk(last("http://good.example/")).startswith(b"HTTP/1.1 403")
        assert gate.rows("closed")[0]["reason"] == "the rules no longer allow it"


def test_without_a_log_nothing_passes(gate: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stereo.egress.log.os.write", full)
    answer = gate.talk(last("http://good.example/"))
    monkeypatch.undo()
    assert b"hello" not in answer
    assert b"cannot write its log" in answer


def test_a_relay_leads_to_the_hosts_loopback_while_a_rule_names_the_port(tmp_path: Path, web: Site) -> None:
    port = 9999
    world = World(routes={("127.0.0.1", port): web.port})
    with running(tmp_path, f"host.stereo.internal:{port}", world=world, relays=[port]) as gate:
        key = ("tcp", port)
        assert b"hello from /x" in gate.talk(b"GET /x HTTP/1.0\r\n\r\n", key=key)
        assert gate.talk(last(f"http://host.stereo.internal:{port}/")).startswith(b"HTTP/1.1 200")
        assert gate.talk(last("http://host.stereo.internal:22/")).startswith(b"HTTP/1.1 403")
        gate.apply()
        assert gate.talk(b"", key=key) == b""
        assert [row["verdict"] for row in gate.rows() if row["protocol"] == "tcp"] == ["allowed", "closed", "refused"]


def test_more_connections_than_allowed_wait_for_room(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stereo.egress import gate as module

    monkeypatch.setitem(module._CONNECTIONS, module.PROXY, 2)
    with running(tmp_path, "good.example", world=world) as gate:
        first, second = gate.dial(), gate.dial()
        with gate.dial(seconds=0.3) as third:
            third.sendall(last("http://good.example/"))
            with pytest.raises(TimeoutError):
                third.recv(10)
            first.close()
            third.settimeout(10)
            assert drain(third).startswith(b"HTTP/1.1 200")
        second.close()


def test_the_log_keeps_no_paths_and_no_passwords(gate: Running) -> None:
    for url in ("https://good.example/?key=SECRET", "http://me:SECRET@good.example/", "http://evil.example/SECRET"):
        gate.talk(get(url, "Authorization: SECRET"))
    gate.talk(b"CONNECT me:SECRET@good.example:443 HTTP/1.1\r\nHost: good.example\r\n\r\n")
    gate.talk(b"GET http://good.example/ HTTP/1.1\r\nHost: good.example\r\nAuthorization: SECRET\x00\r\n\r\n")
    assert len(gate.rows("refused")) == 5
    assert b"SECRET" not in gate.log.read_bytes()


def test_an_answer_that_comes_before_the_body_is_over_arrives(gate: Running) -> None:
    with listening() as server:
        gate.world.routes[PUBLIC, 8080] = server.getsockname()[1]

        def refuse() -> None:
            far, _ = server.accept()
            with far:
                far.recv(1000)
                far.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
                far.shutdown(socket.SHUT_WR)
                drain(far)

        thread = threading.Thread(target=refuse)
        thread.start()
        body = bytes(32 << 20)
        request = get("http://good.example:8080/", f"Content-Length: {len(body) * 2}", method="POST")
        answer = gate.talk(request + body)
        thread.join()
    assert answer.startswith(b"HTTP/1.1 413")
    assert answer.endswith(b"big")


def test_who_does_not_read_an_answer_does_not_keep_its_place(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stereo.egress import gate as module
    from stereo.egress import passage

    monkeypatch.setitem(module._CONNECTIONS, module.PROXY, 1)
    monkeypatch.setattr(passage, "_CLOSE_SECONDS", 0.2)
    with running(tmp_path, "good.example", world=world, idle=0.3) as gate, gate.dial() as deaf:
        deaf.sendall(last(f"http://good.example/big/{64 << 20}"))
        assert gate.talk(last("http://good.example/")).startswith(b"HTTP/1.1 200")
        wait_for(lambda: len(gate.rows("closed")) == 2)
        assert "nothing moved" in gate.rows("closed")[0]["reason"]


def until(client: socket.socket, end: bytes) -> bytes:
    """What comes up to `end`."""
    seen = b""
    while end not in seen:
        data = client.recv(1 << 16)
        assert data, seen
        seen += data
    return seen


PIECES = (
    b"GET |CONNECT |http://good.example/| HTTP/1.1|\r\n|\n|Host: |good.example|Content-Length: |5|"
    b"Transfer-Encoding: chunked|0\r\n\r\n|\x00|@|:443"
).split(b"|")
GARBAGE = st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=GARBAGE)
def test_garbage_neither_stops_the_proxy_nor_leads_elsewhere(gate: Running, data: bytes) -> None:
    with gate.dial() as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        drain(client)
    assert {address for address, _ in gate.world.connected} <= {PUBLIC}
    assert gate.talk(last("http://good.example/")).startswith(b"HTTP/1.1 200")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(b"HTTP/1.1 200 OK\r\n".__add__)))
def test_garbage_of_a_server_is_no_response(gate: Running, data: bytes) -> None:
    with listening() as server:
        gate.world.routes[PUBLIC, 8080] = server.getsockname()[1]

        def say() -> None:
            far, _ = server.accept()
            with far:
                far.recv(1 << 16)
                far.sendall(data)

        thread = threading.Thread(target=say)
        thread.start()
        answer = gate.talk(last("http://good.example:8080/"))
        thread.join()
    assert answer.startswith((b"HTTP/1.1 ", b"HTTP/1.1 502"))


def wait_for(condition: object, seconds: float = 5) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
