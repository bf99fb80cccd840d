"""An agent at its memory limit that does nothing but wait is told from one that works there."""

from __future__ import annotations

from pathlib import Path

import pytest

from stereos_guest import agentmemory

PRESSURE = "some avg10=99.00 avg60=95.11 avg300=40.00 total=9\nfull avg10=97.00 avg60={} avg300=38.00 total=8\n"


def group(folder: Path, *, limit: str = "268435456", cached: int = 1 << 20, waits: str = "31.03") -> str:
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    rows = {"anon": 23 << 20, "file": (230 << 20) + cached, "kernel": 2 << 20, "shmem": (230 << 20) - cached}
    (folder / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in rows.items()))
    (folder / "memory.pressure").write_text(PRESSURE.format(waits))
    return str(folder)


def test_who_mostly_waits_at_its_limit_is_stalled(tmp_path: Path) -> None:
    assert agentmemory.stalled(group(tmp_path / "group"))


@pytest.mark.parametrize(
    ("limit", "cached", "waits"),
    [
        ("max", 0, "31.03"),
        ("1073741824", 0, "31.03"),  # others take the memory
        ("268435456", 100 << 20, "31.03"),  # it reads many files
        ("268435456", 0, "9.50"),
        ("268435456", 0, "nan"),
        ("268435456", 0, ""),
    ],
)
def test_who_works_or_is_held_up_by_others_is_not(tmp_path: Path, limit: str, cached: int, waits: str) -> None:
    assert not agentmemory.stalled(group(tmp_path / "group", limit=limit, cached=cached, waits=waits))


def test_a_group_that_is_gone_is_not_stalled(tmp_path: Path) -> None:
    assert not agentmemory.stalled(str(tmp_path / "gone"))
