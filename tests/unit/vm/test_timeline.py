"""Dividing a boot's time, from marks that may be missing or false."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.vm.timeline import make_timeline

MARKS = {"initrd_start": 2.0, "switch_root": 3.0, "stereosd_start": 6.0, "ready": 6.5}


def phases(total: float, marks: dict[str, float]) -> dict[str, float]:
    return {phase.name: phase.seconds for phase in make_timeline(total, marks).phases}


def test_the_guests_marks_divide_our_total() -> None:
    assert phases(7.5, MARKS) == {"firmware": 1.0, "kernel": 2.0, "initrd": 1.0, "userspace": 3.0, "ready": 0.5}


def test_a_missing_mark_merges_its_phase_into_the_next() -> None:
    without = {name: value for name, value in MARKS.items() if name != "switch_root"}
    assert phases(7.5, without) == {"firmware": 1.0, "kernel": 2.0, "userspace": 4.0, "ready": 0.5}


def test_without_marks_there_is_one_phase() -> None:
    timeline = make_timeline(7.5, {}, "login:")
    assert timeline.as_dict() == {"total_seconds": 7.5, "phases": [{"name": "login:", "seconds": 7.5}]}


def test_marks_from_before_their_time_are_left_out() -> None:
    assert phases(7.5, {**MARKS, "switch_root": 1.0})["userspace"] == 4.0


def test_a_guest_that_claims_to_be_older_than_its_machine_is_not_believed() -> None:
    assert phases(2.0, MARKS) == {"ready": 2.0}


@given(
    st.floats(0, 1e6),
    st.dictionaries(st.sampled_from([*MARKS, "other"]), st.floats(0, 1e9)),
)
def test_phases_are_never_negative_and_add_up(total: float, marks: dict[str, float]) -> None:
    timeline = make_timeline(total, marks)
    assert all(phase.seconds >= 0 for phase in timeline.phases)
    assert sum(phase.seconds for phase in timeline.phases) == pytest.approx(total, abs=1.001)
