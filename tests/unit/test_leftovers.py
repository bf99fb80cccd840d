"""Sessions of tests that were killed do not fill the disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from makers.leftovers import clear_dead_sessions


def test_only_sessions_whose_process_has_gone_are_cleared(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name, text in (("dead", str(gone.pid)), ("alive", str(os.getpid())), ("strange", "?")):
        (tmp_path / f"pytest-{name}").mkdir()
        (tmp_path / f"pytest-{name}/.lock").write_text(text)
    (tmp_path / "pytest-unlocked").mkdir()
    assert clear_dead_sessions(tmp_path) == [tmp_path / "pytest-dead"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pytest-alive", "pytest-strange", "pytest-unlocked"]
