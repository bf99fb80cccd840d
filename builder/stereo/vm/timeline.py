"""Where a boot's time went, from two clocks: ours around the whole, the guest's for what happened inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# The guest's marks, in the order in which they pass; each ends the phase of its name.
_PHASES = (
    ("kernel", "initrd_start"),
    ("initrd", "switch_root"),
    ("userspace", "stereosd_start"),
    ("ready", "ready"),
)


@dataclass(frozen=True)
class Phase:
    """A named stretch of a boot, in seconds."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Timeline:
    """The phases of one boot, whose sum is `total` seconds from the hypervisor's start to the end of the last."""

    phases: tuple[Phase, ...]
    total: float

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "total_seconds": round(self.total, 3),
            "phases": [{"name": phase.name, "seconds": round(phase.seconds, 3)} for phase in self.phases],
        }


def make_timeline(total: float, marks: Mapping[str, float], end: str = "ready") -> Timeline:
    """Divide `total` seconds by the guest's `marks` (seconds since its kernel started).

    What passed before the kernel's clock began (firmware, boot loader, unpacking the kernel) is the phase `firmware`. A
    missing mark merges its phase into the next one; marks that cannot be true are left out of account. Without the
    mark `ready` nothing can be divided: the whole is one phase, called `end`.
    """
    ready = marks.get("ready")
    if ready is None or not 0 <= ready <= total + 1:  # the guest's clock may be a little fast
        return Timeline((Phase(end, total),), total)
    phases = [Phase("firmware", max(0.0, total - ready))]
    last = 0.0
    for name, mark in _PHASES:
        moment = marks.get(mark)
        if moment is not None and last <= moment <= ready:
            phases.append(Phase(name, moment - last))
            last = moment
    return Timeline(tuple(phases), total)
