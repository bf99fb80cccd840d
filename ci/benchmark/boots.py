"""Boots, alternating between the two sides: from the start of QEMU until the system is up, under emulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ci.benchmark import reference
from ci.benchmark.figures import Figure

from stereo.dists import dist_in
from stereo.model.architecture import Architecture
from stereo.report import Report, Silent
from stereo.vm.boot import BootFiles, Form, MachineSize, boot, make_spec
from stereo.vm.machine import Accelerator, Disk, MachineSpec
from stereo.vm.programs import Programs
from stereo.vm.qemu import QemuBackend

_TIMEOUT = 900.0
_SIZE = MachineSize()


def alternate(
    programs: Programs, scratch: Path, report: Report, specs: Mapping[str, tuple[MachineSpec, str]], times: int
) -> dict[str, Figure]:
    """Boot each of `specs` (a machine, and what to wait for) in turn, `times` times; seconds from QEMU's start."""
    backend = QemuBackend(programs, scratch)
    taken: dict[str, list[float]] = {name: [] for name in specs}
    for number in range(times):
        for name, (spec, until) in specs.items():
            with report.step(f"Booting {name} ({number + 1} of {times})"):
                taken[name].append(boot(backend, spec, Silent(), until=until, timeout=_TIMEOUT, grace=0).total)
    return {name: Figure(tuple(values), "s") for name, values in taken.items()}


def ours(dist: Path, form: Form) -> tuple[MachineSpec, str]:
    """A dist of ours in one of its forms, until its daemon says that it is ready."""
    return make_spec(BootFiles.in_folder(dist), form, dist_in(dist).arch, Accelerator.TCG, size=_SIZE), "ready"


def theirs(folder: Path, arch: Architecture) -> tuple[MachineSpec, str]:
    """The reference's raw disk on the same machine, by UEFI, until its console shows multi-user."""
    disk = Disk(folder / reference.DISK, "raw")
    return MachineSpec(disk, arch, None, Accelerator.TCG, _SIZE.cpus, _SIZE.memory), reference.UP


def by_turns(first: Callable[[], float], second: Callable[[], float], times: int) -> tuple[Figure, Figure]:
    """Both figures of two things that are measured in turn, in seconds."""
    pairs = [(first(), second()) for _ in range(times)]
    return Figure(tuple(pair[0] for pair in pairs), "s"), Figure(tuple(pair[1] for pair in pairs), "s")
