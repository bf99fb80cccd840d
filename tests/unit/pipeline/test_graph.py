"""The build graph: what two plans share is one task, and a task never comes before those it needs."""

from __future__ import annotations

from stereo.build.plans import plan_of
from stereo.pipeline.graph import graph
from stereo.plan.plan import Plan

VERSION = "2026.01.31.0"


def plan(name: str, *, version: str = VERSION, level: int = 3) -> Plan:
    return plan_of(name, arch="x86_64", version=version, locks=None, level=level)


def steps(*plans: Plan) -> list[str]:
    return [task.step for task in graph(plans)]


def test_a_plan_is_its_four_steps_each_after_the_one_before() -> None:
    one = plan("base")
    tasks = graph([one])
    assert [(task.step, task.key) for task in tasks] == list(one.steps)
    assert [task.after for task in tasks] == [(), *((task.name,) for task in tasks[:-1])]


def test_two_mixtapes_share_the_tools_alone() -> None:
    assert sorted(steps(plan("base"), plan("coder"))) == sorted(
        ["tools", *("packages", "image", "dist"), *("packages", "image", "dist")]
    )


def test_two_versions_share_the_packages_and_two_levels_the_image() -> None:
    assert steps(plan("base"), plan("base", version="2026.02.01.0")).count("packages") == 1
    assert steps(plan("base"), plan("base", level=19)) == ["tools", "packages", "image", "dist", "dist"]


def test_the_same_plan_twice_is_built_once() -> None:
    assert graph([plan("base"), plan("base")]) == graph([plan("base")])


def test_no_task_stands_before_what_it_needs() -> None:
    seen: set[str] = set()
    for task in graph([plan("base"), plan("coder"), plan("opencode-mixtape", level=19)]):
        assert set(task.after) <= seen
        seen.add(task.name)
