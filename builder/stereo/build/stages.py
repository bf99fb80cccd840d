"""The two stages of a build and their cache: packages (a tree, .tar) and image (a folder with a disk and its parts)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stereo.build import sandbox
from stereo.build.budget import cache_limit, trim, use
from stereo.build.describe import describe
from stereo.build.files import write_tree
from stereo.build.mkosi import run_mkosi
from stereo.build.tools import tools_tree
from stereo.build.workspace import workspace
from stereo.inputs.obtain import obtain
from stereo.inputs.sources import Sources
from stereo.inputs.store import Store
from stereo.model.lock import Lock
from stereo.paths import Cache
from stereo.plan.plan import Plan
from stereo.plan.render import INIT, shared_files
from stereo.report import Report


@dataclass(frozen=True)
class Builder:
    """What every build uses."""

    cache: Cache
    store: Store
    sources: Sources
    report: Report
    offline: bool = False
    jobs: int = 8

    def tools(self, plan: Plan) -> Path:
        """The tools tree of a plan."""
        return self.unpacked(plan.tools_key, plan.tools_lock)

    def unpacked(self, key: str, lock: Lock) -> Path:
        """The tree of the tools in a lock, by a key of the caller's."""
        return tools_tree(
            key,
            lock,
            cache=self.cache,
            store=self.store,
            sources=self.sources,
            report=self.report,
            offline=self.offline,
            jobs=self.jobs,
        )

    def image(self, plan: Plan) -> Path:
        """The folder with image.raw, vmlinuz, initrd, cmdline, init and image.json, made if it is not cached."""
        finished = self.cache.images / plan.image_key
        if use(finished):
            return finished
        limit = cache_limit()
        sandbox.check()
        tools = self.tools(plan)
        tree = self.packages(plan)
        with workspace(self.cache, f"image-{plan.image_key[:16]}", self.report) as work:
            if use(finished):
                return finished
            with self.report.step("Making the disk image", "Made the disk image"):
                write_tree(shared_files(), work)
                write_tree(plan.image, work / "image")
                base = work / "packages/output/tree.tar"
                base.parent.mkdir(parents=True)
                base.hardlink_to(tree)
                run_mkosi(work / "image", arch=plan.arch, tools=tools, work=work)
                new = work / "finished"
                new.mkdir(mode=0o755)
                outputs = work / "image/output"
                for source, name in (
                    ("image.raw", "image.raw"),
                    ("image.vmlinuz", "vmlinuz"),
                    ("image.initrd", "initrd"),
                ):
                    (outputs / source).rename(new / name)
                found = describe(new / "image.raw", plan.arch)
                (new / "cmdline").write_text(found.command_line)
                (new / "init").write_text(INIT)
                (new / "image.json").write_text(json.dumps(found.document(), indent=2, sort_keys=True) + "\n")
                self.cache.images.mkdir(parents=True, exist_ok=True)
                new.rename(finished)
                use(finished)
        trim(self.cache, limit, self.report)
        return finished

    def packages(self, plan: Plan) -> Path:
        """The tree with the installed packages, a .tar, made if it is not cached."""
        finished = self.cache.trees / f"{plan.packages_key}.tar"
        if use(finished):
            return finished
        sandbox.check()
        tools = self.tools(plan)
        with workspace(self.cache, f"packages-{plan.packages_key[:16]}", self.report) as work:
            if use(finished):
                return finished
            obtain(plan.lock, self.store, self.sources, self.report, offline=self.offline, jobs=self.jobs)
            with self.report.step("Installing packages", "Installed packages"):
                place_inputs(plan, self.store, work)
                write_tree(shared_files(), work)
                write_tree(plan.packages, work / "packages")
                run_mkosi(work / "packages", arch=plan.arch, tools=tools, work=work)
                self.cache.trees.mkdir(parents=True, exist_ok=True)
                (work / "packages/output/tree.tar").rename(finished)
                use(finished)
        return finished


def place_inputs(plan: Plan, store: Store, folder: Path) -> None:
    """Put the locked .debs and archives where the rendered tree in `folder` looks for them. Each is verified again."""
    (folder / "debs").mkdir(parents=True)
    for deb in plan.lock.image:
        store.place(deb.sha256, folder / "debs" / PurePosixPath(deb.path).name)
    for archive in plan.archives:
        target = folder / "packages" / archive.path
        target.parent.mkdir(parents=True, exist_ok=True)
        store.place(archive.sha256, target)
