"""The tools tree: what builds, checks and boots images, unpacked from the locked .debs beside the host's own system.

Nothing is configured and no maintainer script runs: mkosi mounts the tree's /usr, and single programs are started
through the tree's own dynamic loader.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stereo.build.budget import use
from stereo.build.workspace import workspace
from stereo.inputs.obtain import obtain
from stereo.inputs.sources import Sources
from stereo.inputs.store import Store
from stereo.model.architecture import Architecture
from stereo.model.lock import Deb, Lock
from stereo.paths import Cache
from stereo.process import closed_environment, run
from stereo.report import Report

# Where mkosi mounts something of its own (it cannot make folders in a tree that it does not own), see mkosi.sandbox.
_MOUNT_POINTS = ("etc/alternatives", "etc/ca-certificates", "etc/pacman.d/gnupg", "etc/pki", "etc/ssl")
# qemu-user brings emulators of thirty machines, 15 MB each: wanted are these, and what QEMU's other packages bring.
_WANTED_QEMU = re.compile(rf"qemu-({'|'.join(Architecture)}|system-.*|img|io|nbd|pr-helper|storage-daemon|vmsr-helper)")
# Debian's merged /usr, and the one name that packages leave to update-alternatives(1).
_LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin", "usr/bin/awk": "mawk"}


def tools_tree(
    key: str,
    lock: Lock,
    *,
    cache: Cache,
    store: Store,
    sources: Sources,
    report: Report,
    offline: bool = False,
    jobs: int = 8,
) -> Path:
    """The unpacked tools of `lock`, made if the cache does not hold them under `key`."""
    tree = cache.tools / key
    if use(tree):
        return tree
    with workspace(cache, f"tools-{key[:16]}", report) as work:
        if use(tree):  # somebody else was first
            return tree
        obtain(lock, store, sources, report, offline=offline, jobs=jobs)
        new = work / "tree"
        new.mkdir(mode=0o755)
        for name, target in _LINKS.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / target if "/" in target else new).mkdir(parents=True, exist_ok=True)
            (new / name).symlink_to(target)
        for name in _MOUNT_POINTS:
            (new / name).mkdir(parents=True)
        with (
            report.progress("Unpacking tools", len(lock.tools), "packages") as progress,
            ThreadPoolExecutor(max_workers=4) as pool,
        ):

            def unpack(deb: Deb) -> None:
                run(["dpkg-deb", "--extract", store.path_of(deb.sha256), new], env=closed_environment())
                progress.advance(1)

            for _ in pool.map(unpack, lock.tools):
                pass
        leave_out(new)
        cache.tools.mkdir(parents=True, exist_ok=True)
        new.rename(tree)
        use(tree)
    return tree


def leave_out(tree: Path) -> None:
    """Remove the emulators of machines that no image is made for."""
    for path in (tree / "usr/bin").glob("qemu-*"):
        if not _WANTED_QEMU.fullmatch(path.name):
            path.unlink()
