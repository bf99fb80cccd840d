"""Renders workflows for GitHub Actions.

Least rights throughout: none at the top, reading the source in a job, writing packages only where something is
published. Actions are pinned by the digest of a commit. No expression stands in a command: what varies comes as a
variable, so that no text from outside becomes part of a script. Secrets come from the environment `release`, whose
rules GitHub keeps, and only to jobs in the repository that says it is the home of the releases (variable STEREO_HOME).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from stereo.pipeline.targets import Target
from stereo.pipeline.workflows import Parcel, Task, Workflow
from stereo.pipeline.yamltext import Remarked
from stereo.pipeline.yamltext import render as yaml

CHECKOUT = Remarked("actions/checkout@de0fac2e4500dabe0009e67214ff5f5447ce83dd", "v6.0.2")
UPLOAD = Remarked("actions/upload-artifact@b7c566a772e6b6bfb58ed0dc250532a479d7789f", "v6.0.0")
DOWNLOAD = Remarked("actions/download-artifact@37930b1c2abaa49bbe596cd826c3c89aef350131", "v7.0.0")
RUNNER = "ubuntu-24.04"
"""What every job runs on. Dists for aarch64 are built there too: the tools that build are part of a plan, and so of a
dist, and only with the same ones does a second build, or the next night's plan, come out the same."""

_HEAD = "# Written by `stereo ci` from builder/stereo/pipeline/workflows.py. Change that, not this.\n"
_HOME = "github.repository == vars.STEREO_HOME"
_WORK = "work"
# Where packages come from is the repository's to say, as it is not for us: see docs/releasing.md.
_VARIABLES = ("STEREO_MIRROR", "STEREO_SECURITY_MIRROR", "STEREO_SNAPSHOT", "STEREO_TO")
_PARCEL_DAYS = 3
_PUBLISHING = Remarked("write", "what is published goes to the registry of this very CI, where STEREO_TO says so")


def path_of(workflow: Workflow) -> str:
    """Where GitHub looks for it."""
    return f".github/workflows/{workflow.name}.yml"


def render(workflow: Workflow) -> str:
    """The file of a workflow."""
    document = {
        "name": workflow.title,
        "on": _triggers(workflow),
        "permissions": {},
        "concurrency": _concurrency(workflow),
        "env": {name: f"${{{{ vars.{name} }}}}" for name in _VARIABLES},
        "jobs": {task.name: _job(workflow, task) for task in workflow.tasks},
    }
    return _HEAD + yaml(document)


def outputs(version: str, targets: Sequence[Target]) -> list[str]:
    """What the job `plan` tells the others, as lines of $GITHUB_OUTPUT."""
    rows = [{"mixtape": one.mixtape, "arch": one.arch} for one in targets]
    mixtapes = ",".join(dict.fromkeys(one.mixtape for one in targets))
    return [f"version={version}", f"targets={json.dumps(rows)}", f"mixtapes={mixtapes}"]


def _triggers(workflow: Workflow) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if workflow.on_change:
        found |= {"pull_request": {}, "push": {"branches": ["main"]}}
    if workflow.at:
        found["schedule"] = [{"cron": workflow.at}]
    if workflow.by_hand:
        asked = {
            name.lower(): {"description": text, "type": "string", "required": False}
            for name, text in workflow.asks.items()
        }
        found["workflow_dispatch"] = {"inputs": asked} if asked else {}
    return found


def _concurrency(workflow: Workflow) -> dict[str, Any]:
    """Changes outdate each other; whatever publishes waits for whatever else does, and is never stopped halfway."""
    if not workflow.publishes:
        return {"group": f"{workflow.name}-${{{{ github.ref }}}}", "cancel-in-progress": True}
    return {"group": "publishing", "cancel-in-progress": False}


def _job(workflow: Workflow, task: Task) -> dict[str, Any]:
    planned = "plan" in task.needs
    conditions = [_HOME] if task.trusted or (planned and workflow.publishes) else []
    if planned:
        conditions.append("needs.plan.outputs.targets != '[]'")
    job: dict[str, Any] = {"name": task.title + (" ${{ matrix.mixtape }} ${{ matrix.arch }}" if task.each else "")}
    if conditions:
        job["if"] = " && ".join(conditions)
    if task.needs:
        job["needs"] = list(task.needs)
    if task.each:
        include = "${{ fromJSON(needs.plan.outputs.targets) }}"
        job["strategy"] = {"fail-fast": False, "matrix": {"include": include}}
    job["runs-on"] = RUNNER
    job["timeout-minutes"] = task.minutes
    job["permissions"] = {"contents": "read", **({"packages": _PUBLISHING} if task.publishes else {})}
    if task.secrets:
        job["environment"] = "release"
    if task.tells:
        job["outputs"] = {name: f"${{{{ steps.{_step_id(task)}.outputs.{name} }}}}" for name in task.tells}
    if env := _environment(workflow, task):
        job["env"] = env
    job["steps"] = _steps(task)
    return job


def _environment(workflow: Workflow, task: Task) -> dict[str, str]:
    env = {}
    if "plan" in task.needs:
        env["STEREO_VERSION"] = "${{ needs.plan.outputs.version }}"
        env["MIXTAPES"] = "${{ needs.plan.outputs.mixtapes }}"
    elif workflow.asks:
        env |= {name: f"${{{{ inputs.{name.lower()} }}}}" for name in workflow.asks}
    if task.each:
        env |= {"MIXTAPE": "${{ matrix.mixtape }}", "ARCH": "${{ matrix.arch }}"}
        env.pop("MIXTAPES", None)
    return env


def _steps(task: Task) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {"name": "Check out", "uses": CHECKOUT, "with": {"persist-credentials": False}},
    ]
    steps += [_download(task, parcel) for parcel in task.takes]
    for number, call in enumerate(task.calls):
        last = number == len(task.calls) - 1
        step: dict[str, Any] = {"name": call.name}
        if last and task.tells:
            step["id"] = _step_id(task)
        if last and task.secrets:
            step["env"] = {name: f"${{{{ secrets.{name} }}}}" for name in task.secrets}
        step["run"] = call.command + (' >> "$GITHUB_OUTPUT"' if last and task.tells else "")
        steps.append(step)
    if task.gives:
        steps.append(_upload(task.gives))
    return steps


def _step_id(task: Task) -> str:
    return re.sub(r"[^a-z]", "-", task.name)


def _upload(parcel: Parcel) -> dict[str, Any]:
    options = {
        "name": f"{parcel.name}-${{{{ matrix.mixtape }}}}-${{{{ matrix.arch }}}}",
        "path": "\n".join(f"{_WORK}/{pattern}" for pattern in parcel.patterns),
        "if-no-files-found": "error",
        "retention-days": _PARCEL_DAYS,
        "compression-level": 1,
    }
    return {"name": f"Hand on: {parcel.name}", "uses": UPLOAD, "with": options}


def _download(task: Task, parcel: Parcel) -> dict[str, Any]:
    if task.each:
        which = {"name": f"{parcel.name}-${{{{ matrix.mixtape }}}}-${{{{ matrix.arch }}}}"}
    else:
        which = {"pattern": f"{parcel.name}-*", "merge-multiple": True}  # type: ignore[dict-item]
    return {"name": f"Take over: {parcel.name}", "uses": DOWNLOAD, "with": {**which, "path": f"{_WORK}/dist"}}
