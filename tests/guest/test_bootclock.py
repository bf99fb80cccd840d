"""What the initrd noted is read, whatever state it is in."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereos_guest import bootclock


def test_uptime_is_that_of_the_kernel() -> None:
    told = float(Path("/proc/uptime").read_text().split()[0])
    assert bootclock.uptime() == pytest.approx(told, abs=1)


def test_marks_are_read(tmp_path: Path) -> None:
    (tmp_path / "boot").write_text("initrd_start=1.25\nswitch_root=2\n")
    assert bootclock.marks(str(tmp_path / "boot")) == {"initrd_start": 1.25, "switch_root": 2.0}


@pytest.mark.parametrize("line", ["", "initrd_start", "=1", "a b=1", "a=", "a=x", "a=nan", "a=inf", "a=-1", "a=1e300"])
def test_a_line_that_is_no_mark_is_passed_over(tmp_path: Path, line: str) -> None:
    (tmp_path / "boot").write_text(f"{line}\nswitch_root=2.0\n")
    assert bootclock.marks(str(tmp_path / "boot")) == {"switch_root": 2.0}


@pytest.mark.parametrize("name", ["missing", "."])
def test_without_a_file_nothing_is_known(tmp_path: Path, name: str) -> None:
    assert bootclock.marks(str(tmp_path / name)) == {}


@given(content=st.binary(max_size=5000))
def test_no_content_is_fatal(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "boot"
    path.write_bytes(content)
    bootclock.marks(str(path))
