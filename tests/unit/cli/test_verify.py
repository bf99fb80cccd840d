"""`stereo verify`: who is asked, what it answers in words and as JSON, and what a rebuild adds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from makers.dist import make_dist
from makers.signing import new_key
from stereo import rebuild
from stereo.check.differences import Difference, Level
from stereo.cli.app import run

Capture = pytest.CaptureFixture[str]
POLICY = """\
schema = 1
[[key]]
name = "pipeline"
public_key = "pipeline.pub"
roles = ["release", "provenance"]
[[key]]
name = "me"
public_key = "me.pub"
roles = ["rebuild"]
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("pipeline", "me", "stranger"):
        new_key(folder, name)
    (folder / "policy.toml").write_text(POLICY)
    (folder / "rebuilt.toml").write_text(POLICY + "[require]\nrebuilders = 1\n")
    return folder


@pytest.fixture(scope="module")
def signed(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dist = tmp_path_factory.mktemp("made") / "x86_64"
    make_dist(dist)
    assert run(["sign", str(dist), "--key", str(keys / "pipeline.key"), "-q"]) == 0
    return dist


@pytest.fixture
def dist(signed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed, tmp_path / "x86_64"))


@pytest.fixture(autouse=True)
def _no_policy_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("STEREO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("STEREO_POLICY", raising=False)


def said(capsys: Capture, status: int, *words: str | Path) -> list[str]:
    """The lines that `stereo verify` prints."""
    capsys.readouterr()
    assert run(["verify", *map(str, words), "-q"]) == status
    return capsys.readouterr().out.splitlines()


def answered(capsys: Capture, status: int, *words: str | Path) -> dict[str, Any]:
    """What it answers as JSON."""
    capsys.readouterr()
    assert run(["verify", *map(str, words), "--json"]) == status
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_without_key_or_policy_it_ends_with_nobodys_signature_was_checked(signed: Path, capsys: Capture) -> None:
    lines = said(capsys, 0, signed)
    assert lines[-2].startswith("ok: sample-mixtape 2026.01.02.0 x86_64-linux, 10 files")
    assert lines[-1].startswith("nobody's signature was checked")
    answer = answered(capsys, 0, signed)
    assert (answer["ok"], answer["signatures"], answer["rebuild"]) == (True, None, None)


def test_a_key_must_have_signed_the_release(signed: Path, keys: Path, capsys: Capture) -> None:
    lines = said(capsys, 0, signed, "--key", keys / "pipeline.pub")
    assert sum(line.startswith("signed  attestations/release.") for line in lines) == 1
    assert lines[-1].startswith("ok:")
    said(capsys, 0, signed, "--key", keys / "stranger.pub", "--key", keys / "pipeline.pub")
    lines = said(capsys, 1, signed, "--key", keys / "stranger.pub")
    assert any("unknown-key" in line for line in lines)
    assert any("release statement: missing" in line for line in lines)
    assert not any("nobody" in line for line in lines)


def test_a_policy_is_asked_for_by_option_environment_or_place(
    signed: Path, keys: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = answered(capsys, 0, signed, "--policy", keys / "policy.toml")
    assert [(row["kind"], row["signer"]) for row in answer["signatures"]["accepted"]] == [
        ("provenance", "pipeline"),
        ("release", "pipeline"),
    ]
    usual = tmp_path / "config" / "stereo" / "policy.toml"
    usual.parent.mkdir(parents=True)
    shutil.copy(keys / "rebuilt.toml", usual)
    for name in ("pipeline", "me"):
        shutil.copy(keys / f"{name}.pub", usual.parent)
    said(capsys, 1, signed)
    assert said(capsys, 0, signed, "--no-policy")[-1].startswith("nobody's")
    monkeypatch.setenv("STEREO_POLICY", str(keys / "policy.toml"))
    said(capsys, 0, signed)
    monkeypatch.setenv("STEREO_POLICY", str(keys / "gone.toml"))
    said(capsys, 2, signed)


def test_accepted_and_refused_statements_are_rows_of_the_json(dist: Path, keys: Path, capsys: Capture) -> None:
    (provenance,) = (dist / "attestations").glob("provenance.*")
    provenance.write_bytes(provenance.read_bytes()[:-2] + b"\n")
    answer = answered(capsys, 1, dist, "--policy", keys / "policy.toml")
    (accepted,) = answer["signatures"]["accepted"]
    assert set(accepted) == {"name", "kind", "signer", "keyid", "statement", "issued", "expires"}
    refused = {row["reason"]: row for row in answer["signatures"]["refused"]}
    assert set(refused) == {"malformed", "missing"}
    assert refused["malformed"]["name"] == f"attestations/{provenance.name}"
    assert refused["malformed"]["fails"]
    assert refused["malformed"]["hint"]
    assert answer["failed"] == [f"attestations/{provenance.name}", "provenance statement"]
    assert not answer["signatures"]["ok"]


def test_an_altered_file_and_its_signature_are_told_apart(dist: Path, keys: Path, capsys: Capture) -> None:
    with (dist / "init").open("ab") as file:
        file.write(b"x")
    answer = answered(capsys, 1, dist, "--policy", keys / "policy.toml")
    assert answer["failed"] == ["init"]
    assert answer["signatures"]["ok"]


def test_a_dist_without_a_manifest_has_nobody_to_ask(dist: Path, keys: Path, capsys: Capture) -> None:
    (dist / "mixtape.toml").unlink()
    answer = answered(capsys, 1, dist, "--policy", keys / "policy.toml")
    assert answer["failed"] == ["mixtape.toml"]
    assert answer["signatures"] == {"ok": False, "accepted": [], "refused": []}


@pytest.mark.parametrize(
    "words",
    [
        ("--key", "pipeline.pub", "--no-policy"),
        ("--policy", "policy.toml", "--no-policy"),
        ("--policy", "policy.toml", "--key", "pipeline.pub"),
        ("--key", "pipeline.key"),
        ("--key", "nowhere.pub"),
        ("--policy", "pipeline.pub"),
        ("--sign-with", "me.key"),
        ("--offline",),
        ("--locks", "."),
        ("--rebuild", "--sign-with", "nowhere.key"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(
    signed: Path, keys: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(keys)
    said(capsys, 2, signed, *words)


# With a rebuild. The build itself is tests/e2e/test_rebuild.py's.


def rebuilt(monkeypatch: pytest.MonkeyPatch, *differences: Difference) -> list[Path]:
    """Let a rebuild end so; returns the dists that were rebuilt."""
    asked: list[Path] = []

    def build_again(folder: Path, *_: object) -> tuple[Difference, ...]:
        asked.append(folder)
        return differences

    monkeypatch.setattr(rebuild, "build_again", build_again)
    return asked


def test_who_rebuilds_adds_a_statement_that_a_policy_counts(
    dist: Path, keys: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuilt(monkeypatch)
    said(capsys, 1, dist, "--policy", keys / "rebuilt.toml")
    words = (dist, "--policy", keys / "rebuilt.toml", "--rebuild", "--sign-with", keys / "me.key")
    answer = answered(capsys, 0, *words)
    (statement,) = (dist / "attestations").glob("rebuild.*")
    assert answer["rebuild"] == {"identical": True, "differences": [], "statement": f"attestations/{statement.name}"}
    assert {row["signer"] for row in answer["signatures"]["accepted"]} == {"pipeline", "me"}
    before = statement.read_bytes()
    assert any(
        line.startswith("rebuilt: identical; signed in attestations/rebuild.") for line in said(capsys, 0, *words)
    )
    assert statement.read_bytes() == before
    assert said(capsys, 0, dist, "--policy", keys / "rebuilt.toml")[-1].startswith("ok:")


def test_a_rebuild_that_differs_is_told_and_nothing_is_signed(
    dist: Path, keys: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuilt(monkeypatch, Difference(Level.FILE, "init", "is longer"))
    answer = answered(capsys, 1, dist, "--rebuild", "--sign-with", keys / "me.key")
    assert (answer["rebuild"]["identical"], answer["rebuild"]["statement"]) == (False, None)
    assert not list((dist / "attestations").glob("rebuild.*"))
    lines = said(capsys, 1, dist, "--rebuild")
    assert "rebuilt: differs at the level file" in lines
    assert not lines[-1].startswith("ok")


def test_a_dist_that_does_not_hold_is_not_rebuilt(
    dist: Path, keys: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = rebuilt(monkeypatch)
    (dist / "SHA256SUMS").write_text("something else\n")
    lines = said(capsys, 1, dist, "--rebuild", "--sign-with", keys / "me.key")
    assert "not rebuilt: the dist as it is does not hold" in lines
    assert asked == []
    assert not list((dist / "attestations").glob("rebuild.*"))


def test_a_dist_of_which_a_part_is_here_is_not_rebuilt(
    dist: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = rebuilt(monkeypatch)
    table = {"schema": 1, "reference": "x/y:1", "digest": f"sha256:{'0' * 64}", "formats": ["raw"]}
    (dist / "pulled.json").write_text(json.dumps(table))
    for name in ("stereos.qcow2", "stereos.qcow2.zst"):
        (dist / name).unlink()
    assert "8 files" in said(capsys, 0, dist)[0]
    said(capsys, 2, dist, "--rebuild")
    assert asked == []


def test_the_schema_and_the_page_of_a_policy_are_printed(capsys: Capture) -> None:
    from stereo.trust.policy import policy_schema
    from stereo.trust.policy_page import policy_page

    assert run(["schema", "policy"]) == 0
    assert capsys.readouterr().out == policy_schema()
    assert run(["schema", "policy", "--markdown"]) == 0
    assert capsys.readouterr().out == policy_page()
