"""up, apply, status, list, down, destroy: what they print and what their exit status says. The guest is played."""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from makers.dist import make_dist
from stereo import runner
from stereo.assemble.place import publish
from stereo.cli.app import run
from stereo.dists.use import in_use
from stereo.model.architecture import Architecture
from stereo.sandbox import launch
from stereo.sandbox.client import kill
from stereo.sandbox.state import Folder, all_folders, users_of_dists
from stereo.vm import accel
from stereo.vm.machine import Accelerator
from stereo.vm.programs import Programs

Capture = pytest.CaptureFixture[str]
Write = Callable[[str], None]
PLAYED = Path(__file__).parents[1] / "sandbox" / "fake_supervisor.py"
SECRET = "a-value-for-nobody-to-see"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(launch, "SUPERVISOR", (sys.executable, str(PLAYED)))
    monkeypatch.setattr(
        runner, "need_programs", lambda cache, report, arch, sandbox: Programs((), (), None, "nowhere", arch)
    )
    monkeypatch.setattr(accel, "choose", lambda programs, cache, report: Accelerator.TCG)
    for variable in ("STATE", "CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"XDG_{variable}_HOME", str(tmp_path / variable.lower()))
    monkeypatch.delenv("STEREO_CACHE", raising=False)
    monkeypatch.setenv("KEY", SECRET)
    make_dist(tmp_path / "dist")
    (tmp_path / "dist/behaviour").write_text("agents")
    (tmp_path / "box").mkdir()
    monkeypatch.chdir(tmp_path / "box")
    yield
    for folder in all_folders():
        kill(folder.name)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to(jcard: str) -> None:
        (tmp_path / "box/jcard.toml").write_text(f'mixtape = "{tmp_path}/dist"\n{jcard}')

    to('secrets.KEY = "${KEY}"')
    return to


def told(capsys: Capture) -> Any:
    return json.loads(capsys.readouterr().out)


def test_up_says_each_phase_and_that_it_is_ready(write: Write, capsys: Capture) -> None:
    assert run(["up"]) == 0
    said = capsys.readouterr()
    assert "Booted (x86_64, emulated)" in said.err
    assert "Agents started" in said.err
    assert "box is ready" in said.err
    assert said.out == ""


def test_up_for_programs_is_one_object_per_line(write: Write, capsys: Capture) -> None:
    assert run(["up", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["phase", "phase", "phase", "ready"]
    assert {event["name"] for event in events} == {"box"}


def test_up_again_changes_nothing_and_says_so(write: Write, capsys: Capture) -> None:
    assert run(["up"]) == 0
    capsys.readouterr()
    assert run(["up"]) == 0
    assert "nothing changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("jcard", "what", "hint"),
    [
        ('secrets.KEY = "another"', "secrets.KEY", "stereo apply"),
        ('secrets.KEY = "${KEY}"\nresources.cpus = 1', "resources.cpus", "stereo down and stereo up"),
    ],
)
def test_up_with_another_jcard_names_what_changed_and_the_way(
    write: Write, capsys: Capture, jcard: str, what: str, hint: str
) -> None:
    run(["up"])
    capsys.readouterr()
    write(jcard)
    assert run(["up"]) == 1
    said = capsys.readouterr().err
    assert f"{what} changed" in said
    assert hint in said


def test_a_running_sandbox_keeps_its_architecture_and_says_what_gives_it_up(
    write: Write, capsys: Capture, tmp_path: Path
) -> None:
    run(["up"])
    capsys.readouterr()
    make_dist(tmp_path / "arm", arch=Architecture.AARCH64)
    (tmp_path / "box/jcard.toml").write_text(f'mixtape = "{tmp_path}/arm"\nsecrets.KEY = "${{KEY}}"')
    assert run(["up"]) == 1
    assert "stays with its architecture: `stereo destroy box`" in capsys.readouterr().err


def test_up_without_a_jcard_says_how_to_get_one(capsys: Capture) -> None:
    assert run(["up"]) == 2
    assert "stereo init" in capsys.readouterr().err


def test_up_refuses_a_variable_that_is_not_set(write: Write, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEY")
    assert run(["up"]) == 2
    assert "KEY is not set" in capsys.readouterr().err
    assert all_folders() == []


@pytest.mark.parametrize("name", ["bzImage", "initrd", "cmdline", "stereos.img"])
def test_up_refuses_a_dist_that_was_altered(write: Write, capsys: Capture, tmp_path: Path, name: str) -> None:
    run(["up"])
    run(["down"])
    capsys.readouterr()
    file = tmp_path / "dist" / name
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert run(["up"]) == 1
    assert f"{name}: is not what mixtape.toml says" in capsys.readouterr().err


def test_a_wrong_mixtape_digest_is_refused(write: Write, capsys: Capture) -> None:
    write(f'mixtape_digest = "sha256:{"0" * 64}"')
    assert run(["up"]) == 1
    assert "mixtape_digest" in capsys.readouterr().err


def test_a_failed_first_up_leaves_nothing(write: Write, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "dist/behaviour").write_text("refuses inject_secret")
    assert run(["up"]) == 1
    said = capsys.readouterr()
    assert "secret KEY" in said.err
    assert SECRET not in said.err + said.out
    assert all_folders() == []


def test_a_failed_up_can_be_kept(write: Write, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "dist/behaviour").write_text("refuses inject_secret")
    assert run(["up", "--keep"]) == 1
    capsys.readouterr()
    assert run(["status", "--json"]) == 0
    status = told(capsys)
    assert status["state"] == "failed"
    assert "secret KEY" in status["reason"]


def test_apply_tells_what_it_changed(write: Write, capsys: Capture) -> None:
    run(["up"])
    write('secrets.OTHER = "x"')
    capsys.readouterr()
    assert run(["apply"]) == 0
    assert capsys.readouterr().out == "secrets.KEY\nsecrets.OTHER\n"
    assert run(["apply", "--json"]) == 0
    assert told(capsys) == {"name": "box", "changed": []}


def test_apply_refuses_what_needs_a_new_start(write: Write, capsys: Capture) -> None:
    run(["up"])
    write('resources.memory = "1GiB"')
    assert run(["apply"]) == 1
    said = capsys.readouterr().err
    assert "resources.memory" in said
    assert "stereo down, then stereo up" in said
    assert "guest" not in said, "it was not asked"


def listens(folder: Folder) -> bool:
    try:
        folder.connect().close()
    except OSError:
        return False
    return True


def test_who_waits_for_a_start_that_somebody_ends_is_told_so(write: Write, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "dist/behaviour").write_text("mute")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(run, ["up"])
        while not listens(Folder("box")):
            assert not waiting.done()
            time.sleep(0.02)
        assert run(["exec", "true"]) == 1
        assert run(["down"]) == 0
        assert waiting.result() == 1
    said = capsys.readouterr().err
    assert "stereo: box: the sandbox is still starting" in said
    assert "it was ended while it started: `stereo down`" in said


def test_what_verbs_did_is_written_down_without_a_secret(
    write: Write, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(["up"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"what-comes-on-stdin")))
    run(["secret", "set", "LATE"])
    run(["exec", "-u", "root", "-e", "TOKEN=not-for-a-file", "echo", f"a {SECRET}\n", "x" * 5000])
    run(["status"])
    run(["exec", *["word"] * 200])
    run(["apply"])
    run(["down", "--grace", "1"])
    capsys.readouterr()
    assert run(["logs", "--actions", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    began, secret, one, many, _, down, end = rows
    assert (began["action"], began["secrets"]) == ("started", ["KEY"])
    assert (secret["action"], secret["name"]) == ("inject_secret", "LATE")
    assert (one["action"], one["user"], one["env"]) == ("exec", "root", ["TOKEN"])
    assert one["argv"] == ["echo", "a [secret KEY]\n", "x" * 1000]
    assert len(many["argv"]) == 100
    assert (down["action"], down["grace"]) == ("sandbox_down", 1.0)
    assert (end["action"], end["state"]) == ("ended", "stopped")
    file = Folder("box").actions_log
    assert not {word for word in (SECRET, "what-comes", "not-for-a-file") if word in file.read_text()}
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(b'{"time": NaN, "action": "exec"}\n[[\n\xff\n{"time": 1, "action": []}\n' + file.read_bytes())
    assert run(["logs", "--actions", "-n", "6"]) == 0
    shown = capsys.readouterr().out
    assert "exec          user=root argv=echo 'a [secret KEY]\\n'" in shown.replace("\n", "\\n")
    assert shown.count("sandbox_down") == 1
    assert run(["logs", "--actions", "--follow"]) == 2


def test_a_record_that_cannot_be_kept_stops_nobody(write: Write, capsys: Capture) -> None:
    run(["up"])
    log = Folder("box").actions_log
    log.unlink()
    run(["down"])
    log.unlink(missing_ok=True)
    log.mkdir()
    assert run(["up"]) == 0
    assert run(["exec", "true"]) == 0
    assert "was not recorded" in Folder("box").log.read_text()


def test_logs_of_an_agent_that_never_was_are_refused(write: Write, capsys: Capture, tmp_path: Path) -> None:
    write('[[agents]]\nname = "worker"\ntype = "native"\nharness = "custom"\nprompt = "work"')
    run(["up"])
    assert run(["logs", "worker"]) == 0
    assert run(["logs", "walker"]) == 2
    assert "there is no agent walker" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e12", "-1", "0"])
def test_a_time_that_is_none_is_wrong_usage(seconds: str, capsys: Capture) -> None:
    assert run(["exec", "--timeout", seconds, "true"]) == 2
    assert "--timeout" in capsys.readouterr().err
    if seconds != "0":
        assert run(["down", "--grace", seconds]) == 2
        assert "--grace" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["", ":"], [":notes", ""]])
def test_an_empty_path_is_not_this_folder(words: list[str], capsys: Capture) -> None:
    assert run(["cp", *words]) == 2
    assert "an empty path" in capsys.readouterr().err


def test_apply_needs_a_running_sandbox(write: Write, capsys: Capture) -> None:
    assert run(["apply"]) == 2
    assert "there is no sandbox box" in capsys.readouterr().err
    run(["up"])
    run(["down"])
    assert run(["apply"]) == 1
    assert "box is not running: stopped" in capsys.readouterr().err


def test_status_shows_the_machine_and_its_agents(write: Write, capsys: Capture) -> None:
    write('[[agents]]\nname = "worker"\ntype = "native"\nharness = "custom"\nprompt = "work"')
    run(["up"])
    capsys.readouterr()
    assert run(["status"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:3] == ["box", "is", "running"]
    assert ["worker", "running", "-", "0"] in lines
    assert run(["status", "box", "--json"]) == 0
    status = told(capsys)
    assert status["agents"][0]["name"] == "worker"
    assert status["mixtape"] == "sample-mixtape:2026.01.02.0"
    assert status["arch"] == "x86_64"


def test_list_shows_what_runs_and_what_does_not(write: Write, capsys: Capture) -> None:
    assert run(["list"]) == 0
    assert capsys.readouterr().out == ""
    run(["up"])
    capsys.readouterr()
    assert run(["ls", "--json"]) == 0
    assert [(row["name"], row["state"]) for row in told(capsys)] == [("box", "running")]
    run(["down"])
    capsys.readouterr()
    assert run(["list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["box", "stopped"]


def test_down_tells_how_it_went_and_is_content_with_less(write: Write, capsys: Capture) -> None:
    run(["up"])
    capsys.readouterr()
    assert run(["down", "--json"]) == 0
    assert told(capsys) == {"name": "box", "how": "it shut down", "state": "stopped"}
    assert run(["down"]) == 0
    assert "not running" in capsys.readouterr().err


@pytest.mark.parametrize("running", [True, False])
def test_destroy_removes_all_of_it(write: Write, capsys: Capture, running: bool) -> None:
    run(["up"])
    if not running:
        run(["down"])
    assert run(["destroy", "--yes"]) == 0
    assert not Folder("box").exists()
    assert list(Folder("box").root.iterdir()) == []


def test_destroy_asks_first(write: Write, capsys: Capture) -> None:
    run(["up"])
    assert run(["destroy"]) == 2
    assert "--yes" in capsys.readouterr().err
    assert Folder("box").exists()


def test_without_a_name_or_a_jcard_the_only_sandbox_is_meant(
    write: Write, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["status"]) == 2
    assert "there is no sandbox" in capsys.readouterr().err
    assert run(["up", "--config", "box/jcard.toml"]) == 0
    capsys.readouterr()
    assert run(["status", "--json"]) == 0
    assert told(capsys)["name"] == "box"
    Folder("other").make()
    assert run(["status"]) == 2
    assert "box, other" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../box", "/etc", "BOX", "."])
def test_a_name_that_is_a_path_is_refused(name: str, capsys: Capture) -> None:
    assert run(["destroy", "--yes", "--", name]) == 2
    assert "no name of a sandbox" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["status"], ["status", "other"], ["down", "other"], ["destroy", "--yes", "other"]])
def test_one_that_is_not_there_is_wrong_usage(write: Write, capsys: Capture, words: list[str]) -> None:
    assert run(words) == 2
    assert f"there is no sandbox {words[-1].replace('status', 'box')}" in capsys.readouterr().err


def test_one_that_cannot_be_read_does_not_hide_the_others(write: Write, capsys: Capture) -> None:
    write("")
    assert run(["up"]) == 0
    bad = Folder("bad")
    bad.make()
    (bad.path / "sandbox.json").write_text("{")
    capsys.readouterr()
    assert run(["list"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["bad", "unreadable"],
        ["box", "running"],
    ]
    assert run(["status", "--all", "--json"]) == 0
    told = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert told["box"]["state"] == "running"
    assert told["bad"]["state"] == "unreadable"
    assert "sandbox.json: cannot be read" in told["bad"]["reason"]
    assert run(["destroy", "bad", "--yes"]) == 0
    assert [folder.name for folder in all_folders()] == ["box"]


def test_its_dist_is_in_use_while_it_runs_and_needed_until_it_is_destroyed(write: Write, tmp_path: Path) -> None:
    dist = tmp_path / "dist"
    write("")
    assert run(["up"]) == 0
    assert in_use(dist) == "a running program"
    assert users_of_dists() == {dist: "sandbox box"}
    assert run(["down"]) == 0
    assert in_use(dist) is None
    assert in_use(dist, users_of_dists()) == "sandbox box"
    assert run(["destroy", "--yes"]) == 0
    assert in_use(dist, users_of_dists()) is None


def test_a_dist_that_is_built_anew_leaves_a_running_sandbox_what_it_has_open(
    write: Write, tmp_path: Path, capsys: Capture
) -> None:
    """What is replaced is renamed as a whole; the next start finds another dist than its disk was made for."""
    dist = tmp_path / "dist"
    write("")
    assert run(["up"]) == 0
    make_dist(tmp_path / "new", words="loud")
    (tmp_path / "new/behaviour").write_text("agents")
    with (dist / "stereos.img").open("rb") as file:
        before = file.read()
        publish(tmp_path / "new", dist)
        shutil.rmtree(tmp_path / "new")
        file.seek(0)
        assert file.read() == before
    assert in_use(dist) is None  # the new one is nobody's yet
    assert run(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "running"
    assert run(["down"]) == 0
    assert in_use(dist, users_of_dists()) == "sandbox box"
