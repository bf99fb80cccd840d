"""The number of the next release."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.errors import StereoError
from stereo.model.manifest import is_release
from stereo.pipeline.versions import next_version

DAY = datetime.date(2026, 1, 31)


def test_the_first_of_a_day_has_the_number_0() -> None:
    assert next_version(DAY, []) == "2026.01.31.0"


def test_it_is_one_more_than_the_highest_of_the_day_whatever_the_order() -> None:
    assert next_version(DAY, ["2026.01.31.9", "2026.01.31.10", "2026.01.31.2"]) == "2026.01.31.11"


def test_other_days_and_tags_that_are_no_versions_do_not_count() -> None:
    tags = ["latest", "2026.01.30.7", "2026.01.31.x", "2026.01.31.05", "2026.01.31.0-rc", "sha256-00.att"]
    assert next_version(DAY, tags) == "2026.01.31.0"


def test_a_day_without_a_number_left_is_an_error() -> None:
    with pytest.raises(StereoError, match="no version left"):
        next_version(DAY, ["2026.01.31.99999"])


@given(st.dates(min_value=datetime.date(2000, 1, 1)), st.lists(st.integers(0, 99_998), max_size=20))
def test_it_is_a_release_that_is_not_taken_yet(day: datetime.date, numbers: list[int]) -> None:
    taken = [f"{day:%Y.%m.%d}.{number}" for number in numbers]
    version = next_version(day, taken)
    assert is_release(version)
    assert version not in taken
