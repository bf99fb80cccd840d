"""The build graph of many plans: a task per step, named by the step's key, so that what two mixtapes share is one task.

The keys are those of the cache (docs/architecture.md, "Keys"). Whoever has the same mixtapes, locks and files has the
same graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stereo.plan.plan import Plan


@dataclass(frozen=True)
class Task:
    """One step of a build. `plan` is any of those that need it; `after` names the tasks whose results it uses."""

    step: str
    key: str
    plan: Plan
    after: tuple[str, ...]

    @property
    def name(self) -> str:
        """What no other task has: the step and the digest of all that decides its result."""
        return f"{self.step}-{self.key}"

    @property
    def title(self) -> str:
        """For a person: "image of base"."""
        of = {"tools": str(self.plan.tools_lock.arch), "packages": f"{self.plan.mixtape.name} {self.plan.arch}"}
        return f"{self.step} of {of.get(self.step, f'{self.plan.mixtape.name} {self.plan.version} {self.plan.arch}')}"


def graph(plans: Iterable[Plan]) -> tuple[Task, ...]:
    """The tasks of all plans, each once, none before those that it needs."""
    tasks: dict[str, Task] = {}
    for plan in plans:
        before: tuple[str, ...] = ()
        for step, key in plan.steps:
            task = Task(step, key, plan, before)
            tasks.setdefault(task.name, task)
            before = (task.name,)
    return tuple(tasks.values())
