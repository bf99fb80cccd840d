"""The log: whole rows, a bound, and readers that miss none of what is kept."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from stereo.egress.log import Log, old, read_log


def numbers(rows: object) -> list[int]:
    return [int(row["host"]) for row in rows]  # type: ignore[attr-defined]


def write(log: Log, *hosts: int) -> None:
    for host in hosts:
        log.write("refused", "dns", str(host), 53, "no rule")


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(path)
    log.write("closed", "http", "a\x1b[31m\n.example", 80, "x" * 1000, bytes_in=1)
    (row,) = read_log(path)
    assert (row["verdict"], row["host"], row["bytes_in"], len(row["reason"])) == (
        "closed",
        "a\x1b[31m\n.example",
        1,
        300,
    )
    assert path.read_bytes().isascii()
    assert path.read_bytes().count(b"\n") == 1
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_log_turns_over_and_keeps_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(path, limit=2000)
    write(log, *range(100))
    kept = numbers(read_log(path))
    assert kept == list(range(kept[0], 100))
    assert 15 < len(kept) < 50
    assert path.stat().st_size <= 2000
    assert old(path).stat().st_size <= 2000
    assert numbers(read_log(path, lines=3)) == [97, 98, 99]
    assert numbers(read_log(path, lines=0)) == []


def test_it_needs_no_rights_in_its_folder_once_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(path, limit=1000)
    path.unlink()  # what it has are descriptors
    write(log, *range(50))


@pytest.mark.parametrize("at_once", [1, 7, 11, 19])
def test_a_follower_misses_nothing_when_the_log_turns_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    path = tmp_path / "log"
    log = Log(path, limit=3000)  # some 25 rows
    written = itertools.count()
    monkeypatch.setattr("stereo.egress.log.time.sleep", lambda _: write(log, *itertools.islice(written, at_once)))
    assert numbers(itertools.islice(read_log(path, follow=True), 200)) == list(range(200))


def test_lines_that_are_no_rows_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(path)
    write(log, 1)
    with path.open("ab") as file:
        file.write(b'\xff\xfe\n[]\n{"time": 1}\nhalf a')
    assert numbers(read_log(path)) == [1]


def test_no_log_has_no_rows(tmp_path: Path) -> None:
    assert list(read_log(tmp_path / "none")) == []


def test_a_row_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    log = Log(path)
    write(log, 1)
    real = os.write
    monkeypatch.setattr("stereo.egress.log.os.write", lambda descriptor, data: real(descriptor, data[:10]))
    with pytest.raises(OSError, match="full"):
        write(log, 2)
    monkeypatch.undo()
    write(log, 3)
    assert numbers(read_log(path)) == [1, 3]


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        Log(tmp_path / "log")
