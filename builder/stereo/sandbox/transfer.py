"""Copies files into a sandbox and out of it, as tar streams; what comes out is a stranger's until it is unpacked.

Nothing half-copied is ever visible on the host: what comes out is unpacked beside its place and renamed into it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stereo.errors import StereoError
from stereo.sandbox.unpack import unpack
from stereo.vm.control import Control
from stereo.vm.stream import Stream
from stereos_guest import protocol

_CHUNK = 1 << 16
_COMPLAINT = 1000  # bytes of what tar says
Advance = Callable[[int], None]


@dataclass(frozen=True)
class GuestPath:
    """A path inside, and the user whose rights count there. A relative path starts at the user's home."""

    path: str
    user: str


async def copy_in(control: Control, source: Path, target: GuestPath, advance: Advance) -> None:
    """Copy a file or folder of the host to `target`: into it if it is a folder or ends with "/", else as it.

    `advance` hears of bytes as they leave. Raises StereoError if the guest could not write all of it.
    """
    if not os.path.lexists(source):
        raise StereoError("no such file or folder", where=str(source))
    path = PurePosixPath(target.path)
    if target.path.endswith("/") or await _is_folder(control, target):
        folder, name = str(path), source.absolute().name or "root"
    else:
        folder, name = str(path.parent), path.name
    async with await control.open_stream(protocol.COPY_IN, {"path": folder, "user": target.user}) as stream:
        receiving, sending = os.pipe()
        packer = asyncio.get_running_loop().run_in_executor(None, _pack, sending, source, name)
        try:
            await _feed(stream, receiving, advance)
        finally:
            os.close(receiving)  # a packer that is still writing ends with EPIPE
            with suppress(BrokenPipeError):
                await packer
        await stream.write_eof()
        await _ended_well(stream, str(path))


async def copy_out(control: Control, source: GuestPath, target: Path, advance: Advance) -> None:
    """Copy a file or folder of the guest to the host: into `target` if that is a folder, else as it.

    What is there under the same name is replaced if it is a file. Owners and set-id bits are left behind; links that
    lead out of what is copied, and devices, are refused. Raises StereoError, and then nothing was changed.
    """
    name = PurePosixPath(source.path).name
    if name in ("", ".", ".."):
        raise StereoError("name a file or a folder", where=source.path)
    final = target / name if target.is_dir() else target
    if not final.parent.is_dir():
        raise StereoError("no such folder", where=str(final.parent))
    if final.is_dir():
        raise StereoError("is there already", where=str(final), hint="remove it, or choose another name")
    with tempfile.TemporaryDirectory(prefix=".stereo-cp-", dir=final.parent) as room:
        async with await control.open_stream(protocol.COPY_OUT, {"path": source.path, "user": source.user}) as stream:
            receiving, sending = os.pipe()
            unpacker = asyncio.get_running_loop().run_in_executor(None, _unpack, receiving, Path(room))
            try:
                complaint = await _drain(stream, sending, advance)
            finally:
                os.close(sending)
                failure = (await asyncio.gather(unpacker, return_exceptions=True))[0]
            if isinstance(failure, StereoError):
                if not complaint:
                    raise failure
            elif isinstance(failure, BaseException):
                raise failure
            await _ended_well(stream, source.path, complaint)
        arrived = Path(room) / name
        if not os.path.lexists(arrived):
            raise StereoError("the guest sent something else than was asked for", where=source.path)
        arrived.rename(final)


async def _is_folder(control: Control, target: GuestPath) -> bool:
    question = {"argv": ["/usr/bin/test", "-d", target.path], "user": target.user}
    async with await control.open_stream(protocol.EXEC, question) as stream:
        while await stream.read():
            pass
        return (await stream.wait()).code == 0


async def _feed(stream: Stream, receiving: int, advance: Advance) -> None:
    while data := await asyncio.to_thread(os.read, receiving, _CHUNK):
        try:
            await stream.write(data)
        except StereoError:
            return  # the guest ended it; how, the exit tells
        advance(len(data))


async def _drain(stream: Stream, sending: int, advance: Advance) -> bytes:
    """Pass on what the guest sends, until its end or the unpacker's; returns what it complained of."""
    complaint = bytearray()
    while piece := await stream.read():
        channel, data = piece
        if channel == "stderr":
            complaint += data[: _COMPLAINT - len(complaint)]
            continue
        try:
            await asyncio.to_thread(_write_all, sending, data)
        except BrokenPipeError:
            await stream.cancel()  # the unpacker gave up, and says why
            break
        advance(len(data))
    return bytes(complaint)


async def _ended_well(stream: Stream, where: str, complaint: bytes = b"") -> None:
    while piece := await stream.read():
        if piece[0] == "stderr":
            complaint += piece[1][: _COMPLAINT - len(complaint)]
    ended = await stream.wait()
    if ended.code != 0:
        words = complaint.decode(errors="replace").strip().splitlines()
        reason = words[0] if words else ended.error or f"tar ended with {ended.code or ended.signal}"
        raise StereoError(f"could not be copied: {reason}", where=where)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _pack(sending: int, source: Path, name: str) -> None:
    with os.fdopen(sending, "wb") as pipe, tarfile.open(fileobj=pipe, mode="w|", bufsize=_CHUNK) as tar:
        tar.add(source, arcname=name)


def _unpack(receiving: int, room: Path) -> None:
    with os.fdopen(receiving, "rb") as pipe:
        try:
            unpack(pipe, room)
        finally:
            with suppress(OSError):
                shutil.copyfileobj(pipe, _Nowhere())  # what follows the archive's end, so that the sender is not stuck


class _Nowhere:
    def write(self, data: bytes) -> int:
        return len(data)
