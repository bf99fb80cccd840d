"""The rendered tree is complete: plain mkosi, by hand and without a network, makes the very disk that a build makes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stereo.build.sandbox import enclosed

CHECKOUT = Path(__file__).resolve().parents[2]
VERSION = "2026.01.31.0"


def stereo(*words: str) -> dict[str, object]:
    """Run the command line and return what it says as JSON."""
    path = os.pathsep.join((str(CHECKOUT / "builder"), str(CHECKOUT / "guest")))
    argv = [sys.executable, "-m", "stereo", *words, "--json"]
    done = subprocess.run(argv, env={**os.environ, "PYTHONPATH": path}, check=True, stdout=subprocess.PIPE)
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.build
def test_plain_mkosi_builds_the_rendered_tree_into_the_same_disk(tmp_path: Path, locks: Path, tools_tree: Path) -> None:
    common = ("base", "--version", VERSION, "--locks", str(locks))
    stereo("render", *common, "-o", str(tmp_path / "tree"))
    programs = tmp_path / "bin"
    programs.mkdir()
    mkosi = programs / "mkosi"
    mkosi.write_text(f'#!/bin/sh\nexec {sys.executable} -m mkosi "$@"\n')
    mkosi.chmod(0o755)
    subprocess.run(
        enclosed([tmp_path / "tree/build"]),
        env={
            "PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(tmp_path),
            "PYTHONPATH": str(tools_tree / "usr/lib/python3/dist-packages"),
            "TOOLS": str(tools_tree),
        },
        check=True,
        stdout=subprocess.DEVNULL,
    )
    built = stereo("build", *common, "--quick", "--output-dir", str(tmp_path / "dist"))
    files = built["files"]
    assert isinstance(files, dict)
    assert digest(tmp_path / "tree/image/output/image.raw") == files["stereos.img"]["sha256"]
