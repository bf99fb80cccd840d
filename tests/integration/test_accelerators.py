"""The probe's tiny guests on real QEMU: what they are made of has no other test than to run."""

from __future__ import annotations

from pathlib import Path

import pytest

from stereo.model.architecture import Architecture
from stereo.vm.accel import probe
from stereo.vm.machine import Accelerator
from stereo.vm.programs import Programs


@pytest.fixture(params=Architecture)
def programs(request: pytest.FixtureRequest, tools_tree: Path) -> Programs:
    return Programs.find(tools_tree, request.param)


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
