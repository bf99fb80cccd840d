"""All of it together: a dist held against hypervisors, and for each form that fits the way to start it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stereo.errors import StereoError
from stereo.hypervisors.facts import Facts
from stereo.hypervisors.judge import Judged, judge
from stereo.hypervisors.known import HYPERVISORS
from stereo.hypervisors.start import Step, steps
from stereo.model.architecture import Architecture
from stereo.vm.boot import Form


@dataclass(frozen=True)
class Way:
    """A form, and the steps that start it: none if it does not fit, or for what `note` says."""

    judged: Judged
    steps: tuple[Step, ...]
    note: str


@dataclass(frozen=True)
class Answer:
    """What was found for one hypervisor."""

    name: str
    ways: tuple[Way, ...]

    @property
    def fits(self) -> bool:
        """Whether there is a form that it runs."""
        return any(way.judged.fits for way in self.ways)


def answers(facts: Facts, names: Sequence[str], wanted: Architecture | None, place: Path) -> tuple[Answer, ...]:
    """For the hypervisors of these names (default: all), with commands that are run in the folder `place`."""
    return tuple(
        Answer(one.name, tuple(_way(one.name, facts, judge(one, facts, form, wanted), place) for form in Form))
        for one in HYPERVISORS
        if not names or one.name in names
    )


def _way(name: str, facts: Facts, judged: Judged, place: Path) -> Way:
    if not judged.fits:
        return Way(judged, (), "")
    try:
        return Way(judged, steps(name, facts, judged, place), "")
    except StereoError as error:
        return Way(judged, (), f"no command can be shown: {error}")
