"""What the doctor says of policy, keys and registries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from makers.signing import new_key
from stereo.believed import believed
from stereo.cli.app import run
from stereo.doctor import Check, Status

POLICY = 'schema = 1\n[[key]]\nname = "me"\npublic_key = "me.pub"\nroles = ["release", "provenance"]\n'


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("STEREO_POLICY", "STEREO_REGISTRY", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    folder = tmp_path / "config/stereo"
    folder.mkdir(parents=True)
    return folder


def rows() -> dict[str, list[Check]]:
    found: dict[str, list[Check]] = {}
    for check in believed():
        found.setdefault(check.name, []).append(check)
    return found


def only(name: str) -> Check:
    (found,) = rows()[name]
    return found


def test_where_nothing_is_decided_it_says_so(config: Path, tmp_path: Path) -> None:
    assert only("policy").status is Status.WARN
    assert "nobody's signature is checked" in only("policy").detail
    assert "keygen" in only("signing keys").detail
    assert str(tmp_path / "data/stereo/registry") in only("registry").detail
    assert only("registry logins").detail.startswith("none")


def test_a_policy_is_read_and_its_faults_are_told(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_key(config, "me")
    (config / "policy.toml").write_text(POLICY)
    assert (only("policy").status, only("policy").detail) == (
        Status.OK,
        f"{config / 'policy.toml'}: believes me; wants release 1, provenance 1",
    )
    (config / "policy.toml").write_text(POLICY + "typo = 1\n")
    assert only("policy").status is Status.WARN
    assert "typo" in only("policy").detail
    monkeypatch.setenv("STEREO_POLICY", str(config / "nowhere.toml"))
    assert "cannot be read" in only("policy").detail


def test_a_secret_key_that_others_may_read_is_named_with_the_command_that_mends_it(config: Path) -> None:
    keys = config / "keys"
    new_key(keys, "me")
    assert only("signing keys").detail == f"me, in {keys}"
    (keys / "me.key").chmod(0o640)
    all_, bad = rows()["signing keys"]
    assert all_.status is Status.OK
    assert (bad.status, bad.fix) == (Status.WARN, f"chmod 600 {keys / 'me.key'}")
    assert "0640" in bad.detail


def test_logins_are_counted_without_asking_anybody(config: Path, tmp_path: Path) -> None:
    docker = tmp_path / "docker/config.json"
    docker.parent.mkdir()
    secret = "c2VjcmV0OnNlY3JldA=="
    docker.write_text(
        json.dumps(
            {"auths": {"r.example": {"auth": secret}}, "credHelpers": {"q.example": "no-such"}, "credsStore": "x"}
        )
    )
    detail = only("registry logins").detail
    assert detail == f"q.example, r.example, all by x in {docker}"
    docker.write_text(f"[{secret}")
    assert only("registry logins").status is Status.WARN
    assert secret not in str(rows())


@pytest.mark.parametrize("root", ["no root at all", "²", "a.b:²/x"])
def test_a_registry_that_is_none_is_told(config: Path, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEREO_REGISTRY", root)
    assert only("registry").status is Status.WARN


def test_the_verb_shows_the_rows(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stereo.doctor.run_checks", lambda *_, **__: [Check("Python", Status.OK, "3")])
    assert run(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert {"policy", "signing keys", "registry", "registry logins"} <= {row["name"] for row in told["checks"]}
