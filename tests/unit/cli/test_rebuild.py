"""`stereo rebuild`: what it refuses to build again and why, and what it makes of the outcome."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from makers.dist import make_dist
from stereo import rebuild
from stereo.build.plans import plan_for
from stereo.build.version import revision_of
from stereo.check.rebuild import EmptyCache
from stereo.cli.app import run
from stereo.errors import StereoError
from stereo.inputs.lockfiles import LockFolder
from stereo.model.architecture import Architecture
from stereo.model.lock import parse_lock, render_lock
from stereo.model.mixtape import load_mixtape
from stereo.paths import Cache, Checkout
from stereo.plan.plan import Plan

Capture = pytest.CaptureFixture[str]
CHECKOUT = Checkout.containing_this_package()
HERE = Architecture.X86_64
VERSION, EPOCH, LEVEL = "2026.01.31.0", 1_767_225_600, 19
COMMIT = "a" * 40


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEREO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)


@pytest.fixture(scope="module")
def plan() -> Plan:
    """What the manifests of these tests record."""
    mixtape = load_mixtape("base", CHECKOUT.mixtapes, dev_key=None)
    return plan_for(mixtape, HERE, version=VERSION, epoch=EPOCH, level=LEVEL, locks=None)


def recorded(plan: Plan, **other: Any) -> Any:
    """As much of a manifest as planning looks at; `other` is recorded instead."""
    rows = {
        "plan_key": plan.key,
        "lock_sha256": plan.lock.digest,
        "tools_lock_sha256": plan.tools_lock.digest,
        "source_revision": str(revision_of(CHECKOUT.root) or "unknown"),
        "epoch": EPOCH,
        "level": LEVEL,
    }
    build = SimpleNamespace(**{**rows, **other})
    return SimpleNamespace(name="base", version=VERSION, arch="x86_64-linux", dev=False, build=build)


def refusal(manifest: Any, locks: Path | None = None) -> StereoError:
    with pytest.raises(StereoError, match="cannot be built again from here") as caught:
        rebuild.recorded_plan(manifest, locks)
    return caught.value


def test_version_time_and_level_come_from_the_manifest(plan: Plan) -> None:
    assert rebuild.recorded_plan(recorded(plan), None).key == plan.key


@pytest.mark.parametrize(
    ("digest", "named"),
    [("lock_sha256", "base-x86_64.lock"), ("tools_lock_sha256", "tools-x86_64.lock")],
)
def test_another_lock_is_named_with_the_way_to_the_right_one(digest: str, named: str, plan: Plan) -> None:
    error = refusal(recorded(plan, **{digest: "1" * 64, "source_revision": COMMIT}))
    assert named in error.what
    assert error.hint == f"git checkout {COMMIT}, or name the manifests/ of that revision with --locks DIR"


def test_locks_of_the_recorded_revision_may_lie_elsewhere(plan: Plan, tmp_path: Path) -> None:
    older = tmp_path / "base-x86_64.lock"
    shutil.copy(CHECKOUT.manifests / "tools-x86_64.lock", tmp_path)
    text = render_lock(LockFolder(CHECKOUT.manifests).read("base", HERE))
    older.write_text(text.replace(f"epoch = {plan.lock.epoch}", f"epoch = {plan.lock.epoch - 1}"))
    digest = parse_lock(older.read_text(), "lock").digest
    assert digest != plan.lock.digest
    refusal(recorded(plan), tmp_path)
    manifest = recorded(plan, lock_sha256=digest)
    assert rebuild.recorded_plan(manifest, tmp_path).lock.digest == digest


def test_another_source_is_refused_with_the_revision_to_check_out(plan: Plan) -> None:
    error = refusal(recorded(plan, plan_key="0" * 64, source_revision=COMMIT))
    assert f"not {COMMIT}" in error.what
    assert error.hint == f"git checkout {COMMIT}"


def test_a_dist_of_uncommitted_changes_says_that_nobody_else_has_them(plan: Plan) -> None:
    error = refusal(recorded(plan, plan_key="0" * 64, source_revision=f"{COMMIT}-dirty"))
    assert error.hint == f"git checkout {COMMIT}, which it was built from with changes that were not committed"


def test_downloads_and_tools_are_used_but_nothing_that_was_built(tmp_path: Path) -> None:
    shared = Cache(tmp_path / "shared")
    fresh = EmptyCache(tmp_path / "fresh", shared)
    assert (fresh.store, fresh.tools) == (shared.store, shared.tools)
    assert {fresh.images, fresh.trees, fresh.frames, fresh.work}.isdisjoint(
        {shared.images, shared.trees, shared.frames, shared.work}
    )


@pytest.mark.parametrize(("altered", "status", "level"), [(None, 0, None), ("init", 1, "file"), ("cmdline", 1, "file")])
def test_the_outcome_is_identical_or_the_first_level_that_differs(
    altered: str | None,
    status: int,
    level: str | None,
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    """The build itself is another test's; here it makes what the dist was before somebody altered it."""
    make_dist(tmp_path / "dist")
    shutil.copytree(tmp_path / "dist", tmp_path / "good")
    monkeypatch.setattr(rebuild, "recorded_plan", lambda *_: plan)
    monkeypatch.setattr(rebuild, "produce", lambda plan, builder, out, **_: shutil.copytree(tmp_path / "good", out))
    if altered:
        with (tmp_path / "dist" / altered).open("ab") as file:
            file.write(b" more")
    assert run(["rebuild", str(tmp_path / "dist"), "--offline", "--json"]) == status
    said = json.loads(capsys.readouterr().out)
    assert (said["identical"], said["level"]) == (altered is None, level)
    assert all(row["where"].startswith(str(altered)) for row in said["differences"])
    assert run(["rebuild", str(tmp_path / "dist"), "--offline", "-q"]) == status
    assert capsys.readouterr().out.startswith("differs at the level file" if altered else "identical")
    assert not list((tmp_path / "cache" / "work").glob("*[!k]"))
