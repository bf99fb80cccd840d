"""What a host asks of the machine, done for real below a temporary root; each fault of the original is a test here."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from makers.guest import KEY, Machine, heard
from stereos_guest import doors, interface, protocol, sshkeys
from stereos_guest.network import set_network


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# --- set_config ---

CARD = "jcard.toml"


def test_a_configuration_is_stored_for_root_alone(machine: Machine) -> None:
    assert machine.error("set_config", {"content": 'mixtape = "base"\n'}) == ""
    path = machine.root / "etc/stereos" / CARD
    assert path.read_text() == 'mixtape = "base"\n'
    assert mode(path) == 0o600


@pytest.mark.parametrize("content", ["[agents\n", "a = \n", "x = 1\nx = 2\n", "a = " + "[" * 20_000])
def test_a_configuration_that_does_not_parse_is_refused_and_the_running_one_stays(
    machine: Machine, content: str
) -> None:
    machine.error("set_config", {"content": "a = 1\n"})
    assert "does not parse" in machine.error("set_config", {"content": content})
    assert (machine.root / "etc/stereos" / CARD).read_text() == "a = 1\n"


def test_a_configuration_is_replaced_at_once_never_in_place(machine: Machine) -> None:
    path = machine.root / "etc/stereos" / CARD
    machine.error("set_config", {"content": "a = 1\n"})
    with path.open() as old:
        machine.error("set_config", {"content": "b = 2\n"})
        assert old.read() == "a = 1\n"
    assert names(path.parent) == [CARD]


def test_a_configuration_that_cannot_be_written_leaves_the_old_one(machine: Machine) -> None:
    machine.error("set_config", {"content": "a = 1\n"})
    (machine.root / "etc/stereos/jcard.toml.new").mkdir()
    assert machine.error("set_config", {"content": "b = 2\n"}) != ""
    assert (machine.root / "etc/stereos" / CARD).read_text() == "a = 1\n"


def test_an_empty_object_is_an_empty_configuration(machine: Machine) -> None:
    assert machine.error("set_config", {}) == ""
    assert (machine.root / "etc/stereos" / CARD).read_text() == ""


@pytest.mark.parametrize("content", [5, ["x"], "\ud800"])
def test_a_configuration_is_text(machine: Machine, content: Any) -> None:
    assert machine.error("set_config", {"content": content}).startswith("content is not")


# --- secrets ---


def secrets(machine: Machine) -> Path:
    return machine.root / "run/stereos/secrets"


def test_a_secret_is_roots_alone_wherever_it_is_asked_otherwise_not(machine: Machine) -> None:
    assert machine.error("inject_secret", {"name": "KEY", "value": "v\n"}) == ""
    assert machine.error("inject_secret", {"name": "OPEN", "value": "v", "mode": 0o640}) == ""
    assert (secrets(machine) / "KEY").read_text() == "v\n"
    assert (mode(secrets(machine)), mode(secrets(machine) / "KEY"), mode(secrets(machine) / "OPEN")) == (
        *(0o700, 0o600, 0o640),
    )


def test_a_secret_replaces_the_one_of_its_name(machine: Machine) -> None:
    for value in ("old", "new"):
        machine.error("inject_secret", {"name": "KEY", "value": value})
    assert (secrets(machine) / "KEY").read_text() == "new"
    assert names(secrets(machine)) == ["KEY"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a..b", "x\n", "x\0", "x" * 250, "KEY.new", 5, ["KEY"]]
)
def test_a_secret_has_the_plain_name_of_a_file(machine: Machine, name: Any) -> None:
    assert machine.error("inject_secret", {"name": name, "value": "v"}).startswith("name ")
    assert names(secrets(machine)) == []


@pytest.mark.parametrize("wrong", [{"mode": 0o4755}, {"mode": -1}, {"mode": "0600"}, {"mode": True}, {"value": 7}])
def test_a_secret_with_other_fields_than_its_own_is_refused(machine: Machine, wrong: dict[str, Any]) -> None:
    assert machine.error("inject_secret", {"name": "KEY", "value": "v", **wrong}) != ""
    assert names(secrets(machine)) == []


def test_secrets_are_listed_by_name_and_removed(machine: Machine) -> None:
    host = machine.greeted()
    for name in ("B", "A"):
        machine.ask(host, "inject_secret", {"name": name, "value": "hidden"})
    [listed] = machine.ask(host, "list_secrets", id=9)
    assert listed == {"type": "secrets", "id": 9, "payload": {"names": ["A", "B"]}}
    for _ in range(2):  # it is no error if there is none
        assert machine.ask(host, "remove_secret", {"name": "A"})[0]["payload"]["ok"]
    assert machine.ask(host, "list_secrets")[0]["payload"]["names"] == ["B"]
    assert not machine.ask(host, "remove_secret", {"name": "../B"})[0]["payload"]["ok"]


def test_a_secret_is_in_no_answer(machine: Machine) -> None:
    host = machine.greeted()
    said = heard(host, protocol.encode("inject_secret", {"name": "../x", "value": "hidden"}))
    said += heard(host, b'{"type":"inject_secret","payload":{"value":"hidden"\n')
    assert len(said) == 2
    assert b"hidden" not in b"".join(said)


# --- ssh keys ---


def authorized(machine: Machine, user: str = "admin") -> Path:
    return machine.root / f"etc/stereos/ssh-keys/{user}"


def test_a_key_replaces_those_before_and_starts_the_server(machine: Machine) -> None:
    for comment in ("first", "second"):
        assert machine.error("inject_ssh_key", {"user": "admin", "public_key": f"{KEY} {comment}\n"}) == ""
    assert authorized(machine).read_text() == f"{KEY} second\n"
    assert (mode(authorized(machine)), mode(authorized(machine).parent)) == (0o644, 0o755)
    assert machine.ran == [["/usr/bin/systemctl", "start", "ssh.service"]] * 2


@pytest.mark.parametrize("user", ["root", "", "nobody", "../admin", 7])
def test_only_the_administrator_and_the_agent_get_keys(machine: Machine, user: Any) -> None:
    assert machine.error("inject_ssh_key", {"user": user, "public_key": KEY}).startswith("user is ")
    assert machine.ran == []


@pytest.mark.parametrize(
    "key",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 ",
        "ssh-ed25519 not-base64",
        "ssh-dss AAAAB3NzaC1kc3MAAA==",
        "ssh-rsa " + KEY.split()[1],  # of another type than it says
        "ssh-ed25519 " + KEY.split()[1][:20],
        f"{KEY}\n{KEY}",
        f"{KEY}\rcommand",
        f'command="id" {KEY}',
        KEY + " \x1b[2J",
        "ssh-ed25519 " + "A" * 20000,
    ],
)
def test_what_is_not_one_key_on_one_line_is_refused(machine: Machine, key: str) -> None:
    assert machine.error("inject_ssh_key", {"user": "admin", "public_key": key}).startswith("public_key ")
    assert not authorized(machine).exists()


def test_nothing_in_the_home_of_a_user_opens_the_door(machine: Machine) -> None:
    assert machine.error("inject_ssh_key", {"user": "agent", "public_key": KEY}) == ""
    assert names(machine.root / "home/agent") == []
    for path in sshd_looks_at():
        assert path.startswith("/etc/")
    assert f"{sshkeys.FOLDER}/%u" in sshd_looks_at()


def sshd_looks_at() -> list[str]:
    configuration = Path(__file__).parents[2] / "overlays/ssh/etc/ssh/sshd_config.d/stereos.conf"
    rows = [line.split() for line in configuration.read_text().splitlines()]
    (paths,) = [row[1:] for row in rows if row[:1] == ["AuthorizedKeysFile"]]
    return paths


def test_a_server_that_does_not_start_is_told(machine: Machine) -> None:
    machine.says["systemctl"] = "Unit ssh.service not found."
    told = machine.error("inject_ssh_key", {"user": "admin", "public_key": KEY})
    assert told == "sshd did not start: Unit ssh.service not found."


def test_the_host_key_is_told_once_it_was_made(machine: Machine) -> None:
    key = machine.root / "var/lib/stereos/ssh/ssh_host_ed25519_key.pub"
    key.parent.mkdir(parents=True)
    key.write_text(KEY + "\n")
    [told] = machine.ask(machine.greeted(), "ssh_host_key", id=3)
    assert told == {"type": "ssh_host_key", "id": 3, "payload": {"public_key": KEY}}
    assert machine.ran == [["/usr/bin/systemctl", "start", "stereos-ssh-host-key.service"]]


def test_a_machine_without_a_host_key_says_so(machine: Machine) -> None:
    [told] = machine.ask(machine.greeted(), "ssh_host_key", {})
    assert not told["payload"]["ok"]


# --- network ---

NETWORK = {
    "nameservers": ["10.0.2.3", "fd00::3"],
    "proxy": "http://10.0.2.2:3128",
    "no_proxy": "localhost,127.0.0.1",
    "hosts": {"host.stereo.internal": "10.0.2.2"},
}


def test_the_host_decides_names_and_proxy(machine: Machine) -> None:
    host = machine.greeted()
    assert machine.ask(host, "set_network", NETWORK)[0]["payload"]["ok"]
    assert (machine.root / "etc/resolv.conf").read_text() == "nameserver 10.0.2.3\nnameserver fd00::3\n"
    assert (machine.root / "etc/hosts").read_text().splitlines()[::2] == [
        "127.0.0.1 localhost",
        "10.0.2.2 host.stereo.internal",
    ]
    environment = dict(line.split("=") for line in (machine.root / "run/stereos/agent.env").read_text().splitlines())
    assert environment == {
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://10.0.2.2:3128"),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1"),
    }


def test_what_the_host_decided_before_is_gone_the_next_time(machine: Machine) -> None:
    before = (machine.root / "etc/hosts").read_text()
    for payload in (NETWORK, NETWORK, {"nameservers": ["10.0.2.3"]}):
        set_network(str(machine.root), payload)
    assert (machine.root / "etc/hosts").read_text() == before
    assert (machine.root / "run/stereos/agent.env").read_text() == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"nameservers": ["10.0.2.3\nsearch evil"]},
        {"nameservers": "10.0.2.3"},
        {"nameservers": ["1.1.1.1"] * 9},
        {"hosts": {"a b": "10.0.2.2"}},
        {"hosts": {"a": "10.0.2.2 x"}},
        {"hosts": ["a"]},
        {"proxy": "http://x\nLD_PRELOAD=/tmp/x"},
        {"proxy": "http://x y"},
        {"proxy": "socks5://x"},
        {"no_proxy": 'a"b'},
    ],
)
def test_nothing_of_a_wrong_network_is_taken(machine: Machine, wrong: dict[str, Any]) -> None:
    [answer] = machine.ask(machine.greeted(), "set_network", {**NETWORK, **wrong})
    assert not answer["payload"]["ok"]
    assert not (machine.root / "etc/resolv.conf").exists()
    assert not (machine.root / "run/stereos/agent.env").exists()


# --- a network without a card ---

BY_VSOCK = {**NETWORK, "gateway": "10.0.2.2", "vsock_ports": [3128, 53, 8080, 53]}


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that the machine itself was given."""
    found: list[str] = []
    monkeypatch.setattr(interface, "add_to_loopback", found.append)
    return found


def test_the_gateway_is_started_when_the_host_wants_it(machine: Machine, addresses: list[str]) -> None:
    assert machine.ask(machine.greeted(), "set_network", BY_VSOCK)[0]["payload"]["ok"]
    assert (machine.root / "run/stereos/gateway").read_text() == "WORDS=10.0.2.2 53 3128 8080\n"
    assert (machine.root / "run/stereos/gateway").stat().st_mode & 0o777 == 0o600
    assert addresses == ["10.0.2.2"]
    assert machine.ran == [["/usr/bin/systemctl", "restart", "stereos-gateway.service"]]
    assert (machine.root / "etc/resolv.conf").exists()


def test_who_has_a_card_gets_no_gateway(machine: Machine, addresses: list[str]) -> None:
    assert machine.ask(machine.greeted(), "set_network", {**NETWORK, "vsock_ports": []})[0]["payload"]["ok"]
    assert (machine.ran, addresses) == ([], [])
    assert not (machine.root / "run/stereos/gateway").exists()


def test_told_the_same_again_what_goes_on_is_not_cut_off(machine: Machine, addresses: list[str]) -> None:
    host = machine.greeted()
    for ports in ([1], [1], [1, 2]):
        machine.ask(host, "set_network", {**BY_VSOCK, "vsock_ports": ports})
    assert [words[1] for words in machine.ran] == ["restart", "start", "restart"]


def test_the_host_hears_why_the_gateway_does_not_start(machine: Machine, addresses: list[str]) -> None:
    machine.says["systemctl"] = "no such unit"
    [answer] = machine.ask(machine.greeted(), "set_network", BY_VSOCK)
    assert answer["payload"]["error"] == "the gateway did not start: no such unit"


@pytest.mark.parametrize(
    "wrong",
    [
        *({"vsock_ports": ports} for ports in ("53", [0], [65536], [True], ["53"], [1.5], [1] * 1001, {"a": 1})),
        {"gateway": ""},
        {"gateway": "10.0.2.2 $(reboot)"},
        {"gateway": "fd00::2"},
        {"address": "10.0.2.15/24"},
    ],
)
def test_nothing_of_a_wrong_gateway_is_taken(machine: Machine, addresses: list[str], wrong: dict[str, Any]) -> None:
    [answer] = machine.ask(machine.greeted(), "set_network", {**BY_VSOCK, **wrong})
    assert not answer["payload"]["ok"]
    assert (machine.ran, addresses) == ([], [])
    assert not (machine.root / "etc/resolv.conf").exists()
    assert not (machine.root / "run/stereos/gateway").exists()


# --- shutdown ---


@pytest.mark.parametrize("payload", [None, {}, {"reason": "done"}, [1], "x"])
def test_shutdown_is_acked_at_once_and_done_once_whatever_its_payload(machine: Machine, payload: Any) -> None:
    host = machine.session(unasked=True)
    for _ in range(2):
        [ack, *pushed] = machine.ask(host, "shutdown", payload)
        assert ack["payload"] == {"reply_to": "shutdown", "ok": True}
        assert [push["payload"]["state"] for push in pushed] in ([], ["shutdown"])
    assert machine.switched_off == 0
    machine.turn()
    assert machine.switched_off == 1
    assert machine.ran == [["/usr/bin/sync"]]
    assert machine.daemon.state == "shutdown"


def test_a_daemon_that_is_not_in_charge_of_a_machine_declines_to_shut_down(machine: Machine) -> None:
    machine.daemon.power_off = None
    assert machine.error("shutdown", None) == "this stereosd is not in charge of a machine"


# --- hello ---


def test_hello_tells_version_and_features_and_then_the_state(machine: Machine) -> None:
    hello, lifecycle = machine.ask(machine.session(), "hello", {"version": 1, "features": ["id", "nonsense"]}, 1)
    assert (hello["type"], hello["id"]) == ("hello", 1)
    assert hello["payload"]["version"] == 1
    assert hello["payload"]["software"] == "stereosd"
    assert {"id", "exec", "copy", "connect", "logs", "events", "secrets", "mounts", "agents", "network"} <= set(
        hello["payload"]["features"]
    )
    assert lifecycle["payload"]["state"] == "ready"


def test_a_newer_host_is_spoken_to_in_our_version_and_one_of_none_is_refused(machine: Machine) -> None:
    assert machine.ask(machine.session(), "hello", {"version": 7})[0]["payload"]["version"] == 1
    for version in (0, -1, "1", None, True):
        assert not machine.ask(machine.session(), "hello", {"version": version})[0]["payload"]["ok"]


def test_every_request_of_the_protocol_has_a_handler(machine: Machine) -> None:
    of_streams = {"data", "eof", "window", "resize", "signal", "cancel"}
    assert set(machine.daemon.handlers) == set(protocol.REQUESTS) - of_streams


def test_with_the_token_a_locked_connection_opens_and_without_it_not(tmp_path: Path) -> None:
    machine = Machine(tmp_path, token="a long token")
    for payload in ({"version": 1}, {"version": 1, "token": "a long tokem"}, {"version": 1, "token": ["x"]}):
        session = machine.session(locked=True)
        assert not machine.ask(session, "hello", payload)[0]["payload"]["ok"]
        assert session.closed
    session = machine.session(locked=True)
    assert machine.ask(session, "hello", {"version": 1, "token": "a long token"})[0]["type"] == "hello"
    assert machine.ask(session, "ping") == [{"type": "pong"}]
    machine.close()


def test_without_a_token_of_our_own_none_is_right(machine: Machine) -> None:
    assert not machine.ask(machine.session(locked=True), "hello", {"version": 1, "token": ""})[0]["payload"]["ok"]


def test_the_token_comes_from_the_credentials_of_the_system(machine: Machine) -> None:
    assert doors.token(str(machine.root)) == ""
    folder = machine.root / "run/credentials/@system"
    folder.mkdir(parents=True)
    (folder / "stereos.control-token").write_text("secret\n")
    assert doors.token(str(machine.root)) == "secret"


# --- anything ---

FIELDS = (
    *("name", "value", "mode", "content", "user", "public_key", "tag", "guest_path", "fs_type", "read_only"),
    *("version", "features", "token", "action", "signal", "nameservers", "hosts", "proxy", "stream", "data", "bytes"),
)
payloads = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(FIELDS) | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)
# Not what starts programs of this machine: that has its own tests.
KINDS = sorted(set(protocol.REQUESTS) - {"exec", "copy_in", "copy_out", "logs", "connect"})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(KINDS), payloads, st.integers(0, 3)), max_size=8))
def test_whatever_is_asked_every_request_has_one_answer_and_the_daemon_lives(
    machine: Machine, asked: list[tuple[str, Any, int]]
) -> None:
    session = machine.greeted("id")
    silent = {"data", "eof", "window", "resize", "signal", "cancel"}
    for kind, payload, number in asked:
        line = json.dumps({"type": kind, "payload": payload, "id": number}).encode() + b"\n"
        answers = [json.loads(answer) for answer in heard(session, line)]
        answers = [answer for answer in answers if answer["type"] not in ("lifecycle", "event")]
        if kind not in silent or not number:
            assert len(answers) == 1, (kind, payload)
            assert answers[0].get("id", 0) == number or answers[0]["payload"]["error"].startswith("malformed")
    assert heard(session, b'{"type":"ping"}\n')[-1] == b'{"type":"pong"}\n'
