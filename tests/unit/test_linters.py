"""The linters, as tests: style, types, shell scripts, and what must never stand in a tracked file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from stereo.paths import Checkout

ROOT = Checkout.containing_this_package().root
# Registries by the names that everybody knows. Written in pieces, or this file would be the one that is found.
REGISTRIES = (
    "deb." + "debian.org",
    "security." + "debian.org",
    "snapshot." + "debian.org",
    "ftp." + "debian.org",
    "registry." + "npmjs.org",
    "files." + "pythonhosted.org",
    "pypi." + "org/simple",
)


@cache
def tracked() -> tuple[Path, ...]:
    """The files of the repository, or of the folder where there is no git."""
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    return tuple(path for path in paths if path.is_file() and not path.is_symlink())


def text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def first_line(path: Path) -> bytes:
    return path.read_bytes()[:80].partition(b"\n")[0]


def shell_scripts() -> list[Path]:
    return [path for path in tracked() if re.match(r"#!.*\b(ba|da)?sh\b", text_of(path)[:80].partition("\n")[0])]


def check(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_ruff_finds_nothing() -> None:
    check("ruff", "check", ".", "stereo")


def test_files_are_formatted() -> None:
    check("ruff", "format", "--check", ".", "stereo")


def test_types_fit() -> None:
    check("mypy")


def test_types_of_the_launcher_fit() -> None:
    check("mypy", "stereo")


def test_scripts_of_mkosi_are_held_to_the_same_rules(tmp_path: Path) -> None:
    scripts = [path for path in tracked() if path.parts[len(ROOT.parts)] == "mkosi" and b"python3" in first_line(path)]
    assert scripts
    for number, script in enumerate(scripts):  # the names that mkosi asks for have no suffix
        copy = tmp_path / f"script{number}.py"
        copy.write_bytes(script.read_bytes())
        check("ruff", "check", "--config", "pyproject.toml", str(copy))
        check("ruff", "format", "--check", "--config", "pyproject.toml", str(copy))
        check("mypy", "--strict", str(copy))


def test_shell_scripts_parse() -> None:
    scripts = shell_scripts()
    assert scripts
    for script in scripts:
        shell = "bash" if "bash" in text_of(script).partition("\n")[0] else "sh"
        subprocess.run([shell, "-n", script], check=True, timeout=30)


def test_shellcheck_finds_nothing() -> None:
    program = Path(sys.executable).with_name("shellcheck")  # of requirements/test.txt
    done = subprocess.run(
        [program, *shell_scripts()], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout


def hosts_of_this_machine() -> set[str]:
    """Mirrors that apt, npm and pip are configured for here: the addresses that slip into a commit most easily."""
    commands = (
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"],
        ["npm", "config", "get", "registry"],
        [sys.executable, "-m", "pip", "config", "list"],
    )
    found = set()
    for command in commands:
        if shutil.which(command[0]):
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            found |= set(re.findall(r"\w+://(?:[^@/\s']*@)?([\w.-]+\.[\w.-]+)", done.stdout))
    return found - {"example.org"}


def test_no_tracked_file_names_a_package_registry() -> None:
    words = {*REGISTRIES, *hosts_of_this_machine()}
    found = [
        f"{path.relative_to(ROOT)}: {word}" for path in tracked() for word in sorted(words) if word in text_of(path)
    ]
    assert found == []
