"""The HTTP API: the routes, codes and objects of the original, and the checks of its `hurls/`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from makers.guest import Machine
from stereos_guest.api import Api
from stereos_guest.http import HttpVisit


class Client:
    """Speaks to the API of a machine over one connection."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.visit = HttpVisit(Api(machine.requests).respond, lambda: None)

    def __call__(self, method: str, path: str, body: bytes | dict[str, Any] | None = None) -> tuple[int, Any]:
        self.ask(method, path, body)
        return self.answer()

    def ask(self, method: str, path: str, body: bytes | dict[str, Any] | None) -> None:
        data = json.dumps(body).encode() if isinstance(body, dict) else body or b""
        self.visit.receive(f"{method} {path} HTTP/1.1\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)

    def answer(self) -> tuple[int, Any]:
        self.visit.work()
        head, _, said = self.visit.take(1 << 20).partition(b"\r\n\r\n")
        assert head, "no answer"
        return int(head.split()[1]), json.loads(said) if b"application/json" in head else said.decode()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


@pytest.fixture
def client(machine: Machine) -> Client:
    return Client(machine)


def test_ping(client: Client) -> None:
    assert client("GET", "/v1/ping") == (200, {"status": "ok"})


def test_health_is_what_the_protocol_tells(client: Client, machine: Machine) -> None:
    status, told = client("GET", "/v1/health")
    assert (status, told["state"]) == (200, "ready")
    assert told["uptime_seconds"] >= 0
    assert machine.ask(machine.session(), "get_health")[0]["payload"] == told


def test_the_lists_are_empty_at_first(client: Client) -> None:
    assert client("GET", "/v1/secrets") == (200, {"secrets": []})
    assert client("GET", "/v1/mounts") == (200, {"mounts": []})
    assert client("GET", "/v1/agents") == (200, {"agents": []})


def test_a_secret_is_injected_listed_and_deleted(client: Client) -> None:
    assert client("POST", "/v1/secrets", {"name": "TEST_SECRET", "value": "x"}) == (
        *(201, {"status": "ok", "name": "TEST_SECRET"}),
    )
    assert client("GET", "/v1/secrets") == (200, {"secrets": ["TEST_SECRET"]})
    for _ in range(2):  # absent is as good as deleted
        assert client("DELETE", "/v1/secrets/TEST_SECRET") == (200, {"status": "ok", "name": "TEST_SECRET"})
    assert client("GET", "/v1/secrets") == (200, {"secrets": []})


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/secrets", b"{", 400),
        ("POST", "/v1/secrets", b"[]", 400),
        ("POST", "/v1/secrets", b"\xff", 400),
        ("POST", "/v1/secrets", {"name": "../x", "value": "x"}, 422),
        ("POST", "/v1/secrets", {"value": "x"}, 422),
        ("DELETE", "/v1/secrets/", None, 400),
        ("DELETE", "/v1/secrets/..", None, 422),
        ("DELETE", "/v1/secrets/a%2fb", None, 422),
        ("POST", "/v1/mounts", b"nonsense", 400),
        ("POST", "/v1/mounts", {"tag": "x", "guest_path": "/etc", "fs_type": "virtiofs"}, 422),
        ("POST", "/v1/mounts", {}, 422),
    ],
)
def test_what_is_wrong_is_told_as_an_error(client: Client, method: str, path: str, body: Any, status: int) -> None:
    told = client(method, path, body)
    assert told[0] == status
    assert list(told[1]) == ["error"]


def test_a_mount_is_answered_once_it_is_done(client: Client, machine: Machine) -> None:
    machine.says["mount"] = None
    client.ask("POST", "/v1/mounts", {"tag": "workspace0", "guest_path": "/workspace", "fs_type": "virtiofs"})
    client.visit.work()
    assert client.visit.take(100) == b""
    assert not client.visit.hungry
    machine.going_on[0]("")
    assert client.answer() == (201, {"status": "ok", "tag": "workspace0", "guest_path": "/workspace"})


def test_a_mount_that_fails_is_told(client: Client, machine: Machine) -> None:
    machine.says["mount"] = "no such tag"
    payload = {"tag": "workspace0", "guest_path": "/workspace", "fs_type": "virtiofs"}
    assert client("POST", "/v1/mounts", payload) == (422, {"error": "no such tag"})


@pytest.mark.parametrize("body", [None, {"reason": "done", "grace_period_sec": 5}, b"nonsense"])
def test_shutdown_begins_after_its_answer(client: Client, machine: Machine, body: Any) -> None:
    assert client("POST", "/v1/shutdown", body) == (202, {"status": "shutting_down"})
    assert machine.switched_off == 0
    machine.turn()
    assert machine.switched_off == 1


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/ping/", "/v1/config", "/v2/ping", "/v1/ssh"])
def test_other_paths_are_not_found(client: Client, path: str) -> None:
    assert client("GET", path) == (404, "404 page not found\n")


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/ping"), ("DELETE", "/v1/secrets"), ("GET", "/v1/shutdown"), ("GET", "/v1/secrets/A")],
)
def test_other_methods_are_not_allowed(client: Client, method: str, path: str) -> None:
    assert client(method, path) == (405, "Method Not Allowed\n")
