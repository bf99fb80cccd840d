"""The scripts of ci/: each starts, explains itself, and refuses what cannot work before it begins."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from makers.jobs import ROOT, Script
from stereo.distribution.publish import publish
from stereo.model.architecture import Architecture
from stereo.pipeline.jobs import JOBS, SECRETS
from stereo.pipeline.login import logged_in
from stereo.pipeline.verbs import Verbs
from stereo.report import Silent
from unit.distribution.publishing import VERSION, layout, release

NAMES = [*sorted(job.name for job in JOBS), "matrix", "nightly", "release"]


def script(name: str, *words: str | Path, status: int = 0, cwd: Path) -> subprocess.CompletedProcess[str]:
    return Script(lambda line: None, name)(*words, cwd=cwd, env={"STEREO_CACHE": str(cwd / "cache")}, status=status)


@pytest.mark.parametrize("name", NAMES)
def test_every_script_explains_itself_with_examples(name: str, tmp_path: Path) -> None:
    said = script(name, "--help", cwd=tmp_path).stdout
    assert said.startswith(f"Usage: ci/{name} ")
    assert re.search(rf"Examples:\n +ci/{name}\b", said)
    assert "Exit status:" in said
    assert "--json" in said


def test_every_job_has_its_script_and_every_script_can_be_started() -> None:
    scripts = {path.name for path in (ROOT / "ci").iterdir() if path.is_file() and not path.suffix}
    assert {*NAMES, "prepare"} <= scripts
    assert [name for name in scripts if not os.access(ROOT / "ci" / name, os.X_OK)] == []


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("release", ["--to", "./out"], "to sign with which key?"),
        ("release", ["--to", "", "--plan"], "to publish where?"),
        ("release", ["--to", "no host", "--key", "-"], "is no reference"),
        ("release", ["--to", "https://h.example/x", "--key", "-"], "is a web server, and that takes nothing"),
        ("release", ["--to", "./out", "--key", "nobody"], "there is no key 'nobody'"),
        ("release", ["--to", "./out", "--key", "-", "--mixtapes", "bse"], "there is no mixtape 'bse'"),
        ("release", ["--to", "./out", "--key", "-", "--version", "1.0"], "'1.0' is no version"),
        ("release", ["--to", "./out", "--key", "-", "--quick", "--level", "3"], "--quick chooses the level itself"),
        ("release", [], "Missing option '--to'"),
        ("boot", [], "of which version?"),
        ("matrix", ["base", "--scheduler", "tcp://10.0.0.1:1"], "could run code on all workers"),
        ("matrix", ["base", "--scheduler", "tls://h:1", "--workers", "2"], "two ways to get workers"),
        ("matrix", ["base", "--scheduler", "tls://h:1", "--tls-ca", "ca"], "one without the others"),
    ],
)
def test_what_cannot_work_is_refused_at_once(name: str, words: list[str], said: str, tmp_path: Path) -> None:
    assert said in script(name, *words, status=2, cwd=tmp_path).stderr
    assert not (tmp_path / "cache" / "release" / "jobs").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [("boot", []), ("reproduce", []), ("sign", ["--key", "-"]), ("publish", ["--to", "./published"])],
)
def test_a_job_without_a_dist_says_which_one_it_misses(name: str, words: list[str], tmp_path: Path) -> None:
    which = ("--version", "2026.01.31.0", "--mixtapes", "base", "--arch", "x86_64", "--work", tmp_path / "work")
    done = script(name, *words, *which, "--json", status=1, cwd=tmp_path)
    (row,) = json.loads(done.stdout)["jobs"]
    assert row["state"] == "failed"
    place = str(tmp_path / "work/dist/base/2026.01.31.0")
    assert row["said"].startswith(place)
    assert "there is no dist" in row["said"]


def test_a_release_that_would_take_an_architecture_from_a_tag_is_refused_before_it_begins(tmp_path: Path) -> None:
    place = layout(tmp_path / "published" / "base")
    both = [release(tmp_path / arch, name="base", arch=arch) for arch in Architecture]
    publish(both, place, floating=["nightly", "latest"], report=Silent())
    words = ("--to", tmp_path / "published", "--mixtapes", "base", "--arch", "x86_64", "--plan")
    for name, more in (("release", ("--tag", "nightly")), ("nightly", ())):
        refused = script(name, *words, *more, status=2, cwd=tmp_path).stderr
        assert "nightly: is there for aarch64, which would be lost" in refused
    assert "version=" in script("release", *words, cwd=tmp_path).stdout  # latest stays, as publish has it
    script("release", *words, "--tag", "nightly", "--version", VERSION, cwd=tmp_path)  # there for both already


def test_no_program_of_a_release_sees_its_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "hidden")
    told: list[str] = []
    monkeypatch.setattr(Silent, "note", lambda self, text: told.append(text))
    Verbs(tmp_path, Silent()).program(["env"])
    assert told
    assert [line for line in told if "hidden" in line] == []


def test_a_registry_s_password_is_lent_by_a_file_that_goes() -> None:
    secrets = {"STEREO_REGISTRY_USER": "ci", "STEREO_REGISTRY_PASSWORD": "p:w"}
    with logged_in("registry.example:5000/mixtapes", secrets) as login:
        path = Path(login["REGISTRY_AUTH_FILE"])
        assert json.loads(path.read_text()) == {"auths": {"registry.example:5000": {"auth": "Y2k6cDp3"}}}
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


@pytest.mark.parametrize(("to", "secrets"), [("./out", {"STEREO_REGISTRY_PASSWORD": "p"}), ("registry.example/a", {})])
def test_who_needs_no_password_is_lent_none(to: str, secrets: dict[str, str]) -> None:
    with logged_in(to, secrets) as login:
        assert login == {}


@pytest.mark.parametrize(("words", "status"), [(["--help"], 0), (["-h"], 0), (["--from", "scratch"], 2)])
def test_preparing_a_machine_begins_only_when_that_was_asked(words: list[str], status: int) -> None:
    done = subprocess.run([ROOT / "ci" / "prepare", *words], env={"PATH": "/nowhere"}, capture_output=True, text=True)
    assert done.returncode == status
    assert "Usage: ci/prepare" in done.stdout or "see ci/prepare --help" in done.stderr
