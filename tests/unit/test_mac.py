"""On a Mac all that needs no Linux works, and what does says so: every module, and verbs in processes of their own."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import stereo
from makers.bootable import make_bootable
from makers.mac import interpreter
from makers.mac.missing import MISSING
from stereo.model.architecture import Architecture

PACKAGE = Path(stereo.__path__[0])
# Where a name that a Mac has not may stand: in what only Linux gets to, or after the question whether it is there.
LINUX_ALONE = {
    ("distribution/receive.py", "posix_fadvise"),
    ("distribution/receive.py", "POSIX_FADV_DONTNEED"),
    ("sandbox/peers.py", "SO_PEERCRED"),
    ("sandbox/peers.py", "pidfd_open"),
    ("sandbox/peers.py", "pidfd_send_signal"),
    ("vm/enclosure_main.py", "setresgid"),
    ("vm/enclosure_main.py", "setresuid"),
    ("vm/shares.py", "O_PATH"),
    ("vm/wires.py", "memfd_create"),
}
IMPORT_ALL = """
import importlib, pkgutil, sys, stereo
for each in pkgutil.walk_packages(stereo.__path__, "stereo."):
    if not each.name.endswith("__main__"):
        importlib.import_module(each.name)
print(sys.platform)
"""

END_THE_DEAD = """
import signal, subprocess
from stereo.process import end_group
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
child = subprocess.Popen(["/bin/true"], start_new_session=True)
signal.sigwait([signal.SIGCHLD])  # it has ended, and nobody has waited for it
end_group(child)
print(child.returncode)
"""

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return interpreter(tmp_path_factory.mktemp("mac"))


@pytest.fixture(scope="module")
def mac(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a verb at home on a Mac, where nothing is on PATH."""
    home = tmp_path_factory.mktemp("home")
    (home / "private").mkdir()
    (home / "tmp").symlink_to("private")

    def run(*words: str | Path) -> CompletedProcess[str]:
        return subprocess.run(
            [python, "-I", "-m", "stereo", *words],
            cwd=home,
            env={"PATH": str(home / "bin"), "HOME": str(home), "TMPDIR": str(home / "tmp")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist") / "aarch64"
    make_bootable(folder, Architecture.AARCH64)
    return folder


def uses(path: Path) -> Iterator[tuple[str, str]]:
    """The names of the standard library in a module that a Mac has not."""
    for node in ast.walk(ast.parse(path.read_text())):
        rows: list[tuple[str, str]] = []
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            rows = [(node.value.id.strip("_"), node.attr)]
        elif isinstance(node, ast.ImportFrom) and node.module:
            rows = [(node.module, alias.name) for alias in node.names]
        for module, name in rows:
            if module in MISSING and re.fullmatch(MISSING[module], name):
                yield str(path.relative_to(PACKAGE)), name


def test_nothing_is_used_that_a_mac_has_not_but_where_only_linux_gets_to() -> None:
    assert {use for path in PACKAGE.rglob("*.py") for use in uses(path)} == LINUX_ALONE


def test_every_module_can_be_imported(python: Path) -> None:
    done = subprocess.run([python, "-I", "-c", IMPORT_ALL], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("darwin\n", 0), done.stderr


def test_the_doctor_names_what_a_mac_can_have_and_misses_nothing_of_linux(mac: Run) -> None:
    done = mac("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "images are built on Linux" in done.stdout
    assert "brew install vfkit" in done.stdout
    assert "brew install qemu" in done.stdout
    assert not re.search(r"MISSING|apt|unshare|subordinate", done.stdout)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("build", "base", "--version", "2026.01.31.0"), "images are built on Linux"),
        (("boot", "DIST", "--backend", "qemu"), "brew install qemu"),
        (("boot", "DIST", "--backend", "applevirt"), "brew install vfkit"),
        (("up",), "jcard.toml"),
    ],
)
def test_what_it_has_not_is_told_with_its_remedy(mac: Run, dist: Path, words: tuple[str, ...], told: str) -> None:
    done = mac(*(dist if word == "DIST" else word for word in words))
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dist_is_checked_signed_published_and_pulled(mac: Run, dist: Path) -> None:
    steps = [
        ("verify", dist),
        ("check", dist, "--for", "applevirt"),
        ("keygen", "me"),
        ("publish", dist, "--to", "sample"),
        ("tags", "sample"),
        ("pull", "sample", "-o", "pulled"),
        ("verify", "pulled"),
        ("dists",),
        ("list",),
        ("mixtapes",),
    ]
    for words in steps:
        done = mac(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)


def test_a_group_of_which_only_the_dead_are_left_is_ended(python: Path) -> None:
    done = subprocess.run([python, "-I", "-c", END_THE_DEAD], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr
