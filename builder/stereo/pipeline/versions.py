"""The number of the next release: YYYY.MM.DD.N, where N counts the releases of a day from 0.

It is decided here, before a build, and handed in: a build itself asks neither the clock nor a registry.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable

from stereo.errors import StereoError
from stereo.model.manifest import is_release

_HIGHEST = 99_999


def next_version(day: datetime.date, taken: Iterable[str]) -> str:
    """The first version of `day` after all those of it in `taken` (tags, of which others than versions do not count).

    Raises StereoError when the day has no number left.
    """
    prefix = f"{day:%Y.%m.%d}."
    numbers = [int(tag.removeprefix(prefix)) for tag in taken if tag.startswith(prefix) and is_release(tag)]
    number = max(numbers, default=-1) + 1
    if number > _HIGHEST:
        raise StereoError(f"there is no version left on {day}", where=prefix + str(_HIGHEST), hint="wait for tomorrow")
    return f"{prefix}{number}"
