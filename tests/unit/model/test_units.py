"""Ages, as options and policies have them. Sizes and durations are tried with the jcards that have them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from stereo.model.units import parse_age


@pytest.mark.parametrize(("text", "hours"), [("36h", 36), ("30d", 720), ("52w", 52 * 168), ("99999w", 99999 * 168)])
def test_ages_are_hours_days_or_weeks(text: str, hours: int) -> None:
    assert parse_age(text) == timedelta(hours=hours)


@pytest.mark.parametrize("value", ["", "0d", "d", "1", "-1d", "1.5d", "1m", "1y", "100000d", "1d ", "١d", 7, None])
def test_what_is_no_age_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is no age"):
        parse_age(value)
