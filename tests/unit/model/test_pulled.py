"""pulled.json: what it says is not here, and that anything else than what `pull` writes is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.errors import StereoError
from stereo.model.pulled import MAX_PULLED, Pulled, parse_pulled, render_pulled

GOOD: dict[str, Any] = {
    "schema": 1,
    "reference": "localhost:5000/base:2026.01.02.0",
    "digest": f"sha256:{'a' * 64}",
    "formats": ["raw"],
}


def test_the_disks_of_other_formats_are_left_out() -> None:
    pulled = parse_pulled(json.dumps(GOOD).encode())
    assert pulled.left_out == {"stereos.qcow2", "stereos.qcow2.zst"}
    assert parse_pulled(json.dumps({**GOOD, "formats": ["raw", "qcow2"]}).encode()).left_out == frozenset()


def test_what_is_written_is_read_back() -> None:
    pulled = Pulled.model_validate(GOOD)
    assert parse_pulled(render_pulled(pulled)) == pulled


@pytest.mark.parametrize(
    "other",
    [
        {"schema": 2},
        {"schema": True},
        {"reference": ""},
        {"reference": "a\x1b[2J"},
        {"digest": "sha256:short"},
        {"formats": []},
        {"formats": ["iso"]},
        {"formats": ["raw"] * 3},
        {"formats": "raw"},
        {"more": 1},
    ],
)
def test_what_pull_does_not_write_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(StereoError):
        parse_pulled(json.dumps({**GOOD, **other}).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b"\xff", b"[" * 50_000, b'{"schema": 1, "schema": 1}', b"1" * 5000, b" " * (MAX_PULLED + 1)],
)
def test_bytes_that_are_no_such_file_are_refused_without_a_traceback(data: bytes) -> None:
    with pytest.raises(StereoError):
        parse_pulled(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(StereoError):
        parse_pulled(data)
