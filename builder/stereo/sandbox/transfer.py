"""Copies files into a sandbox and out of it, as tar streams; what comes out is a stranger's until it is unpacked.

Nothing half-copied is ever seen under its name, on neither side: it is unpacked beside its place and renamed into it.
Only what goes into a folder of the same name inside is merged with it, file by file.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from stereo.errors import StereoError
from stereo.sandbox.unpack import unpack
from stereo.vm.control import Control
from stereo.vm.stream import Stream
from stereos_guest import protocol

_CHUNK = 1 << 16
_COMPLAINT = 1000  # bytes of what tar says
_TIDY_SECONDS = 30.0
_UNFINISHED = ".stereo-cp-"
# "into" if a path is a folder, or a link to one; and what is there, or in that folder under a name.
_LOOK = """
at=$1
if [ -d "$at" ]; then echo into; at=$at/$2; fi
if [ -h "$at" ] || [ -f "$at" ]; then echo file
elif [ -d "$at" ]; then echo folder
elif [ -e "$at" ]; then echo other
fi
"""
Advance = Callable[[int], None]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class GuestPath:
    """A path inside, and the user whose rights count there. A relative path starts at the user's home."""

    path: str
    user: str


async def copy_in(control: Control, source: Path, target: GuestPath, advance: Advance, left_out: Tell) -> None:
    """Copy a file or folder of the host to `target`: into it if it is a folder or ends with "/", else as it.

    A file or link that is there under that name is replaced. `advance` hears of bytes as they leave, `left_out` of
    sockets, which cannot be copied. Raises StereoError if the guest could not write all of it.
    """
    if not os.path.lexists(source):
        raise StereoError("no such file or folder", where=str(source))
    if source.is_socket():
        raise StereoError("is a socket, which cannot be copied", where=str(source))
    path, name = PurePosixPath(target.path), source.absolute().name or "root"
    found = (await _run(control, ["/usr/bin/sh", "-c", _LOOK, "sh", str(path), name], target.user)).split()
    if b"into" in found:
        path /= name
    elif target.path.endswith("/"):
        raise StereoError("no such folder", where=target.path)
    is_folder = source.is_dir() and not source.is_symlink()
    if b"other" in found or (b"file" if is_folder else b"folder") in found:
        raise StereoError("something else is there already", where=str(path), hint="choose another name")
    if b"folder" in found:
        await _send(control, source, path.parent, path.name, target.user, advance, left_out)
        return
    beside = path.parent / f"{_UNFINISHED}{secrets.token_hex(8)}"
    try:
        await _send(control, source, path.parent, beside.name, target.user, advance, left_out)
        await _run(control, ["/usr/bin/mv", "-fT", "--", str(beside), str(path)], target.user)
    except BaseException as error:
        with suppress(StereoError, TimeoutError):  # it is gone with the machine, or cannot be helped
            async with asyncio.timeout(_TIDY_SECONDS):
                await _run(control, ["/usr/bin/rm", "-rf", "--", str(beside)], target.user)
        if isinstance(error, StereoError):
            raise StereoError(error.what.replace(beside.name, path.name), where=str(path), hint=error.hint) from error
        raise


async def copy_out(control: Control, source: GuestPath, target: Path, advance: Advance) -> None:
    """Copy a file or folder of the guest to the host: into `target` if that is a folder, else as it.

    What is there under the same name is replaced if it is a file. Owners and set-id bits are left behind; links that
    lead out of what is copied, and devices, are refused. Raises StereoError, and then nothing was changed.
    """
    path = str(PurePosixPath(source.path))  # without a "/." at its end, whose name tar would not send
    name = PurePosixPath(path).name
    if name in ("", ".", ".."):
        raise StereoError("name a file or a folder", where=source.path)
    final = target / name if target.is_dir() else target
    if not final.parent.is_dir():
        raise StereoError("no such folder", where=str(final.parent))
    _replaceable(final, by_folder=False)
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=final.parent) as room:
        async with await control.open_stream(protocol.COPY_OUT, {"path": path, "user": source.user}) as stream:
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
        _replaceable(final, by_folder=arrived.is_dir() and not arrived.is_symlink())
        arrived.rename(final)


async def _run(control: Control, argv: list[str], user: str) -> bytes:
    """What a short program inside writes. Raises StereoError with its complaint."""
    said = {"stdout": bytearray(), "stderr": bytearray()}
    async with await control.open_stream(protocol.EXEC, {"argv": argv, "user": user, "cwd": "."}) as stream:
        while piece := await stream.read():
            said[piece[0]] += piece[1][: _COMPLAINT - len(said[piece[0]])]
        await _ended_well(stream, argv[-1], bytes(said["stderr"]))
    return bytes(said["stdout"])


async def _send(
    control: Control, source: Path, folder: PurePosixPath, name: str, user: str, advance: Advance, left_out: Tell
) -> None:
    """Have `source` unpacked in a folder of the guest, under `name`."""
    skipped: list[str] = []
    async with await control.open_stream(protocol.COPY_IN, {"path": str(folder), "user": user}) as stream:
        receiving, sending = os.pipe()
        packer = asyncio.get_running_loop().run_in_executor(None, _pack, sending, source, name, skipped)
        try:
            await _feed(stream, receiving, advance)
        finally:
            os.close(receiving)  # a packer that is still writing ends with EPIPE
            with suppress(BrokenPipeError):
                await packer
        await stream.write_eof()
        await _ended_well(stream, str(folder))
    for each in skipped:
        left_out(each)


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


class _Packer(tarfile.TarFile):
    """Remembers what it has no kind of member for, where tarfile leaves it out without a word."""

    skipped: list[str]

    def gettarinfo(self, name: Any = None, arcname: Any = None, fileobj: Any = None) -> tarfile.TarInfo:
        info = super().gettarinfo(name, arcname, fileobj)
        if info is None:  # a socket
            self.skipped.append(str(name))
        return info


def _pack(sending: int, source: Path, name: str, skipped: list[str]) -> None:
    with os.fdopen(sending, "wb") as pipe, _Packer.open(fileobj=pipe, mode="w|", bufsize=_CHUNK) as tar:
        tar.skipped = skipped
        tar.add(source, arcname=name)


def _unpack(receiving: int, room: Path) -> None:
    with os.fdopen(receiving, "rb") as pipe:
        try:
            unpack(pipe, room)
        finally:
            with suppress(OSError):
                shutil.copyfileobj(pipe, _Nowhere())  # what follows the archive's end, so that the sender is not stuck


def _replaceable(final: Path, *, by_folder: bool) -> None:
    """Raises StereoError unless a rename may take the place of what is there: nothing, or a file for a file."""
    if os.path.lexists(final) and (by_folder or not (final.is_file() or final.is_symlink())):
        raise StereoError("is there already", where=str(final), hint="remove it, or choose another name")


class _Nowhere:
    def write(self, data: bytes) -> int:
        return len(data)
