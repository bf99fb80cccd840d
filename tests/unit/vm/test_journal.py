"""Entries of a journal that a stranger sends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.vm.journal import Entry, Journal

GOOD: dict[str, Any] = {
    "__REALTIME_TIMESTAMP": "1700000000250000",
    "_SYSTEMD_UNIT": "stereos-agent-reviewer-2.service",
    "MESSAGE": "hello",
    "PRIORITY": "6",
}


def line(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode() + b"\n"


def test_an_entry_tells_time_agent_and_text() -> None:
    assert Journal().feed(line()) == [Entry(1700000000.25, "reviewer-2", "hello")]


def test_entries_in_pieces_are_put_together() -> None:
    journal, said = Journal(), line() + line(MESSAGE="again")
    found = [entry.text for i in range(len(said)) for entry in journal.feed(said[i : i + 1])]
    assert found == ["hello", "again"]


def test_a_message_in_bytes_is_read_as_far_as_it_is_text() -> None:
    assert Journal().feed(line(MESSAGE=[104, 105, 255]))[0].text == "hi\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    "changes",
    [
        {"MESSAGE": None},
        {"MESSAGE": [256]},
        {"MESSAGE": ["a"]},
        {"MESSAGE": {}},
        {"_SYSTEMD_UNIT": "sshd.service"},
        {"_SYSTEMD_UNIT": "stereos-agent-\x1b.service"},
        {"_SYSTEMD_UNIT": ["stereos-agent-a.service"]},
        {"__REALTIME_TIMESTAMP": 5},
        {"__REALTIME_TIMESTAMP": "9" * 400},
        {"__REALTIME_TIMESTAMP": "-1"},
    ],
)
def test_what_makes_no_sense_is_left_out_and_the_rest_is_read(changes: dict[str, Any]) -> None:
    assert [entry.text for entry in Journal().feed(line(**changes) + line(MESSAGE="next"))] == ["next"]


@pytest.mark.parametrize("said", [b"[]\n", b"{\n", b"\xff\n", b"[" * 100_000 + b"\n", b"x" * (2 << 20) + b"\n", b"\n"])
def test_a_line_that_is_no_entry_is_passed_over(said: bytes) -> None:
    assert [entry.text for entry in Journal().feed(said + line())] == ["hello"]


@given(st.lists(st.binary(max_size=200)))
def test_no_bytes_break_it(pieces: list[bytes]) -> None:
    journal = Journal()
    for piece in pieces:
        journal.feed(piece)
    assert journal.feed(b"\n" + line())[-1].text == "hello"
