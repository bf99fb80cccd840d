"""Small releases, and an OCI layout that has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from makers.dist import OS_RELEASE, make_dist
from makers.node import SAMPLE, Files, file
from stereo.distribution.publish import publish
from stereo.model.architecture import Architecture
from stereo.model.manifest import MANIFEST_FILE, render_manifest
from stereo.registry.layout import LayoutRemote
from stereo.registry.reference import Reference
from stereo.report import Silent

OLD, NEW = "2026.01.02.0", "2026.01.03.0"


def make_release(
    folder: Path,
    version: str = OLD,
    *,
    more: Files | None = None,
    kernel: bytes = b"kernel" * 2000,
    arch: Architecture = Architecture.X86_64,
) -> Path:
    """A dist of that version in `folder`, with the files `more` in its root."""
    named = {"/usr/lib/os-release": file(OS_RELEASE.replace(OLD.encode(), version.encode()))}
    manifest = make_dist(folder, root=SAMPLE | named | (more or {}), kernel=kernel, arch=arch)
    (folder / MANIFEST_FILE).write_text(render_manifest(manifest.model_copy(update={"version": version})))
    return folder


def publish_in_layout(layout: Path, dist: Path, *, floating: Sequence[str] = ("latest",)) -> Reference:
    """Publish the dist in the layout; returns the reference of its version."""
    remote = LayoutRemote(Reference("layout", path=str(layout)))
    return Reference(
        "layout",
        path=str(layout),
        tag=publish([dist], remote, floating=floating, report=Silent()).reference.rpartition(":")[2],
    )
