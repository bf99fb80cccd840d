"""Records: they hold for the inputs that they were made from, and for no others; what is odd is as none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stereo.pipeline.record import Records

INPUTS = {"plan": "a" * 64, "form": "raw"}


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "jobs")


def test_a_record_holds_for_its_inputs_in_any_order(records: Records) -> None:
    records.keep("boot", INPUTS, 1.5, {"form": "raw"})
    found = records.find("boot", dict(reversed(INPUTS.items())))
    assert found is not None
    assert (found.seconds, found.result) == (1.5, {"form": "raw"})


@pytest.mark.parametrize("other", [{**INPUTS, "form": "qcow2"}, {**INPUTS, "more": ""}, {"plan": "a" * 64}, {}])
def test_it_does_not_hold_for_other_inputs(records: Records, other: dict[str, str]) -> None:
    records.keep("boot", INPUTS, 1, {})
    assert records.find("boot", other) is None


def test_what_was_never_done_has_none(records: Records) -> None:
    assert records.find("boot", INPUTS) is None


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"{}", b"\xff", b'{"schema": 1}', b'{"schema": 1, "key": 1, "more": 2}']
)
def test_a_damaged_one_is_as_none(records: Records, data: bytes) -> None:
    records.keep("boot", INPUTS, 1, {})
    (records.folder / "boot.json").write_bytes(data)
    assert records.find("boot", INPUTS) is None


def test_one_of_another_time_is_as_none(records: Records) -> None:
    records.keep("boot", INPUTS, 1, {})
    path = records.folder / "boot.json"
    document: dict[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "schema": 2}))
    assert records.find("boot", INPUTS) is None


def test_nothing_half_written_is_left_when_writing_fails(records: Records) -> None:
    with pytest.raises(TypeError):
        records.keep("boot", INPUTS, 1, {"result": object()})
    assert list(records.folder.iterdir()) == []
