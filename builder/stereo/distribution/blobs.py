"""All blobs of an offer, several at a time: the first fault ends the others, and is the one that is told."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread

from stereo.distribution.offer import Offer, Said, read_frames
from stereo.distribution.parallel import PULSE
from stereo.distribution.partial import Patience, StoppedError, Traffic, Wanted, obtain
from stereo.distribution.receive import Content
from stereo.distribution.stock import Stock, Stretch
from stereo.errors import StereoError
from stereo.registry.documents import Descriptor
from stereo.registry.remote import Remote

_LEAVING = 2.0  # seconds that a thread gets to end after Ctrl-C; a killed one would leave the same


def fetch(
    remote: Remote,
    offer: Offer,
    said: Said,
    folder: Path,
    stock: Stock,
    traffic: Traffic,
    jobs: int,
    patience: Patience,
) -> None:
    """Have `folder` hold every file of the offer, the disks unpacked too. Raises what `obtain` raises, StereoError."""
    contents: dict[str, Content] = {
        disk.compressed_file: Content(disk.file, disk.sha256, disk.size)
        for disk in (offer.manifest.artifacts.raw, offer.manifest.artifacts.qcow2)
    }
    lock = Lock()

    def known(blob: Descriptor) -> Sequence[Stretch]:
        if not stock:
            return ()
        with lock:
            whole = stock.whole(blob.digest.removeprefix("sha256:"), blob.size)
            if whole or blob.title not in contents:
                return whole
            index = read_frames(remote, said, blob)
            return stock.stretches(index) if index else ()

    def get(name: str) -> None:
        blob = offer.blobs[name]
        obtain(
            remote,
            Wanted(blob, folder / name, contents.get(name)),
            traffic,
            known=partial(known, blob),
            patience=patience,
        )

    largest_first = sorted(offer.blobs, key=lambda name: offer.blobs[name].size, reverse=True)
    try:
        _side_by_side([partial(get, name) for name in largest_first], jobs, traffic)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "make room, for instance with `stereo dists prune` or `stereo clean`, and pull again: it goes on"
            raise StereoError("no space is left on the disk", where=str(folder), hint=hint) from error
        raise StereoError(f"cannot be written: {error.strerror or error}", where=str(folder)) from error


def _side_by_side(work: Sequence[Callable[[], None]], jobs: int, traffic: Traffic) -> None:
    """Do it all, `jobs` at a time. Raises the first fault, after the others have stopped.

    Daemon threads: one that waits for a dead server must not keep the process, and what it leaves is gone on from.
    """
    waiting: SimpleQueue[Callable[[], None]] = SimpleQueue()
    faults: list[BaseException] = []
    for one in work:
        waiting.put(one)

    def serve() -> None:
        with suppress(Empty, StoppedError):
            while not traffic.stop.is_set():
                one = waiting.get_nowait()
                try:
                    one()
                except StoppedError:
                    raise
                except BaseException as error:
                    faults.append(error)
                    traffic.stop.set()

    threads = [Thread(target=serve, name="pull", daemon=True) for _ in range(min(jobs, len(work)))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(PULSE)
    except BaseException:
        traffic.stop.set()
        for thread in threads:
            thread.join(_LEAVING)
        raise
    if faults:
        raise faults[0]
