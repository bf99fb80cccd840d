"""Trees between disk and memory: modes come from the tree alone, and what is no file is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stereo.build.files import read_repository, write_tree
from stereo.errors import StereoError
from stereo.paths import Checkout
from stereo.plan.tree import Entry, Kind


def test_written_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_tree({"a/b/file": Entry(b"1"), "a/run": Entry(b"2", Kind.PROGRAM)}, tmp_path / "tree")
    finally:
        os.umask(before)
    modes = {name: (tmp_path / "tree" / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/file", "a/run")}
    assert modes == {"a": 0o755, "a/b": 0o755, "a/b/file": 0o644, "a/run": 0o755}


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    tree = {
        "mkosi/x": Entry(b"text"),
        "overlays/base/etc/link": Entry(b"/dev/null", Kind.LINK),
        "guest/run": Entry(b"#!", Kind.PROGRAM),
    }
    write_tree(tree, tmp_path)
    assert read_repository(Checkout(tmp_path)) == tree


def test_byte_code_and_editor_files_are_no_part_of_the_repository(tmp_path: Path) -> None:
    write_tree({f"{part}/x": Entry(b"") for part in ("mkosi", "overlays", "guest")}, tmp_path)
    for name in ("__pycache__/x.pyc", "x~", ".x.swp"):
        path = tmp_path / "guest" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert set(read_repository(Checkout(tmp_path))) == {"mkosi/x", "overlays/x", "guest/x"}


def test_a_socket_in_an_overlay_is_refused(tmp_path: Path) -> None:
    write_tree({f"{part}/x": Entry(b"") for part in ("mkosi", "overlays", "guest")}, tmp_path)
    os.mkfifo(tmp_path / "overlays/pipe")
    with pytest.raises(StereoError, match="neither a file nor a link"):
        read_repository(Checkout(tmp_path))
