"""Read a disk once: copy it, hash it and its partitions, and have its chunks compressed by all cores meanwhile.

The reader fills a few buffers of fixed size, a thread per worker process empties them, and the frames go through files
of the cache: so the builder's memory is the same for any disk and any number of cores. So are the bytes, as each chunk
is compressed by itself and frames are joined in the order of the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import BinaryIO

from stereo.assemble import worker
from stereo.assemble.chunks import COARSE, READ, Chunker, Geometry, Part, read_parts
from stereo.assemble.files import open_plain
from stereo.assemble.frames import FrameCache
from stereo.errors import StereoError
from stereo.process import closed_environment
from stereo.report import Progress

_BUFFERS = 3  # one being filled, one being sent, one ready for the next worker that is free
_ZEROS = bytes(READ)


@dataclass(frozen=True)
class Span:
    """Part of a disk, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True)
class DiskSums:
    """What one pass over a disk yields. `chunks` names the frames of it, in order."""

    size: int
    sha256: str
    spans: list[str]
    chunks: list[str]
    marks: dict[int, Geometry]


@dataclass
class CompressorStats:
    """Bytes of chunks: compressed now, found compressed in the cache, and met again in this build."""

    compressed: int = 0
    cached: int = 0
    repeated: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, kind: str, size: int) -> None:
        with self.lock:
            setattr(self, kind, getattr(self, kind) + size)


class _Worker:
    """A worker process, used by one thread."""

    def __init__(self, level: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(worker.__file__)), str(level), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=closed_environment(),
            start_new_session=True,  # Ctrl-C is for us; the worker ends with its input
        )

    def send(self, name: str, path: Path, data: memoryview) -> None:
        """Hand a chunk over. When this returns, `data` may change."""
        assert self._process.stdin is not None
        order = {"size": len(data), "path": str(path), "name": name}
        with suppress(BrokenPipeError):  # `receive` tells
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def receive(self, path: Path) -> None:
        """Wait for the frame. Raises StereoError, or OSError if the worker could not write it to `path`."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise StereoError(
                f"a compressor process ended with status {self._process.wait()}",
                hint="it may have been killed for want of memory: use fewer jobs",
            )
        if number := json.loads(line).get("errno"):
            raise OSError(number, os.strerror(number), str(path))

    def end(self) -> None:
        """Returns when the process is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()


class Compressor:
    """Turns chunks into frames of the cache, each distinct one once. A context: on leaving it the workers are gone."""

    def __init__(self, cache: FrameCache, *, level: int, jobs: int, progress: Progress, geometry: Geometry = COARSE):
        self.stats = CompressorStats()
        self._cache, self._level, self._progress, self._geometry = cache, level, progress, geometry
        self._done: dict[str, Future[None]] = {}
        self._free: SimpleQueue[bytearray] = SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(bytearray(geometry.maximum))
        self._failed = self._closed = False
        self._threads = ThreadPoolExecutor(jobs, thread_name_prefix="compress")
        self._own = threading.local()
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Compressor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._failed = self._failed or kind is not None
        self._threads.shutdown(wait=kind is None, cancel_futures=True)
        with self._lock:
            self._closed = True
            for one in self._workers:
                one.end()
        self._threads.shutdown()

    def read_disk(
        self,
        path: Path,
        *,
        copy_to: Path | None = None,
        spans: Sequence[Span] = (),
        starts: Mapping[int, Geometry] | None = None,
        marks: Mapping[int, Geometry] | None = None,
    ) -> DiskSums:
        """One pass over a disk image; `spans` are hashed by themselves, too. `copy_to` becomes a sparse copy.

        `starts` and `marks` are as in `Chunker`. Returns when everything is read; `finish` waits for the frames.
        Raises OSError and StereoError.
        """
        chunks = _Chunks(self)
        chunker = Chunker(chunks, self._free.get(), geometry=self._geometry, starts=starts, marks=marks)
        whole, digests = hashlib.sha256(), [(span, hashlib.sha256()) for span in spans]
        with open_plain(path) as source, ExitStack() as stack:
            size = os.fstat(source.fileno()).st_size
            target = stack.enter_context(copy_to.open("xb", buffering=0)) if copy_to else None
            read = 0
            for part in read_parts(source.fileno(), size):
                read += 0 if part.data is None else part.size
                view = memoryview(_ZEROS)[: part.size] if part.data is None else memoryview(part.data)
                whole.update(view)
                for span, digest in digests:
                    begin = max(0, span.offset - part.offset)
                    end = min(part.size, span.offset + span.size - part.offset)
                    if begin < end:
                        digest.update(view[begin:end])
                if target and part.data is not None:
                    _write_at(target.fileno(), part)
                chunker.feed(part)
            if target:
                target.truncate(size)
        self._free.put(chunker.finish())
        self._progress.advance(read - chunks.size)  # what was read, but is zeros and needs no work
        return DiskSums(
            size, whole.hexdigest(), [digest.hexdigest() for _, digest in digests], chunks.names, chunker.marks
        )

    def finish(self) -> None:
        """Wait until every chunk has its frame. Raises what kept one from it."""
        for future in self._done.values():
            future.result()

    def join(self, names: Sequence[str], out: BinaryIO) -> tuple[str, int]:
        """Write the frames of `names` after each other; returns SHA-256 and size in bytes. After `finish`."""
        digest = hashlib.sha256()
        size = sum(self._cache.copy(name, out, digest) for name in names)
        return digest.hexdigest(), size

    def submit(self, name: str, buffer: bytearray | None, size: int) -> bytearray | None:
        """See to a frame for the chunk `name`; returns a buffer that is free, if one was given."""
        if name in self._done:
            self.stats.add("repeated", size)
            self._progress.advance(size if buffer is not None else 0)
            return buffer
        if self._failed:
            self.finish()
        self._done[name] = self._threads.submit(self._compress, name, buffer, size)
        return self._free.get() if buffer is not None else None

    def _compress(self, name: str, buffer: bytearray | None, size: int) -> None:
        path = self._cache.path_of(name)
        try:
            try:
                found = self._failed or self._cache.has(name)
                if not found:
                    one = self._worker()
                    one.send(name, path, memoryview(bytes(size) if buffer is None else buffer)[:size])
            finally:
                if buffer is not None:
                    self._free.put(buffer)
            if not found:
                one.receive(path)
        except BaseException:
            self._failed = True
            raise
        self.stats.add("cached" if found else "compressed", size)
        self._progress.advance(size if buffer is not None else 0)

    def _worker(self) -> _Worker:
        if not hasattr(self._own, "worker"):
            with self._lock:
                if self._closed:
                    raise StereoError("the build was given up")
                self._own.worker = _Worker(self._level)
                self._workers.append(self._own.worker)
        mine: _Worker = self._own.worker
        return mine


class _Chunks:
    """The sink of one disk's chunks: names them and passes them on."""

    def __init__(self, compressor: Compressor) -> None:
        self.names: list[str] = []
        self.size = 0
        self._compressor = compressor

    def data(self, buffer: bytearray, size: int) -> bytearray:
        self.names.append(hashlib.sha256(memoryview(buffer)[:size]).hexdigest())
        self.size += size
        free = self._compressor.submit(self.names[-1], buffer, size)
        assert free is not None
        return free

    def zeros(self, size: int) -> None:
        self.names.append(_name_of_zeros(size))
        self._compressor.submit(self.names[-1], None, size)


@lru_cache(maxsize=64)
def _name_of_zeros(size: int) -> str:
    digest = hashlib.sha256()
    for start in range(0, size, READ):
        digest.update(_ZEROS[: size - start])
    return digest.hexdigest()


def _write_at(target: int, part: Part) -> None:
    assert part.data is not None
    view, position = memoryview(part.data), part.offset
    while view:
        written = os.pwrite(target, view, position)
        view, position = view[written:], position + written
