"""`stereo pull` as it is typed: what it answers, and how it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from makers.published import OLD, make_release, publish_in_layout
from stereo.cli.app import run


@pytest.fixture
def reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("STEREO_POLICY", raising=False)
    layout = tmp_path / "registry" / "sample"
    publish_in_layout(layout, make_release(tmp_path / "dist"))
    return f"oci:{layout}:{OLD}"


def test_it_tells_what_it_did_and_that_nobody_was_asked(reference: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pull", reference, "--arch", "x86_64", "-q"]) == 0
    said = capsys.readouterr().out
    assert f"sample-mixtape {OLD}, fetched" in said
    assert "nobody's signature was checked" in said
    assert run(["pull", reference, "--arch", "x86_64", "-q"]) == 0
    assert "was there already" in capsys.readouterr().out


def test_as_json_it_counts_the_bytes(reference: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pull", reference, "--arch", "x86_64", "-o", str(tmp_path / "here"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["path"] == str(tmp_path / "here")
    assert answer["bytes"]["fetched"] == answer["bytes"]["size"] > 0
    assert answer["signers"] is None


def test_a_policy_that_does_not_believe_it_fails_it(
    reference: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from makers.signing import new_key

    new_key(tmp_path / "keys", "somebody")
    assert run(["pull", reference, "--arch", "x86_64", "--key", str(tmp_path / "keys" / "somebody.pub")]) == 1
    said = capsys.readouterr().err
    assert "the policy does not believe" in said
    assert "missing" in said
    assert not (tmp_path / "XDG_DATA_HOME" / "stereo" / "dists").exists()


@pytest.mark.parametrize("words", [["UPPER"], ["oci:"], ["x:y@z"], ["sample", "--jobs", "0"], ["s", "--format", "iso"]])
def test_what_can_never_work_is_wrong_usage(words: list[str], reference: str) -> None:
    assert run(["pull", *words]) == 2


def test_what_is_not_there_is_said(reference: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pull", f"{reference.removesuffix(OLD)}2030.01.01.0", "--arch", "x86_64", "--json"]) == 1
    assert "2030.01.01.0" in json.loads(capsys.readouterr().err)["error"]["what"]


def test_what_a_pull_has_no_use_for_is_not_imported(reference: str) -> None:
    started = f"import sys; from stereo.cli.app import run; assert run({['pull', reference, '--arch', 'x86_64']}) == 0;"
    unused = ["tomlkit", "stereo.assemble.compress", "stereo.trust.policy", "stereo.trust.judge", "oras.auth"]
    listed = f"print([name for name in {unused} if name in sys.modules], file=sys.stderr)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    argv = [sys.executable, "-c", f"{started} {listed}"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
