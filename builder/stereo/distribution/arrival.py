"""Where a pulled dist comes to be: a folder of its own while it comes, then its place, in one rename.

The folder is kept when a pull ends early, and is found again by the digest of what is pulled. It is locked by who
fills it, and the lock dies with them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from stereo.artifacts.region import FormatError, OpenFile
from stereo.assemble.dist import read_manifest_with_digest
from stereo.assemble.files import failures_explained, open_plain, settle, settle_all, settle_folder
from stereo.assemble.place import locked, publish, staging
from stereo.check import disk
from stereo.distribution.offer import Offer
from stereo.dists import entries
from stereo.dists.use import Users, in_use
from stereo.errors import StereoError, UsageError
from stereo.holding import seize
from stereo.model.architecture import Architecture
from stereo.model.manifest import DISK_FILES, MANIFEST_FILE, PULLED, is_release
from stereo.model.pulled import MAX_PULLED, Pulled, parse_pulled, render_pulled
from stereo.paths import user_data
from stereo.registry.reference import Reference
from stereo.report import Report

_ABANDONED = 7 * 86400.0  # seconds after which nobody comes back to a pull


@dataclass(frozen=True)
class Target:
    """Where a dist is to be, and where it is put together: on the same file system."""

    path: Path
    work: Path

    @classmethod
    def of(cls, offer: Offer, folder: Path | None, store: Path) -> Target:
        """The place in `store`, or `folder`. What is put together depends on its bytes and its formats."""
        name = f"{offer.digests[MANIFEST_FILE][:32]}-{'-'.join(offer.formats)}"
        if folder is None:
            manifest = offer.manifest
            arch = Architecture.from_system(manifest.arch).value
            return cls(store / manifest.name / manifest.version / arch, user_data() / "pulls" / name)
        path = Path(os.path.abspath(folder))  # noqa: PTH100 - links stay
        if not path.name:
            raise UsageError("is no place for a dist", where=str(path), hint="name a folder of its own")
        return cls(path, path.with_name(f".{path.name}.pull-{name}"))

    def holds(self, offer: Offer) -> bool:
        """Whether the dist is there already, as far as can be told without reading its disks."""
        try:
            digest = read_manifest_with_digest(self.path)[1]
        except (OSError, StereoError):
            return False
        wanted = {name: size for name, _, size in offer.manifest.files() if name not in _left_out(offer)}
        there = all(_size(self.path / name) == size for name, size in wanted.items())
        return digest == offer.digests[MANIFEST_FILE] and there

    def formats(self, offer: Offer) -> tuple[str, ...]:
        """The disk formats of the same dist that are there already."""
        try:
            if read_manifest_with_digest(self.path)[1] != offer.digests[MANIFEST_FILE]:
                return ()
        except (OSError, StereoError):
            return ()
        return tuple(each for each, names in DISK_FILES.items() if all((self.path / name).exists() for name in names))

    def refuse_to_replace(self, offer: Offer, *, force: bool, users: Callable[[], Users]) -> None:
        """Raises UsageError if another dist has the place (unless `force`), StereoError if it is in use."""
        if not os.path.lexists(self.path):
            return
        if self.path.is_dir() and not any(self.path.iterdir()):
            return
        if not self.path.is_dir() and not self.path.is_symlink():
            raise UsageError("is in the way of the dist and is no folder", where=str(self.path), hint="remove it")
        if not (self.path / MANIFEST_FILE).is_file() and not self.path.is_symlink():
            raise UsageError("is no dist, so it is not replaced", where=str(self.path), hint="name another folder")
        if not force and not self.formats(offer):
            hint = "look at it with `stereo verify`; --force replaces it"
            raise UsageError("is there already, with other bytes", where=str(self.path), hint=hint)
        if who := in_use(self.path, users()):
            raise StereoError(f"is in use by {who}", where=str(self.path), hint="end that first")


def refuse_another(offer: Offer, reference: Reference, store: Path) -> None:
    """Raises StereoError if another mixtape than this one came from the same place before.

    A repository has no signature that says whose it is: who holds it could hand out another mixtape of the same signer.
    """
    for entry in entries(store):
        if entry.name != offer.manifest.name and _origin(entry.place) == _from(reference):
            what = f"has {offer.manifest.name} now, and {entry.name} was pulled from there before"
            hint = f"somebody exchanged it; if that is right, first `stereo dists remove {entry.name}:{entry.version}`"
            raise StereoError(what, where=str(reference), hint=hint)


def refuse_older(offer: Offer, reference: Reference, store: Path, *, allow: bool) -> None:
    """Raises StereoError if a floating tag leads to an older release than one that came from the same place before.

    Whoever holds a registry could otherwise hand out, as the latest, what has known faults and a good signature.
    Each architecture is looked at by itself: a release may be there for one of them first.
    """
    version = offer.manifest.version
    if allow or reference.digest or is_release(reference.tag or "") or not is_release(version):
        return
    for entry in entries(store):
        if entry.name != offer.manifest.name or not is_release(entry.version):
            continue
        if entry.arch != Architecture.from_system(offer.manifest.arch):
            continue
        origin = _origin(entry.place)
        if origin != _from(reference) or _number(entry.version) <= _number(version):
            continue
        what = f"is {version} now, and {entry.version} was pulled from there before"
        hint = "somebody took it back, or hands out old things; --allow-older follows"
        raise StereoError(what, where=str(reference), hint=hint)


@contextmanager
def workplace(target: Target, offer: Offer, report: Report) -> Iterator[Path]:
    """The folder to put the dist together in, held by us alone; what is in it came earlier and is not believed.

    It stays when this ends by an exception. Raises OSError, StereoError.
    """
    with failures_explained("cannot pull", target.work), ExitStack() as stack:
        target.work.parent.mkdir(parents=True, exist_ok=True)
        target.path.parent.mkdir(parents=True, exist_ok=True)
        _clear(target.work)
        while True:
            target.work.mkdir(mode=0o755, exist_ok=True)
            held = os.open(target.work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report.note("somebody else pulls the same; waiting for them to end")
                fcntl.flock(held, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):  # who had it before us may have moved it into place
                if os.path.samestat(os.fstat(held), target.work.stat()):
                    break
            os.close(held)
        stack.callback(os.close, held)
        if os.fstat(held).st_uid != os.geteuid():  # beside --output-dir anybody may have made it, and alter what comes
            raise StereoError("belongs to somebody else", where=str(target.work), hint="remove it, or pull elsewhere")
        wanted = {*offer.blobs, *(name for each in offer.formats for name in DISK_FILES[each])}
        for path in target.work.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in wanted or path.is_symlink():
                path.unlink()
        os.utime(held)
        yield target.work


def complete(folder: Path, offer: Offer, reference: Reference, beside: Mapping[str, bytes]) -> None:
    """Lay the small things beside the files, check what would make `verify` fail, and bring all to the disk.

    `beside` are signature files and statements by path. Raises StereoError, OSError.
    """
    origin = Pulled(reference=_from(reference), digest=offer.digest, formats=offer.formats)
    for name, data in {**beside, PULLED: render_pulled(origin)}.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    _refuse_inconsistent(folder, offer)
    settle_all(folder, offer.manifest.build.epoch)


def lay(target: Target, offer: Offer, beside: Mapping[str, bytes], report: Report) -> None:
    """Lay statements, by path, into a dist that is there already: what was said of it since it was pulled.

    Raises StereoError, OSError.
    """
    place = target.path.resolve()
    new = {name: data for name, data in beside.items() if _content(place / name, len(data)) != data}
    if not new:
        return
    with failures_explained("cannot add statements", place), staging(place, report) as folder:
        for name, data in new.items():
            if (place / name).parent.is_symlink():
                raise StereoError("is a symbolic link", where=str((place / name).parent), hint="remove it")
            fresh = folder / "fresh"
            fresh.write_bytes(data)
            settle(fresh, offer.manifest.build.epoch)
            (place / name).parent.mkdir(exist_ok=True)
            fresh.replace(place / name)
            settle_folder((place / name).parent)
    report.note(f"new statements: {', '.join(sorted(new))}")


def arrive(
    folder: Path, target: Target, offer: Offer, *, force: bool, users: Callable[[], Users], report: Report
) -> None:
    """Give the finished folder its name. What had it is gone afterwards. Raises StereoError, OSError."""
    with locked(target.path, report):
        if target.holds(offer):
            shutil.rmtree(folder)
            return
        target.refuse_to_replace(offer, force=force, users=users)
        if target.path.is_symlink():
            target.path.unlink()
        held = seize(target.path) if target.path.exists() else None
        if held is None and target.path.exists():
            raise StereoError("is in use by a running program", where=str(target.path), hint="end that first")
        try:
            publish(folder, target.path)
        except OSError as error:
            if error.errno == errno.EXDEV:
                hint = f"keep {target.work.parent} and the store on one file system, or give --output-dir"
                raise StereoError("is on another file system", where=str(target.path.parent), hint=hint) from error
            raise
        finally:
            if held is not None:
                os.close(held)
        shutil.rmtree(folder, ignore_errors=True)  # what had the name before


def _refuse_inconsistent(folder: Path, offer: Offer) -> None:
    """Whether files that are all what they should be fit together; the publisher's mistakes end here, cheaply."""
    manifest = offer.manifest
    try:
        if "raw" in offer.formats:
            with OpenFile(folder / manifest.artifacts.raw.file) as file:
                faults = [*disk.table_faults(file.region, manifest)]
        else:
            faults = []
        cmdline = disk.cmdline_fault((folder / manifest.artifacts.kernel.cmdline.file).read_bytes(), manifest)
        faults += [cmdline] if cmdline else []
    except FormatError as error:
        faults = [str(error)]
    if faults:
        what = f"{manifest.name} {manifest.version} does not fit together: {faults[0]}"
        raise StereoError(what, hint="whoever published it did not verify it; tell them")


def _clear(work: Path) -> None:
    """Remove what others began and never came back to."""
    if work.parent.name != "pulls":
        return
    for path in work.parent.iterdir():
        with suppress(OSError):
            if path == work or time.time() - path.stat().st_mtime < _ABANDONED:
                continue
            if (held := seize(path)) is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(held)


_SAFE = "/:@+~=,()[]"
_LONGEST = 1024  # characters that pulled.json has room for


def _from(reference: Reference) -> str:
    """A place as pulled.json has it: of a path that is too long, the start and what tells it from others."""
    text = quote(reference.name.encode("utf-8", "surrogateescape"), safe=_SAFE)
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - 65]}#{hashlib.sha256(text.encode()).hexdigest()}"


def _origin(place: Path) -> str | None:
    try:
        with open_plain(place / PULLED) as file:
            return parse_pulled(file.read(MAX_PULLED + 1) or b"").reference
    except (OSError, StereoError):
        return None


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _left_out(offer: Offer) -> set[str]:
    return {name for each, names in DISK_FILES.items() if each not in offer.formats for name in names}


def _content(path: Path, size: int) -> bytes | None:
    """The file, cut off after one byte more than `size`; None if there is none."""
    try:
        with open_plain(path) as file:
            return file.read(size + 1)
    except (OSError, StereoError):
        return None


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except OSError:
        return None
