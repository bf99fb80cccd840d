"""Unpacks a tar stream of a stranger's into a folder of ours, and never beside it.

`tarfile` reads the headers, and no more. Its "data" filter decides by path, and then writes by path: what a path leads
to depends on the links that came before, and archives exist that fool it (CVE-2025-4517 and its like). Here each folder
is opened in the one above it, and a link is never followed, so there is nothing to decide. A link itself may lead up no
further than the first name that was sent, and then down, so that nothing outside is read through it later either.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from stereo.errors import StereoError, shown

_CHUNK = 1 << 16
_LARGEST_HEADER = 1 << 20  # bytes; tarfile reads a long name, or attributes, into memory as a whole
_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Member(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _HEADERS and header.size > _LARGEST_HEADER:
            raise _unsafe("a header", f"of {header.size} bytes")
        return header


def unpack(pipe: BinaryIO, room: Path) -> None:
    """Unpack the archive that comes from `pipe` into the empty folder `room`: files, folders and links within it.

    Owners are left behind, and of the modes what lets others write, and set-id bits. Raises StereoError.
    """
    try:
        with tarfile.open(fileobj=pipe, mode="r|", bufsize=_CHUNK, tarinfo=_Member) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # or it keeps them all
                _unpack_one(tar, member, room)
    except OSError as error:
        raise StereoError(f"what the guest sent cannot be written: {error.strerror}", where=str(room.parent)) from error
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise StereoError(f"the guest did not send a whole archive: {error}") from error


def _unpack_one(tar: tarfile.TarFile, member: tarfile.TarInfo, room: Path) -> None:
    names = _names(member.name)
    with _folder_of(names, member.name, room) as folder:
        try:
            if member.isdir():
                _make_folder(names[-1], folder)
            elif member.issym():
                _check_link(member, names)
                os.symlink(member.linkname, names[-1], dir_fd=folder)
            elif member.islnk():
                _link(names[-1], folder, member, room)
            elif member.isreg() and not member.issparse():
                _write(tar, member, names[-1], folder)
            else:
                raise _unsafe(member.name, "which is neither file, folder nor link")
        except FileExistsError:
            raise _unsafe(member.name, "twice") from None


def _names(path: str) -> list[str]:
    names = path.split("/")
    if "\0" in path or any(name in ("", ".", "..") for name in names):
        raise _unsafe(path, "which is no plain path")
    return names


@contextmanager
def _folder_of(names: list[str], path: str, room: Path) -> Iterator[int]:
    """The folder that holds the last of `names`, reached without a link."""
    at = os.open(room, _FOLDER)
    try:
        for name in names[:-1]:
            try:
                below = os.open(name, _FOLDER, dir_fd=at)
            except (FileNotFoundError, NotADirectoryError) as error:  # of a link, it says the latter
                raise _unsafe(path, "whose folder was not sent before it") from error
            os.close(at)
            at = below
        yield at
    finally:
        os.close(at)


def _make_folder(name: str, folder: int) -> None:
    try:
        os.mkdir(name, dir_fd=folder)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise


def _check_link(member: tarfile.TarInfo, names: list[str]) -> None:
    """Up first, at most to the first folder, then down: wherever other links lead, this one stays within.

    Were a `..` allowed after a name, that name could be a link, and the way up would begin somewhere else.
    """
    steps = member.linkname.split("/")
    ups = next((index for index, step in enumerate(steps) if step != ".."), len(steps))
    inside = ups < len(names) - 1
    if not member.linkname or "\0" in member.linkname or steps[0] == "" or ".." in steps[ups:] or not inside:
        raise _unsafe(member.name, f"a link that leads out of what is copied, to {shown(member.linkname)}")


def _link(name: str, folder: int, member: tarfile.TarInfo, room: Path) -> None:
    """Another name of a file that was unpacked before. Never of a link: at another place it leads elsewhere."""
    target = _names(member.linkname)
    with _folder_of(target, member.linkname, room) as other:
        if not stat.S_ISREG(os.stat(target[-1], dir_fd=other, follow_symlinks=False).st_mode):
            raise _unsafe(member.name, "another name of what is no file")
        os.link(target[-1], name, src_dir_fd=other, dst_dir_fd=folder, follow_symlinks=False)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, folder: int) -> None:
    content = tar.extractfile(member)
    assert content is not None
    with os.fdopen(os.open(name, _NEW_FILE, 0o600, dir_fd=folder), "wb") as file:
        shutil.copyfileobj(content, file, _CHUNK)
        if file.tell() != member.size:
            raise tarfile.ReadError("unexpected end of data")
        mode = member.mode & 0o755 | 0o600
        os.fchmod(file.fileno(), mode if mode & 0o100 else mode & 0o666)
        file.flush()
        with suppress(ValueError, OverflowError, OSError):  # a time that no file can have
            os.utime(file.fileno(), (member.mtime, member.mtime))


def _unsafe(path: str, why: str) -> StereoError:
    return StereoError(f"the guest sent something unsafe: {shown(path)}, {why}")
