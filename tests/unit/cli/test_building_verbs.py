"""build, diff, render, clean, doctor, boot: what they ask of the working parts, and what they answer."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stereo import dists, runner
from stereo import doctor as doctor_module
from stereo.assemble import dist as dist_module
from stereo.build import plans
from stereo.build.budget import size_of
from stereo.check import diff as diff_module
from stereo.check.differences import Difference, Level
from stereo.cli import build as build_module
from stereo.cli.app import run
from stereo.dists import Dist
from stereo.doctor import Check, Status
from stereo.errors import StereoError
from stereo.holding import holding
from stereo.inputs.lockfiles import LockFolder
from stereo.model.architecture import Architecture
from stereo.paths import Cache, Checkout
from stereo.report import Silent
from stereo.sweep import heaps, running_build
from stereo.vm import accel as accel_module
from stereo.vm import boot as boot_module
from stereo.vm.machine import Accelerator
from stereo.vm.programs import Firmware, Programs
from stereo.vm.timeline import Phase, Timeline

Capture = pytest.CaptureFixture[str]
CHECKOUT = Checkout.containing_this_package()
X86 = Architecture.X86_64


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("STEREO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("STEREO_VERSION", raising=False)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    monkeypatch.chdir(tmp_path)


def manifest() -> Any:
    """As much of a manifest as the verbs look at."""
    return SimpleNamespace(
        name="base",
        version="2026.01.31.0",
        arch="x86_64-linux",
        artifacts=SimpleNamespace(raw=SimpleNamespace(compressed_size=2_000_000)),
        files=lambda: [("stereos.img", "0" * 64, 10)],
    )


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Planning without locks; `asked` is what was asked of it, `made` the dists that were made."""
    seen: dict[str, Any] = {"asked": {}, "made": []}

    def plan_of(name: str, **asked: Any) -> Any:
        seen["asked"] = asked
        mixtape = SimpleNamespace(name=name)
        return SimpleNamespace(mixtape=mixtape, version="2026.01.31.0", arch="x86_64", key="f" * 64)

    def make(out: object, dist: Path, plan: object, **_: object) -> Any:
        dist.mkdir(parents=True, exist_ok=True)
        seen["made"].append(dist)
        return manifest()

    monkeypatch.setattr(plans, "plan_of", plan_of)
    monkeypatch.setattr(build_module, "_made", make)
    monkeypatch.setattr(dist_module, "is_current", lambda dist, key: dist in seen["made"])
    monkeypatch.setattr(dist_module, "read_manifest", lambda dist: manifest())
    return seen


def test_build_makes_a_dist_and_points_result_at_it(planned: dict[str, Any], tmp_path: Path, capsys: Capture) -> None:
    assert run(["build", "base"]) == 0
    made = tmp_path / "dist" / "base" / "2026.01.31.0" / "x86_64"
    assert planned["made"] == [made]
    assert Path("result").resolve() == made
    assert (tmp_path / "data/stereo/dists/base/2026.01.31.0/x86_64").readlink() == made
    assert f"{made}: built" in capsys.readouterr().out


def test_a_store_that_cannot_be_written_spoils_no_build(
    planned: dict[str, Any], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "data").write_text("")
    assert run(["build", "base"]) == 0
    assert "not in the local store: " in capsys.readouterr().err


def test_build_does_nothing_when_nothing_changed(planned: dict[str, Any], capsys: Capture) -> None:
    run(["build", "base"])
    capsys.readouterr()
    assert run(["build", "base", "--json"]) == 0
    assert len(planned["made"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["unchanged"] is True
    assert data["files"]["stereos.img"] == {"sha256": "0" * 64, "size": 10}


def test_build_force_makes_it_again(planned: dict[str, Any]) -> None:
    run(["build", "base"])
    run(["build", "base", "--force"])
    assert len(planned["made"]) == 2


@pytest.mark.parametrize(("words", "level"), [([], 19), (["--level", "7"], 7), (["--quick"], plans.QUICK_LEVEL)])
def test_build_compresses_at_the_level_asked_for(planned: dict[str, Any], words: list[str], level: int) -> None:
    run(["build", "base", *words])
    assert planned["asked"]["level"] == level


@pytest.mark.parametrize(
    "words", [["--quick", "--level", "3"], ["--level", "23"], ["--level", "0"], ["--jobs", "0"], ["--arch", "sparc"]]
)
def test_build_refuses_options_that_cannot_be(planned: dict[str, Any], words: list[str]) -> None:
    assert run(["build", "base", *words]) == 2
    assert planned["made"] == []


def test_build_never_replaces_a_result_that_is_no_link(planned: dict[str, Any], tmp_path: Path) -> None:
    tmp_path.joinpath("result").mkdir()
    assert run(["build", "base"]) == 1
    assert tmp_path.joinpath("result").is_dir()
    assert planned["made"] == []  # said before the work, not after it


def test_build_of_a_dev_profile_without_a_key_says_how_to_make_one(capsys: Capture) -> None:
    assert run(["build", "base-dev"]) == 2
    assert "ssh-keygen" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--version", "1.0"], ["--arch", "riscv64"]])
def test_build_refuses_before_it_begins(words: list[str], tmp_path: Path) -> None:
    assert run(["build", "base", *words]) == 2
    assert not tmp_path.joinpath("dist").exists()


def test_build_without_a_lock_says_how_to_lock(tmp_path: Path, capsys: Capture) -> None:
    assert run(["build", "base", "--locks", str(tmp_path / "none")]) == 1
    assert "stereo lock base" in capsys.readouterr().err


def test_render_writes_a_tree_into_a_new_folder_only(tmp_path: Path) -> None:
    assert run(["render", "base", "-o", str(tmp_path / "tree"), "--version", "2026.01.31.0", "--no-inputs"]) == 0
    assert tmp_path.joinpath("tree", "image", "mkosi.conf").is_file()
    assert run(["render", "base", "-o", str(tmp_path / "tree"), "--no-inputs"]) == 2


def test_rendering_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(["render", "base", "-o", str(tmp_path / name), "--version", "2026.01.31.0", "--no-inputs", "-q"])
    assert run(["diff", str(tmp_path / "one" / "build"), str(tmp_path / "two" / "build")]) == 0


DIFFERENCE = Difference(Level.PARTITION, "stereos.img: root", "content differs at byte 9")


@pytest.mark.parametrize(("found", "status", "text"), [([], 0, "identical"), ([DIFFERENCE], 1, "partition: ")])
def test_diff_exits_1_on_a_difference(
    found: list[Difference], status: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(diff_module, "diff", lambda *_: found)
    assert run(["diff", "a", "b"]) == status
    assert capsys.readouterr().out.startswith(text)


def test_diff_as_json_names_the_level(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(diff_module, "diff", lambda *_: [DIFFERENCE])
    assert run(["diff", "a", "b", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert (data["identical"], data["differences"][0]["level"]) == (False, "partition")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache with one thing of each kind that nobody needs."""
    cache = Cache(tmp_path / "cache")
    for path in (
        cache.store / "sha256" / "00" / ("0" * 64),
        cache.tools / "old" / "usr" / "bin" / "tool",
        cache.trees / "old.tar",
        cache.images / "old" / "image.raw",
        cache.frames / "19" / "frame",
        cache.work / "image-dead" / "file",
    ):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(5000))
    return cache


def test_clean_shows_and_removes_nothing_without_a_yes(cache: Cache, capsys: Capture) -> None:
    assert run(["clean", "--dry-run"]) == 0
    assert run(["clean"]) == 0
    assert "nothing was removed; --yes removes it" in capsys.readouterr().out
    assert (cache.images / "old").exists()


def test_clean_yes_removes_what_nobody_needs(cache: Cache, capsys: Capture) -> None:
    assert run(["clean", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] is True
    left = [path for path in cache.root.rglob("*") if path.is_file()]
    assert left == []


def test_clean_keeps_what_the_locks_name(cache: Cache) -> None:
    named = next(iter(LockFolder(CHECKOUT.manifests).read("base", Architecture.X86_64).items())).sha256
    blob = cache.store / "sha256" / named[:2] / named
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"x")
    run(["clean", "--yes", "-q"])
    assert blob.exists()
    run(["clean", "--yes", "--all", "-q"])
    assert not blob.exists()


def test_clean_leaves_a_running_build_alone(cache: Cache, capsys: Capture) -> None:
    with (cache.work / "image-dead.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert running_build(cache) == "image-dead"
        work = next(heap for heap in heaps(cache, CHECKOUT, [], everything=True) if heap.kind == "leftovers of builds")
        assert work.paths == ()
        assert run(["clean", "--yes"]) == 1
    assert "a build is running" in capsys.readouterr().err
    assert (cache.images / "old").exists()


def test_clean_does_not_follow_links(cache: Cache, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.joinpath("file").write_bytes(bytes(10**6))
    cache.images.joinpath("link").symlink_to(outside)
    assert size_of(cache.images / "link") < 10**5
    run(["clean", "--yes", "--all", "-q"])
    assert outside.joinpath("file").exists()
    assert not cache.images.joinpath("link").is_symlink()


def test_clean_as_json_cannot_ask(cache: Cache) -> None:
    assert run(["clean", "--json"]) == 2


@pytest.mark.parametrize(("status", "code"), [(Status.OK, 0), (Status.WARN, 0), (Status.MISSING, 1)])
def test_doctor_fails_only_for_what_is_needed(
    status: Status, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(doctor_module, "run_checks", lambda *_, **__: [Check("thing", status, "so it is", "mend it")])
    assert run(["doctor"]) == code
    shown = capsys.readouterr().out
    assert "so it is" in shown
    assert ("mend it" in shown) == (status is not Status.OK)


def test_doctor_answers_on_this_machine(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "_machines", lambda *_, **__: iter(()))
    assert run(["doctor", "--json"]) in (0, 1)
    names = {check["name"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert {"Python", "namespaces", "subordinate ids", "Debian's main archive", "disk space here"} <= names


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_boot_waits_for_ready_where_nobody_types(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def booted(*_: object, until: str, **__: object) -> Timeline:
        asked.append(until)
        return Timeline((Phase("ready", 1.0),), 1.0)

    monkeypatch.setattr(dists, "dist_in", lambda folder: Dist(folder, "base", "1", X86, ""))
    monkeypatch.setattr(runner, "need_programs", lambda *_: _programs("here", firmware=True))
    monkeypatch.setattr(accel_module, "choose", lambda *_: Accelerator.TCG)
    monkeypatch.setattr(boot_module.BootFiles, "in_folder", lambda _: None)
    monkeypatch.setattr(boot_module, "make_spec", lambda *_, **__: None)
    monkeypatch.setattr(boot_module, "boot", booted)
    assert run(["boot", ".", *words]) == 0
    assert asked == ["ready"]


@pytest.mark.parametrize("words", [["--with", "iso"], ["--timeout", "0"], ["--cpus", "0"], ["--memory", "1"]])
def test_boot_refuses_machines_that_cannot_be(words: list[str], tmp_path: Path) -> None:
    assert run(["boot", str(tmp_path), *words]) == 2


def _programs(origin: str, firmware: bool) -> Programs:
    return Programs(("qemu",), ("qemu-img",), Firmware(Path("c"), Path("v")) if firmware else None, origin, X86)


@pytest.mark.parametrize(
    ("tree", "host", "origin"),
    [
        (True, True, "tree"),
        (False, True, "host"),
        (False, False, "made"),
    ],
)
def test_machines_use_the_locked_qemu_then_the_hosts_then_make_the_tools(
    tree: bool, host: bool, origin: str, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(folder: Path | None, arch: Architecture) -> Programs:
        if folder == Path("made"):
            return _programs("made", True)
        if not (tree if folder else host):
            raise StereoError("no QEMU")
        return _programs("tree" if folder else "host", True)

    monkeypatch.setattr(Programs, "find", find)
    monkeypatch.setattr(runner, "_make_tools", lambda *_: Path("made"))
    assert runner.need_programs(cache, Silent(), X86).origin == origin


def test_a_host_without_firmware_gets_the_locked_tools(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Programs, "find", lambda folder, arch: _programs(str(folder), folder == Path("made")))
    monkeypatch.setattr(runner, "_make_tools", lambda *_: Path("made"))
    assert runner.need_programs(cache, Silent(), X86).origin == "made"


def test_clean_leaves_the_tools_of_a_running_machine(cache: Cache, capsys: Capture) -> None:
    (cache.tools / "used").mkdir(parents=True)
    with holding(cache.tools / "used"):
        assert run(["clean", "--yes", "--all", "-q"]) == 0
        assert (cache.tools / "used").exists()
    assert run(["clean", "--yes", "--all", "-q"]) == 0
    assert not (cache.tools / "used").exists()


def test_clean_and_doctor_tell_the_limit_of_what_builds_keep(
    cache: Cache, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEREO_CACHE_LIMIT", "5GB")
    assert run(["clean", "--dry-run"]) == 0
    assert "5.0 GB  of images and trees is what builds keep at most" in capsys.readouterr().out
    assert doctor_module._cache_use(cache).status is Status.OK
    monkeypatch.setenv("STEREO_CACHE_LIMIT", "1")
    assert doctor_module._cache_use(cache).status is Status.WARN
    monkeypatch.setenv("STEREO_CACHE_LIMIT", "much")
    assert doctor_module._cache_use(cache).status is Status.MISSING
    assert run(["clean", "--dry-run"]) == 2
