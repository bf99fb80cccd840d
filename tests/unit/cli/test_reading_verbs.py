"""mixtapes, show, schema, verify, lock: what they print, and what their exit status says."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest

from stereo.build.defaults import chosen_architecture, this_machine
from stereo.check import verify as verify_module
from stereo.check.contents import Finding
from stereo.check.verify import Verdict
from stereo.cli.app import run
from stereo.dists.use import in_use
from stereo.errors import StereoError, UsageError
from stereo.inputs import lock as lock_module
from stereo.inputs.lockfiles import LockFolder
from stereo.inputs.sources import Sources
from stereo.model.architecture import Architecture
from stereo.model.jcard import jcard_schema
from stereo.model.jcard_page import jcard_page
from stereo.model.lock import Deb, Lock, render_lock
from stereo.model.mixtape import load_mixtape, mixtape_schema
from stereo.paths import Checkout

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No developer's key and no cache of the person who runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("STEREO_CACHE", str(tmp_path / "cache"))


def test_mixtapes_are_listed_with_harness_and_summary(capsys: Capture) -> None:
    assert run(["mixtapes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "HARNESS", "ARCHITECTURES", "SUMMARY"]
    assert any(line.split()[:3] == ["opencode-mixtape", "opencode", "x86_64,aarch64"] for line in lines)


def test_mixtapes_as_json(capsys: Capture) -> None:
    assert run(["mixtapes", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    (found,) = [each for each in json.loads(said.out) if each["name"] == "opencode-mixtape"]
    assert found["api_keys"] == ["ANTHROPIC_API_KEY", "OPENAI_API_KEY"]


def test_show_tells_what_is_inherited(capsys: Capture) -> None:
    assert run(["show", "opencode-mixtape"]) == 0
    text = capsys.readouterr().out
    assert "mixtapes/opencode-mixtape.toml <- mixtapes/base.toml" in text
    assert "opencode-linux-x64-baseline" in text


def test_show_of_a_dev_profile_needs_no_key(capsys: Capture) -> None:
    assert run(["show", "base-dev", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["name"], data["dev"], data["authorized_keys"]) == ("base-dev", True, [])


def test_an_architecture_that_a_mixtape_is_not_made_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Checkout.containing_this_package().mixtapes
    base = load_mixtape("base", folder, dev_key=None).model_copy(update={"architectures": (Architecture.X86_64,)})
    with pytest.raises(UsageError) as caught:
        chosen_architecture(base, "aarch64")
    assert caught.value.hint == "its architectures: x86_64"
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert chosen_architecture(base, None) is Architecture.X86_64


@pytest.mark.parametrize(("machine", "arch"), [("arm64", "aarch64"), ("AMD64", "x86_64"), ("aarch64", "aarch64")])
def test_a_machine_is_known_under_what_its_system_calls_it(
    monkeypatch: pytest.MonkeyPatch, machine: str, arch: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert this_machine() == arch


@pytest.mark.parametrize("words", [["build", "base"], ["lock", "test-tools"], ["pull", "base"]])
def test_on_a_machine_that_is_none_of_ours_it_is_told_which_are(
    monkeypatch: pytest.MonkeyPatch, words: list[str], capsys: Capture
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert run(words) == 2
    assert "one of x86_64, aarch64" in capsys.readouterr().err


def test_schema_is_the_models(capsys: Capture) -> None:
    assert run(["schema", "mixtape"]) == 0
    assert capsys.readouterr().out == mixtape_schema()
    assert run(["schema", "jcard"]) == 0
    assert capsys.readouterr().out == jcard_schema()


def test_the_page_on_jcards_is_the_models(capsys: Capture) -> None:
    assert run(["schema", "jcard", "--markdown"]) == 0
    assert capsys.readouterr().out == jcard_page()
    assert run(["schema", "mixtape", "--markdown"]) == 2
    assert "docs/mixtapes.md" in capsys.readouterr().err


def judged(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    monkeypatch.setattr(verify_module, "verify", lambda *_, **__: Verdict(None, findings))


def test_verify_names_what_failed_and_exits_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    judged(monkeypatch, Finding("bzImage", "digest", False, "is another"), Finding("init", "digest", True, "fits"))
    assert run(["verify", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "FAILED  bzImage: digest: is another"
    assert "init" not in "".join(lines)


def test_a_dist_that_is_being_verified_cannot_be_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    held = []

    def look(folder: Path, *_: object, **__: object) -> Verdict:
        held.append(in_use(folder))
        return Verdict(None, (Finding("init", "digest", True, "fits"),))

    monkeypatch.setattr(verify_module, "verify", look)
    run(["verify", str(tmp_path)])
    assert held == ["a running program"]
    assert in_use(tmp_path) is None


def test_verify_as_json_has_every_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    judged(monkeypatch, Finding("bzImage", "digest", False, "is another"), Finding("init", "digest", True, "fits"))
    assert run(["verify", str(tmp_path), "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert (data["ok"], data["failed"], len(data["findings"])) == (False, ["bzImage"], 2)


def test_verify_shows_hostile_names_harmless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    judged(monkeypatch, Finding("\x1b[2Jx", "unexpected", False, "\x07"))
    run(["verify", str(tmp_path)])
    assert "\x1b" not in capsys.readouterr().out


def test_verify_of_no_folder_is_wrong_usage(tmp_path: Path) -> None:
    assert run(["verify", str(tmp_path / "absent")]) == 2


def made(name: str = "base", version: str = "1", arch: Architecture = Architecture.X86_64) -> Lock:
    deb = Deb(
        name="apt",
        version=version,
        arch="all",
        path="pool/main/a/apt/apt.deb",
        size=1,
        sha256="0" * 64,
        archive="main",
    )
    return Lock(name=name, arch=arch, epoch=1_700_000_000, debian={"image": (deb,)})


@pytest.fixture
def locking(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A resolver that finds version `found["version"]` of one package, and notes what it was asked."""
    found: dict[str, Any] = {"version": "1", "asked": []}

    def resolve(name: str, arch: Architecture, groups: object, *, previous: Lock | None, **_: object) -> Lock:
        found["asked"].append((name, arch))
        lock = made(name, found["version"], arch)
        return previous if previous == lock else lock

    monkeypatch.setattr(lock_module, "make_lock", resolve)
    monkeypatch.setattr(Sources, "from_host", classmethod(lambda cls, overrides: cls()))
    return found


def test_lock_writes_a_file_and_then_nothing(locking: dict[str, Any], tmp_path: Path, capsys: Capture) -> None:
    words = ["lock", "base", "--locks", str(tmp_path)]
    assert run(words) == 0
    file = tmp_path / "base-x86_64.lock"
    assert file.read_text() == render_lock(made())
    before = file.stat()
    capsys.readouterr()
    assert run(words) == 0
    assert "unchanged" in capsys.readouterr().out
    assert file.stat().st_mtime_ns == before.st_mtime_ns


def test_lock_diff_writes_nothing_and_exits_1_on_a_change(
    locking: dict[str, Any], tmp_path: Path, capsys: Capture
) -> None:
    words = ["lock", "base", "--locks", str(tmp_path)]
    run(words)
    before = (tmp_path / "base-x86_64.lock").read_bytes()
    assert run([*words, "--diff"]) == 0
    locking["version"] = "2"
    capsys.readouterr()
    assert run([*words, "--diff"]) == 1
    assert "apt" in capsys.readouterr().out
    assert (tmp_path / "base-x86_64.lock").read_bytes() == before


def test_lock_all_is_the_tools_of_every_host_and_every_mixtape_for_all_that_it_is_made_for(
    locking: dict[str, Any], tmp_path: Path
) -> None:
    assert run(["lock", "--all", "--locks", str(tmp_path)]) == 0
    asked = set(locking["asked"])
    assert len(asked) == len(locking["asked"])
    assert {(name, arch) for name in ("tools", "base", "coder") for arch in Architecture} <= asked
    assert [arch for name, arch in asked if name == "test-tools"] == [platform.machine()]


def test_lock_of_one_architecture_asks_for_that_alone(locking: dict[str, Any], tmp_path: Path) -> None:
    assert run(["lock", "tools", "--arch", "aarch64", "--locks", str(tmp_path)]) == 0
    assert run(["lock", "base", "--arch", "x86_64", "--locks", str(tmp_path)]) == 0
    assert locking["asked"] == [("tools", "aarch64"), ("base", "x86_64")]


@pytest.mark.parametrize("words", [[], ["base", "--all"]])
def test_lock_wants_either_a_name_or_all(words: list[str]) -> None:
    assert run(["lock", *words]) == 2


def test_a_lock_under_the_name_of_another_is_refused(tmp_path: Path) -> None:
    tmp_path.joinpath("coder-x86_64.lock").write_text(render_lock(made("base")))
    with pytest.raises(Exception, match="is the lock of base"):
        LockFolder(tmp_path).find("coder", Architecture.X86_64)


def test_a_missing_lock_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="stereo lock base"):
        LockFolder(tmp_path).read("base", Architecture.X86_64)


def test_a_lock_that_cannot_be_read_is_made_anew(locking: dict[str, Any], tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "base-x86_64.lock"
    file.write_text(render_lock(made())[:200])
    assert run(["lock", "base", "--locks", str(tmp_path)]) == 0
    assert file.read_text() == render_lock(made())
    assert "cannot be used" in capsys.readouterr().err


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_what_is_no_file_is_no_lock_and_does_not_hang_us(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "base-x86_64.lock"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(StereoError, match=f"stereo lock base --locks {tmp_path}"):
        LockFolder(tmp_path).read("base", Architecture.X86_64)


def test_schema_is_json_also_when_asked_for_json(capsys: Capture) -> None:
    assert run(["schema", "mixtape", "--json"]) == 0
    assert capsys.readouterr().out == mixtape_schema()
