"""aarch64 on x86_64: what a cross-build costs, how fast its image boots, and how much there is to download.

Each figure is held against one of the same machine and run: the build of the same mixtape for this machine, the plain
recipe cross-built and booted under the same emulator, and the other architecture's disk.
"""

from __future__ import annotations

import platform
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from ci.benchmark import boots, reference
from ci.benchmark.figures import Figure
from ci.benchmark.measure import Timed
from ci.benchmark.ours import Ours

from stereo.build.plans import plan_of
from stereo.build.stages import Builder
from stereo.model.architecture import Architecture
from stereo.plan.plan import Plan
from stereo.report import Report
from stereo.vm.boot import Form
from stereo.vm.programs import Programs

ARCH = Architecture.AARCH64
CROSS, BOOT, DOWNLOAD = "cross-build", "boot-aarch64", "download-aarch64"
MEASURES = (CROSS, BOOT, DOWNLOAD)
_DISK = "stereos.img.zst"


def is_possible() -> bool:
    """Whether this machine is one on which the figures say what they are said to."""
    return platform.machine() == Architecture.X86_64


@dataclass
class Crossing:
    """The builds for aarch64 beside those of `ours`. `taken` is what each of ours took."""

    ours: Ours
    builder: Builder
    tools: Path
    report: Report
    taken: list[Timed] = field(default_factory=list)

    def obtain(self) -> None:
        """Have all that these builds need in the store, from where ours and theirs take it."""
        reference.obtain_packages(self._plan, self.builder, self.ours.work)

    def build(self, number: str) -> None:
        """Build ours for aarch64 with nothing but downloads and tools. What was built before is gone then."""
        self.ours.empty_cache()
        with self.report.step(f"Building ours for {ARCH} ({number})"):
            self.taken.append(self.ours.build_for(ARCH))

    def build_reference(self) -> None:
        """Build the recipe for aarch64, to be booted."""
        reference.image(self._plan, self.builder, self.tools, self.ours.work)

    def measured(self, rows: Collection[str], boots_of_each: int) -> dict[str, tuple[Figure, Figure | None]]:
        """Figures of `rows`, when all is built."""
        found: dict[str, tuple[Figure, Figure | None]] = {}
        if CROSS in rows:
            native = Figure(tuple(run.seconds for run in self.ours.full), "s")
            found[CROSS] = Figure(tuple(run.seconds for run in self.taken), "s"), native
        if BOOT in rows:
            folder = reference.folder_of(self.ours.work, ARCH)
            specs = {"ours": boots.ours(self.dist, Form.KERNEL), "theirs": boots.theirs(folder, ARCH)}
            programs = Programs.find(self.tools, ARCH)
            taken = boots.alternate(programs, self.ours.work / "scratch", self.report, specs, boots_of_each)
            found[BOOT] = taken["ours"], taken["theirs"]
        if DOWNLOAD in rows:
            mine, other = ((dist / _DISK).stat().st_size for dist in (self.dist, self.ours.dist))
            found[DOWNLOAD] = Figure((mine,), "B"), Figure((other,), "B")
        return found

    @property
    def dist(self) -> Path:
        """The last dist of ours for aarch64."""
        return self.ours.dist_for(ARCH)

    @property
    def _plan(self) -> Plan:
        return plan_of(self.ours.mixtape, arch=ARCH, version=None, locks=None, level=self.ours.level)
