"""Whether the files of a dist that a sandbox starts from are those of its manifest.

Hashing a disk takes longer than anything else on the way to a boot, so each verdict is remembered for as long as the
files stay the same by what the kernel knows of them. The time of change (ctime, inode(7)) is among that: a program may
set a file's mtime to what it was, but not this.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

from stereo.errors import StereoError
from stereo.model.manifest import MANIFEST_FILE, MAX_BYTES, parse_manifest
from stereo.report import Report

NAMES = ("bzImage", "initrd", "cmdline", "stereos.img")
"""The files that a sandbox starts from."""

_CHUNK = 1 << 20
_LARGEST_NOTE = 1 << 16


def check_intact(dist: Path, manifest_digest: str, notes: Path, report: Report) -> None:
    """Hold what a sandbox starts from against the manifest. `notes` is the folder of verdicts.

    `manifest_digest` is the SHA-256 that the manifest has to have. Raises StereoError for what was altered or is
    missing.
    """
    note = notes / hashlib.sha256(os.fsencode(dist.resolve())).hexdigest()[:32]
    marks = {name: _mark(dist / name) for name in NAMES}
    if _remembered(note, manifest_digest, marks):
        return
    expected = _expected(dist, manifest_digest)
    with report.progress("Checking the mixtape", sum(expected[name][1] for name in NAMES)) as progress:
        for name in NAMES:
            sha256, size = expected[name]
            digest, found = hashlib.sha256(), 0
            with (dist / name).open("rb") as file:
                while data := file.read(_CHUNK):
                    digest.update(data)
                    found += len(data)
                    progress.advance(len(data))
            if found != size or digest.hexdigest() != sha256:
                raise StereoError(
                    f"is not what {MANIFEST_FILE} says", where=str(dist / name), hint=f"stereo verify {dist}"
                )
    if marks == {name: _mark(dist / name) for name in NAMES}:  # else it changed while we read
        _remember(note, manifest_digest, marks)


def _expected(dist: Path, manifest_digest: str) -> dict[str, tuple[str, int]]:
    path = dist / MANIFEST_FILE
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if hashlib.sha256(data).hexdigest() != manifest_digest:
        raise StereoError("changed just now", where=str(path), hint="run again")
    manifest = parse_manifest(data, str(path))
    return {name: (sha256, size) for name, sha256, size in manifest.files()}


def _mark(path: Path) -> list[int]:
    try:
        found = path.stat()
    except OSError as error:
        raise StereoError(f"cannot be read: {error.strerror}", where=str(path)) from None
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _remembered(note: Path, manifest_digest: str, marks: dict[str, list[int]]) -> bool:
    try:
        with note.open("rb") as file:
            known = json.loads(file.read(_LARGEST_NOTE))
        return bool(known["manifest"] == manifest_digest and all(known["files"][name] == marks[name] for name in marks))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False  # whatever it is, we can find out again


def _remember(note: Path, manifest_digest: str, marks: dict[str, list[int]]) -> None:
    note.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=note.parent, prefix=".note-", delete=False) as file:
        json.dump({"manifest": manifest_digest, "files": marks}, file)
    Path(file.name).replace(note)
