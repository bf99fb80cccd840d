"""The probe's tiny guest on real QEMU: its boot sector has no other test than to run."""

from __future__ import annotations

import pytest

from stereo.cli.machines import find_programs
from stereo.errors import StereoError
from stereo.paths import Cache
from stereo.vm.accel import probe
from stereo.vm.machine import Accelerator
from stereo.vm.programs import Programs, own_architecture


@pytest.fixture(scope="module")
def programs() -> Programs:
    try:
        return find_programs(Cache.from_environment(), own_architecture())
    except StereoError as error:
        pytest.skip(f"{error}: a build makes a tools tree that has one")


@pytest.mark.boot
def test_emulation_runs_the_tiny_guest_to_its_end(programs: Programs) -> None:
    verdict = probe(Accelerator.TCG, programs, seconds=60)
    assert verdict.usable, verdict.reason
    assert verdict.reason.startswith("a tiny guest ran")


@pytest.mark.boot
def test_a_tiny_guest_without_time_is_killed_and_judged_hung(programs: Programs) -> None:
    verdict = probe(Accelerator.TCG, programs, seconds=0.01)
    assert not verdict.usable
    assert "hung and was killed" in verdict.reason
