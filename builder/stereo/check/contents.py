"""Whether the files of a dist hold what its manifest says, each alone and all of them together.

The bytes go by once (see `passes`), on all cores, the largest file first. Only when something is wrong are files read
again, to tell which of two that differ is the altered one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from stereo.artifacts import gpt, zst
from stereo.artifacts.kernel import kernel_fault, kernel_form
from stereo.artifacts.qcow2 import Qcow2
from stereo.artifacts.region import FormatError, Region
from stereo.check import disk
from stereo.check.bills import sbom_fault
from stereo.check.passes import Seen, Tick, content_digest, plain_pass, qcow2_pass, raw_pass, zst_pass
from stereo.errors import shown
from stereo.model.manifest import CYCLONEDX_FILE, MANIFEST_FILE, SPDX_FILE, DiskArtifact, Manifest

_LARGEST_CMDLINE = 64 << 10
_LARGEST_PATH = 4096


@dataclass(frozen=True)
class Finding:
    """One check of one artifact. `message` explains a failure, or says what was found to hold."""

    artifact: str
    check: str
    ok: bool
    message: str


class _StoppedError(Exception):
    """The user wants no more of this."""


class Check:
    """The checks of one dist whose manifest could be read. `regions` are the files of the right size."""

    def __init__(self, manifest: Manifest, regions: dict[str, Region], advance: Callable[[int], None]) -> None:
        self._manifest = manifest
        self._regions = regions
        self._advance = advance
        self._stop = threading.Event()
        self._digests = {name: digest for name, digest, _ in manifest.files()}
        self._root = disk.only_of_type(manifest, gpt.ROOT[manifest.arch])
        self._hashes = disk.only_of_type(manifest, gpt.ROOT_VERITY[manifest.arch])

    def run(self, jobs: int) -> Iterator[Finding]:
        """All findings. Threads end when this ends, also by an exception."""
        with ThreadPoolExecutor(max_workers=max(1, jobs), thread_name_prefix="verify") as pool:
            try:
                yield from self._findings(pool)
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _tick(self, amount: int) -> None:
        if self._stop.is_set():
            raise _StoppedError
        self._advance(amount)

    def _findings(self, pool: ThreadPoolExecutor) -> Iterator[Finding]:
        passes = self._passes()
        largest_first = sorted(passes, key=lambda name: self._weight(name), reverse=True)
        running: dict[str, Future[Seen]] = {name: pool.submit(passes[name], self._tick) for name in largest_first}
        sections = pool.submit(self._uki)
        identity = pool.submit(self._identity)
        seen: dict[str, Seen | str] = {}
        for name, future in running.items():
            try:
                seen[name] = future.result()
            except FormatError as error:
                seen[name] = str(error)
        for name, result in seen.items():
            yield self._digest(name, result)
        good = {
            name for name, result in seen.items() if isinstance(result, Seen) and result.sha256 == self._digests[name]
        }
        yield from self._contents(seen, good)
        yield from self._disk(seen, sections.result(), identity.result())
        yield from self._kernel(good)
        yield from self._cmdline(good)
        yield from self._init(good)
        yield from self._sboms(good, seen, identity.result())

    def _weight(self, name: str) -> int:
        """What a pass costs, roughly, in bytes hashed: the disk is hashed three times over, a .zst is decompressed."""
        artifacts = self._manifest.artifacts
        extra = {
            artifacts.raw.file: 2 * artifacts.raw.size,
            artifacts.raw.compressed_file: artifacts.raw.size,
            artifacts.qcow2.compressed_file: artifacts.qcow2.size,
        }
        return self._regions[name].size + extra.get(name, 0)

    def _passes(self) -> dict[str, Callable[[Tick], Seen]]:
        """What reads each file, by its name."""
        passes: dict[str, Callable[[Tick], Seen]] = {}
        raw, qcow2 = self._manifest.artifacts.raw, self._manifest.artifacts.qcow2
        for name, region in self._regions.items():
            if name == raw.file:
                passes[name] = partial(raw_pass, region, self._manifest, self._root, self._hashes)
            elif name == qcow2.file:
                passes[name] = partial(qcow2_pass, region, self._regions.get(raw.file))
            elif name in (raw.compressed_file, qcow2.compressed_file):
                original = raw if name == raw.compressed_file else qcow2
                passes[name] = partial(zst_pass, region, self._regions.get(original.file))
            else:
                passes[name] = partial(plain_pass, region)
        return passes

    def _digest(self, name: str, result: Seen | str) -> Finding:
        if isinstance(result, str):
            return Finding(name, "sha256", False, result)
        same = result.sha256 == self._digests[name]
        message = result.sha256 if same else f"is {result.sha256}, the manifest says {self._digests[name]}"
        return Finding(name, "sha256", same, message)

    def _contents(self, seen: dict[str, Seen | str], good: set[str]) -> Iterator[Finding]:
        """Whether .zst and qcow2 hold what they should.

        A comparison counts when the other side is sound. Else the content is read again, and its digest tells.
        """
        raw, qcow2 = self._manifest.artifacts.raw, self._manifest.artifacts.qcow2
        rows = ((raw.compressed_file, raw), (qcow2.file, raw), (qcow2.compressed_file, qcow2))
        for name, original in rows:
            result = seen.get(name)
            if not isinstance(result, Seen):
                continue
            fault = result.differs
            if original.file not in good:
                fault = self._content_fault(name, original)
            message = fault or f"holds the bytes of {original.file}"
            yield Finding(name, "content", fault is None, message.removeprefix(f"{name}: "))

    def _content_fault(self, name: str, original: DiskArtifact) -> str | None:
        region = self._regions[name]
        try:
            if name == self._manifest.artifacts.qcow2.file:
                image = Qcow2(region)
                if image.size != original.size:
                    return f"is a disk of {image.size} bytes, {original.file} of {original.size}"
                chunks = image.content().chunks()
            else:
                chunks = zst.decompressed(region, original.size)
            digest = content_digest(chunks, self._tick)
        except FormatError as error:
            return str(error)
        if digest == original.sha256:
            return None
        return f"its content has SHA-256 {digest}, the manifest says {original.sha256} of {original.file}"

    def _uki(self) -> list[str]:
        region = self._regions.get(self._manifest.artifacts.raw.file)
        return _collected(disk.uki_faults(region, self._manifest)) if region else []

    def _identity(self) -> list[str]:
        region = self._regions.get(self._manifest.artifacts.raw.file)
        return _collected(disk.identity_faults(region, self._manifest, self._root)) if region and self._root else []

    def _disk(self, seen: dict[str, Seen | str], uki: list[str], identity: list[str]) -> Iterator[Finding]:
        manifest, name = self._manifest, self._manifest.artifacts.raw.file
        region, result = self._regions.get(name), seen.get(name)
        if region is None or not isinstance(result, Seen):
            return
        tables = _collected(disk.table_faults(region, manifest))
        yield from _verdicts(name, "partition-table", tables, f"{len(manifest.image.partition)} partitions")
        for row in manifest.image.partition:
            digest = result.partitions.get(row.uuid)
            same = digest == row.sha256
            label = f"partition {shown(row.label)}"
            message = f"{label}: {digest}" if same else f"{label}: SHA-256 is {digest}, the manifest says {row.sha256}"
            yield Finding(name, "partition", same, message)
        yield from _verdicts(name, "uki", uki, "made of bzImage, initrd and cmdline")
        root_faults = self._root_faults(result)
        yield from _verdicts(name, "root-hash", root_faults, manifest.image.root_hash)
        if not root_faults:  # else it is the disk that cannot be trusted, and it has been named
            yield from _verdicts(MANIFEST_FILE, "identity", identity, "is what the image says of itself")

    def _root_faults(self, result: Seen) -> list[str]:
        if not self._root or not self._hashes:
            return [f"not one root and one root-verity partition of {self._manifest.arch}"]
        faults = list(disk.uuid_faults(self._manifest, self._root, self._hashes))
        if result.root_fault:
            faults.append(f"partition {self._root.label}: {result.root_fault}")
        if result.root_hash != self._manifest.image.root_hash:
            faults.append(
                f"partition {self._root.label}: has the root hash {result.root_hash},"
                f" the manifest says {self._manifest.image.root_hash}"
            )
        return faults

    def _kernel(self, good: set[str]) -> Iterator[Finding]:
        name = self._manifest.artifacts.kernel.bzimage.file
        if name in good:
            fault = kernel_fault(self._regions[name], self._manifest.arch)
            yield Finding(name, "form", fault is None, fault or kernel_form(self._regions[name]))

    def _cmdline(self, good: set[str]) -> Iterator[Finding]:
        name = self._manifest.artifacts.kernel.cmdline.file
        if name in good:
            region = self._regions[name]
            words = region.read(0, min(region.size, _LARGEST_CMDLINE))
            fault = disk.cmdline_fault(words, self._manifest)
            yield Finding(name, "root-hash", fault is None, fault or self._manifest.image.root_hash)

    def _init(self, good: set[str]) -> Iterator[Finding]:
        name, region = self._manifest.artifacts.kernel.init.file, self._regions.get(self._manifest.artifacts.raw.file)
        if name not in good or self._manifest.artifacts.raw.file not in good or not self._root or region is None:
            return
        path = self._regions[name].read(0, min(self._regions[name].size, _LARGEST_PATH))
        try:
            fault = disk.init_fault(region, self._root, path)
        except FormatError as error:
            fault = str(error)
        yield Finding(name, "program", fault is None, fault or "is in the image")

    def _sboms(self, good: set[str], seen: dict[str, Seen | str], identity: list[str]) -> Iterator[Finding]:
        """Whether they are about this image: only one that is sound itself can tell."""
        image = seen.get(self._manifest.artifacts.raw.file)
        if not isinstance(image, Seen) or identity or self._root_faults(image):
            return
        for name in [name for name in (CYCLONEDX_FILE, SPDX_FILE) if name in good]:
            fault = sbom_fault(self._regions[name], self._manifest)
            yield Finding(name, "image", fault is None, fault or "is about this image")


def _collected(faults: Iterable[str]) -> list[str]:
    """The faults, and as the last one the error that ended the search, if one did."""
    found: list[str] = []
    try:
        for fault in faults:
            found.append(fault)  # one by one: what came before an error is kept
    except FormatError as error:
        found.append(str(error))
    return found


def _verdicts(artifact: str, check: str, faults: list[str], held: str) -> Iterator[Finding]:
    for fault in faults:
        yield Finding(artifact, check, False, fault.removeprefix(f"{artifact}: "))
    if not faults:
        yield Finding(artifact, check, True, held)
