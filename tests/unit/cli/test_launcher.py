"""The launcher: it makes its environment once, whole, for everybody, and gets out of the way."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stereo.paths import Checkout

ROOT = Checkout.containing_this_package().root
SAY = "import os, sys; print([sys.prefix, os.getcwd(), sys.flags.isolated, *sys.argv[1:]])\n"


def make_checkout(root: Path) -> Path:
    """A checkout with our launcher, no requirements, and a `stereo` that tells how it was started."""
    package = root / "builder" / "stereo"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").touch()
    package.joinpath("__main__.py").write_text(SAY)
    root.joinpath("guest").mkdir()
    requirements = root / "requirements"
    requirements.mkdir()
    for kind in ("runtime", "matrix", "test"):
        requirements.joinpath(f"{kind}.txt").write_text("# nothing\n")
    shutil.copy2(ROOT / "stereo", root / "stereo")
    return root


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh checkout, in a folder with a blank in its name."""
    return make_checkout(tmp_path / "a checkout")


@pytest.fixture(scope="module")
def set_up_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_checkout(tmp_path_factory.mktemp("once") / "a checkout")
    start(root)
    return root


@pytest.fixture
def ready(set_up_once: Path, tmp_path: Path) -> Path:
    """A checkout whose environment is made."""
    return Path(shutil.copytree(set_up_once, tmp_path / "a checkout", symlinks=True))


def start(root: Path, *words: str, program: Path | None = None, cwd: Path | None = None, **env: str) -> list[str]:
    """Run the launcher and return what the stand-in for the command line says."""
    done = launch(root, *words, program=program, cwd=cwd, **env)
    assert done.returncode == 0, done.stderr
    said = eval(done.stdout)
    assert isinstance(said, list)
    return said


def launch(
    root: Path, *words: str, program: Path | None = None, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [sys.executable, program or root / "stereo", *words],
        cwd=cwd or root,
        env={**clean, "HOME": str(root.parent), "STEREO_CACHE": str(root.parent / "cache"), **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_first_start_sets_up_with_one_line_and_the_second_is_silent(checkout: Path) -> None:
    first, second = launch(checkout, "--x"), launch(checkout, "--x")
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("\n") == 1
    assert "setting up" in first.stderr
    assert second.stderr == ""
    assert first.stdout == second.stdout


def test_words_and_working_directory_are_passed_on(ready: Path, tmp_path: Path) -> None:
    assert start(ready, "show", "a b", "", cwd=tmp_path)[1:] == [str(tmp_path), 1, "show", "a b", ""]


def test_it_works_through_a_symbolic_link(ready: Path, tmp_path: Path) -> None:
    link = tmp_path / "bin" / "stereo"
    link.parent.mkdir()
    link.symlink_to("../a checkout/stereo")
    assert start(ready, program=link, cwd=tmp_path)[0] == str(ready / ".venv")


def test_variables_that_steer_python_do_not_reach_us(ready: Path, tmp_path: Path) -> None:
    tmp_path.joinpath("stereo").mkdir()
    tmp_path.joinpath("stereo", "__main__.py").write_text("raise SystemExit('the wrong stereo')")
    said = start(ready, cwd=tmp_path, PYTHONPATH=str(tmp_path), PYTHONSTARTUP="/nonexistent")
    assert said[0] == str(ready / ".venv")


def test_variables_that_steer_python_do_not_reach_the_set_up(checkout: Path, tmp_path: Path) -> None:
    tmp_path.joinpath("venv.py").write_text("raise SystemExit('the wrong venv')")
    start(checkout, PYTHONPATH=str(tmp_path), PIP_USER="1")


def test_two_first_starts_at_once_both_succeed_and_set_up_once(checkout: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: launch(checkout), range(2)))
    assert [each.returncode for each in done] == [0, 0]
    assert sum("setting up" in each.stderr for each in done) == 1


def test_an_interrupted_set_up_is_done_again(ready: Path) -> None:
    ready.joinpath(".venv", "stereo-setup").unlink()
    left = ready / ".venv.new" / "bin"
    left.mkdir(parents=True)
    assert "setting up" in launch(ready).stderr
    assert not left.exists()
    assert launch(ready).stderr == ""


def test_a_set_up_that_is_killed_leaves_nothing_that_passes_for_done(checkout: Path) -> None:
    with subprocess.Popen([sys.executable, checkout / "stereo"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not checkout.joinpath(".venv").exists()
    start(checkout)


def test_changed_requirements_are_installed(ready: Path) -> None:
    ready.joinpath("requirements", "runtime.txt").write_text("# something else\n")
    assert "setting up" in launch(ready).stderr


def test_a_moved_checkout_needs_no_new_set_up(ready: Path, tmp_path: Path) -> None:
    moved = ready.rename(tmp_path / "moved")
    assert launch(moved).stderr == ""
    assert start(moved)[0] == str(moved / ".venv")


def test_an_environment_whose_interpreter_is_gone_is_made_anew(ready: Path) -> None:
    python = ready / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nonexistent/python")
    assert "setting up" in launch(ready).stderr


def test_a_package_that_is_not_to_be_had_is_an_error_with_pips_words(checkout: Path) -> None:
    wanted = "no-such-package-anywhere==1.0 --hash=sha256:" + "0" * 64
    checkout.joinpath("requirements", "runtime.txt").write_text(wanted)
    done = launch(checkout, PIP_NO_INDEX="1", PIP_FIND_LINKS="/nonexistent")
    assert done.returncode == 1
    assert "no-such-package-anywhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert not checkout.joinpath(".venv").exists()


def test_a_package_without_a_hash_is_refused(checkout: Path) -> None:
    checkout.joinpath("requirements", "runtime.txt").write_text("click\n")
    done = launch(checkout)
    assert done.returncode == 1
    assert "hash" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_in_a_read_only_checkout_the_environment_is_in_the_cache(checkout: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    python = shutil.which("python3", path="/usr/bin")
    if python is None or _version(python) < (3, 11):
        pytest.skip("no Python that everybody may run")
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o005:
            folder.chmod(folder.stat().st_mode | 0o005)
    env = {"PATH": "/usr/bin:/bin", "HOME": str(home), **{k: v for k, v in os.environ.items() if k.startswith("PIP_")}}
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, checkout / "stereo", "word"],
        cwd="/",
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = eval(done.stdout)
    assert said[0].startswith(str(home / ".cache" / "stereo" / "venv"))
    assert said[3:] == ["word"]


def _version(python: str) -> tuple[int, ...]:
    code = "import sys; print(*sys.version_info[:2])"
    out = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, timeout=30).stdout
    return tuple(map(int, out.split()))


def test_an_old_python_is_told_what_it_needs(checkout: Path) -> None:
    code = (
        "import runpy, sys; sys.version_info = (3, 9, 2); sys.version = '3.9.2 (x)'; sys.argv = ['./stereo'];"
        f"runpy.run_path({str(checkout / 'stereo')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("stereo: needs Python 3.11 or newer, and this is 3.9.2; try: python3.11 ")
    assert done.stderr.count("\n") == 1


def test_completion_never_sets_up(checkout: Path) -> None:
    assert launch(checkout, _STEREO_COMPLETE="bash_complete").stderr == ""
    assert not checkout.joinpath(".venv").exists()


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The launcher's functions, on a machine where the test programs are missing; `ran` is what it would have run."""
    module = runpy.run_path(str(ROOT / "stereo"))
    module["ran"] = []
    names = module["install_test_programs"].__globals__
    monkeypatch.setitem(names, "run", module["ran"].append)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    return module


def test_root_installs_what_the_tests_start(
    launcher: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    launcher["install_test_programs"]()
    (command,) = launcher["ran"]
    assert command[-2:] == ["openssh-client", "uidmap"]
    assert "apt-get" in command
    assert capsys.readouterr().err == "stereo: installing for the tests: openssh-client, uidmap\n"


def test_an_ordinary_user_is_told_what_to_install(
    launcher: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    launcher["install_test_programs"]()
    assert launcher["ran"] == []
    assert "sudo apt-get install" in capsys.readouterr().err


def test_test_requirements_hold_all_of_the_runtime() -> None:
    def pins(kind: str) -> set[str]:
        lines = ROOT.joinpath("requirements", f"{kind}.txt").read_text().splitlines()
        return {line.split()[0] for line in lines if "==" in line}

    assert pins("runtime") <= pins("test")


def test_wheels_are_locked_with_a_pip_of_our_own_since_hosts_and_environments_have_none() -> None:
    lines = ROOT.joinpath("requirements", "runtime.txt").read_text().splitlines()
    assert any(line.startswith("pip==") for line in lines)
