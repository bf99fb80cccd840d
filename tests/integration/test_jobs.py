"""Single jobs against the real docker-registry, as a workflow calls them: with a password, from a variable alone."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from makers.jobs import Script
from makers.registries import real_registry
from stereo.pipeline.jobs import REGISTRY_PASSWORD, REGISTRY_USER

pytestmark = pytest.mark.build


def test_publishing_planning_and_retention_log_in_by_variables_that_nobody_else_sees(
    base: Path, test_tools: Path, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    version, work = base.parent.name, tmp_path / "work"
    shutil.copytree(base, work / "dist" / "base" / version / platform.machine(), copy_function=os.link)
    with real_registry(tmp_path / "registry", test_tools, auth=("ci", "p:w")) as registry:
        place: list[str | Path] = ["--to", f"{registry.host}/mixtapes", "--mixtapes", "base", "--work", work]
        here = [*place, "--arch", platform.machine()]
        nobody = {"HOME": str(tmp_path)}
        known = {**nobody, REGISTRY_USER: "ci", REGISTRY_PASSWORD: "p:w"}

        refused = Script(tell, "publish")(*here, "--version", version, cwd=tmp_path, env=nobody, status=1)
        assert "wants a user and a password" in refused.stderr
        Script(tell, "publish")(*here, "--version", version, "--tag", "nightly", cwd=tmp_path, env=known)

        planned = Script(tell, "nightly")(*here, "--plan", cwd=tmp_path, env=known).stdout
        assert "targets=[]\n" in planned
        Script(tell, "nightly")(*here, "--plan", cwd=tmp_path, env=nobody, status=1)

        done = Script(tell, "retention")(*place, "--keep", "1", "--json", cwd=tmp_path, env=known)
        (row,) = json.loads(done.stdout)["jobs"]
        assert (row["state"], row["result"]) == ("done", {"removed": [], "freed": 0})
