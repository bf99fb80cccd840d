"""What the tests of the readers share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from makers.tools import Tool, find_tool


@pytest.fixture
def tool() -> Callable[[str], Tool]:
    """A real tool by name; the test is skipped where there is none."""

    def get(name: str) -> Tool:
        found = find_tool(name)
        if found is None:
            pytest.skip(f"no {name} on PATH or in STEREO_TOOLS_TREE")
        return found

    return get
