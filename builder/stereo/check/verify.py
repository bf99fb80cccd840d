"""Proves that a dist is what its manifest says, and names each artifact that is not.

First what is there: the manifest, every file in its size, and nothing else. Then what is in them: `contents`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from stereo.artifacts.region import FormatError, OpenFile, Region, open_folder
from stereo.check.contents import Check, Finding
from stereo.check.derived import vmlinux
from stereo.errors import ProblemsError, StereoError, shown
from stereo.model.manifest import (
    ADDED_LATER,
    ATTESTATIONS,
    MANIFEST_FILE,
    MAX_BYTES,
    PULLED,
    VMLINUX,
    Manifest,
    parse_manifest,
)
from stereo.model.pulled import MAX_PULLED, parse_pulled
from stereo.report import Report

_MOST_NAMES = 1000


@dataclass(frozen=True)
class Verdict:
    """Everything that was checked. `manifest` is None when it could not be read."""

    manifest: Manifest | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return all(finding.ok for finding in self.findings)

    @property
    def failed(self) -> tuple[str, ...]:
        """The artifacts that failed, each once, in the order of the findings."""
        return tuple(dict.fromkeys(finding.artifact for finding in self.findings if not finding.ok))


def verify(dist: Path, report: Report, *, jobs: int | None = None) -> Verdict:
    """Check the directory `dist` against its manifest, with `jobs` threads (default: one per core).

    Whatever is wrong with the content becomes a finding. Raises UsageError when there is no such directory.
    """
    with open_folder(dist) as folder, ExitStack() as stack:
        return _verify(folder, report, jobs or os.cpu_count() or 1, stack)


def _verify(folder: int, report: Report, jobs: int, stack: ExitStack) -> Verdict:
    findings: list[Finding] = []
    manifest = _manifest(folder, findings)
    if manifest is None:
        return Verdict(None, tuple(findings))
    expected = {name: (digest, size) for name, digest, size in manifest.files()}
    findings += _listing(folder, {MANIFEST_FILE, *expected})
    left_out = _left_out(folder, findings)
    regions: dict[str, Region] = {}
    for name, (_, size) in expected.items():
        try:
            file = stack.enter_context(OpenFile(name, name=name, folder=folder))
        except FormatError as error:
            if not any(row.artifact == name for row in findings):
                excused = name in left_out and isinstance(error.__cause__, FileNotFoundError)
                findings.append(Finding(name, "present", excused, "not pulled" if excused else error.what))
            continue
        same = file.size == size
        message = f"{size} bytes" if same else f"has {file.size} bytes, the manifest says {size}"
        findings.append(Finding(name, "size", same, message))
        if same:
            regions[name] = file.region
    with report.progress("Verifying", sum(region.size for region in regions.values())) as progress:
        check = Check(manifest, regions, progress.advance)
        findings += check.run(jobs)
    if not any(row.artifact == VMLINUX for row in findings):
        name = manifest.artifacts.kernel.bzimage.file
        sound = not any(row.artifact == name and not row.ok for row in findings)
        found = vmlinux(folder, regions.get(name) if sound else None, manifest.arch)
        findings += [Finding(VMLINUX, "content", *found)] if found else []
    places = {name: place for place, name in enumerate((MANIFEST_FILE, *expected))}
    findings.sort(key=lambda row: places.get(row.artifact, len(places)))
    return Verdict(manifest, tuple(findings))


def _manifest(folder: int, findings: list[Finding]) -> Manifest | None:
    try:
        with OpenFile(MANIFEST_FILE, folder=folder) as file:
            manifest = parse_manifest(file.region.read(0, min(file.size, MAX_BYTES + 1)), MANIFEST_FILE)
    except FormatError as error:
        findings.append(Finding(MANIFEST_FILE, "present", False, error.what))
        return None
    except ProblemsError as error:
        findings += [
            Finding(MANIFEST_FILE, "manifest", False, f"{problem.key}: {problem.message}") for problem in error.problems
        ]
        return None
    findings.append(Finding(MANIFEST_FILE, "manifest", True, f"{manifest.name} {manifest.version} {manifest.arch}"))
    return manifest


def _left_out(folder: int, findings: list[Finding]) -> frozenset[str]:
    """The files that a pulled.json says were not pulled; none if there is no such file."""
    try:
        with OpenFile(PULLED, folder=folder) as file:
            pulled = parse_pulled(file.region.read(0, min(file.size, MAX_PULLED + 1)))
    except FormatError as error:
        if not isinstance(error.__cause__, FileNotFoundError) and not any(row.artifact == PULLED for row in findings):
            findings.append(Finding(PULLED, "pulled", False, error.what))
        return frozenset()
    except StereoError as error:
        findings.append(Finding(PULLED, "pulled", False, error.what))
        return frozenset()
    findings.append(Finding(PULLED, "pulled", True, f"{', '.join(pulled.formats)} of {pulled.reference}"))
    return pulled.left_out


def _listing(folder: int, expected: set[str]) -> Iterator[Finding]:
    """What is in the directory and should not be, or is no plain file (no folder, for signed statements)."""
    with os.scandir(folder) as listed:
        for count, item in enumerate(listed):
            if count == _MOST_NAMES:
                yield Finding("(directory)", "unexpected", False, f"more than {_MOST_NAMES} names")
                return
            name = shown(os.fsencode(item.name).decode("utf-8", "surrogateescape"), 80)
            if item.name not in expected | ADDED_LATER:
                yield Finding(name, "unexpected", False, "is not part of the dist")
            elif item.name == ATTESTATIONS:
                if not item.is_dir(follow_symlinks=False):
                    yield Finding(name, "type", False, "is not a folder" + (" but a link" * item.is_symlink()))
            elif not stat.S_ISREG(item.stat(follow_symlinks=False).st_mode):
                yield Finding(name, "type", False, "is not a regular file" + (" but a link" * item.is_symlink()))
