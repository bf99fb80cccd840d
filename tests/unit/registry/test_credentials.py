"""Credentials: found where other programs keep them, in their order, and never told."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from stereo.registry.credentials import Credentials, credentials_for
from stereo.registry.errors import RegistryError

HOST = "registry.example:5000"


def word(user: str, secret: str) -> str:
    return base64.b64encode(f"{user}:{secret}".encode()).decode()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(path: Path, **content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_there_may_be_none(home: Path) -> None:
    assert credentials_for(HOST, "a") is None
    write(home / ".docker/config.json", auths={"other.example": {"auth": word("u", "s")}})
    assert credentials_for(HOST, "a") is None


def test_each_file_is_found_and_the_first_that_knows_the_registry_wins(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "chosen.json"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    files = ["chosen.json", ".docker/config.json", "run/containers/auth.json", ".config/containers/auth.json"]
    for name in reversed(files):
        write(home / name, auths={HOST: {"auth": word(name, "s:with:colons")}})
        assert credentials_for(HOST, "a") == Credentials(name, "s:with:colons")


def test_docker_config_moves_the_folder_of_docker(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / ".docker/config.json", auths={HOST: {"auth": word("home", "s")}})
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "other"))
    assert credentials_for(HOST, "a") is None
    write(home / "other/config.json", auths={HOST: {"username": "other", "password": "s"}})
    assert credentials_for(HOST, "a") == Credentials("other", "s")


def test_podmans_login_for_a_part_of_a_registry_stands_above_that_for_all(home: Path) -> None:
    auths = {f"{HOST}/team": {"auth": word("team", "s")}, HOST: {"auth": word("all", "s")}}
    write(home / ".config/containers/auth.json", auths=auths)
    assert credentials_for(HOST, "team/base") == Credentials("team", "s")
    assert credentials_for(HOST, "teams/base") == Credentials("all", "s")


def test_the_name_of_one_registry_is_not_taken_for_another(home: Path) -> None:
    write(home / ".docker/config.json", auths={"registry.example": {"auth": word("u", "s")}})
    for host in (HOST, "evilregistry.example", "registry.example.evil", "registry.exampl"):
        assert credentials_for(host, "a") is None


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"auths":{"a":1,"a":2}}'])
def test_a_damaged_file_is_named_and_not_quoted(home: Path, content: bytes) -> None:
    path = write(home / ".docker/config.json")
    path.write_bytes(content)
    with pytest.raises(RegistryError, match="is no JSON object"):
        credentials_for(HOST, "a")


def test_a_damaged_login_is_named_and_not_quoted(home: Path) -> None:
    write(home / ".docker/config.json", auths={HOST: {"auth": "topsecret!"}})
    with pytest.raises(RegistryError) as caught:
        credentials_for(HOST, "a")
    assert "topsecret" not in str(caught.value)
    assert HOST in str(caught.value)


def test_neither_part_is_shown_by_accident() -> None:
    assert repr(Credentials("me", "topsecret")) == "Credentials()"


@pytest.mark.parametrize("setting", [{"credHelpers": {HOST: "test"}}, {"credsStore": "test"}])
def test_a_credential_helper_is_asked(home: Path, monkeypatch: pytest.MonkeyPatch, setting: dict[str, object]) -> None:
    write(home / ".docker/config.json", auths={HOST: {}}, **setting)
    helper = home / "bin/docker-credential-test"
    helper.parent.mkdir()
    helper.write_text(f'#!/bin/sh\nread -r host\n[ "$1 $host" = "get {HOST}" ] || exit 1\necho "$SAY"\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:/usr/bin:/bin")
    monkeypatch.setenv("SAY", '{"Username":"me","Secret":"s"}')
    assert credentials_for(HOST, "a") == Credentials("me", "s")
    assert credentials_for("other.example", "a") is None
    monkeypatch.setenv("SAY", '{"Username":"<token>","Secret":"s"}')
    assert credentials_for(HOST, "a") is None
    monkeypatch.setenv("SAY", "topsecret")
    with pytest.raises(RegistryError) as caught:
        credentials_for(HOST, "a")
    assert "topsecret" not in str(caught.value)


def test_a_helper_that_is_not_there_is_named(home: Path) -> None:
    write(home / ".docker/config.json", credHelpers={HOST: "no-such"})
    with pytest.raises(RegistryError, match="docker-credential-no-such"):
        credentials_for(HOST, "a")


def test_a_helper_is_a_name_and_no_path(home: Path) -> None:
    write(home / ".docker/config.json", credHelpers={HOST: "../../bin/sh"})
    assert credentials_for(HOST, "a") is None
