"""Conformance: recorded conversations, replayed. `>` is what a host sends, `<` what it must hear, in this order.

In an answer, "..." stands for any text that begins with what is before it, and -1 for any number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from makers.guest import KEY, Machine, heard

TRANSCRIPTS = sorted(Path(__file__).with_name("transcripts").glob("*.txt"))


def matches(expected: Any, said: Any) -> bool:
    if isinstance(expected, dict) and isinstance(said, dict):
        return expected.keys() == said.keys() and all(matches(expected[key], said[key]) for key in expected)
    if isinstance(expected, list) and isinstance(said, list):
        return len(expected) == len(said) and all(map(matches, expected, said))
    if isinstance(expected, str) and expected.endswith("..."):
        return isinstance(said, str) and said.startswith(expected[:-3])
    return expected == said or (expected == -1 and isinstance(said, (int, float)))


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) > 5


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_a_conversation_goes_as_recorded(path: Path, tmp_path: Path) -> None:
    machine = Machine(tmp_path, token="a-token")
    host_key = tmp_path / "var/lib/stereos/ssh/ssh_host_ed25519_key.pub"
    host_key.parent.mkdir(parents=True)
    host_key.write_text(KEY + "\n")
    session = machine.session(locked="locked" in path.stem)
    waiting: list[Any] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        mark, content = line[:2], line[2:]
        if mark == "> ":
            assert not waiting, f"{path.name}:{number}: more was said: {waiting}"
            waiting = [json.loads(answer) for answer in heard(session, content.encode() + b"\n")]
        elif mark == "< ":
            assert waiting, f"{path.name}:{number}: nothing was said"
            said = waiting.pop(0)
            assert matches(json.loads(content), said), f"{path.name}:{number}: {said}"
        elif line == "closed":
            assert session.closed
        else:
            assert not line or line.startswith("#"), f"{path.name}:{number}: what is this?"
    assert not waiting
    machine.close()
