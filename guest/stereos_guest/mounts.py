"""Folders of the host, mounted where it says and nowhere that would change what the machine is.

The kernel's own table (proc_pid_mountinfo(5)) is the only list of them, so a daemon that was restarted forgets none.
"""

from __future__ import annotations

import posix

from stereos_guest import fields, files
from stereos_guest.protocol import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from stereos_guest.helpers import Run

TYPES = {"virtiofs": "nosuid,nodev", "9p": "trans=virtio,version=9p2000.L,nosuid,nodev"}
_TABLE = "/proc/self/mountinfo"
_LARGEST_TABLE = 4 << 20
# Nothing in them, and none of them itself; beside these, what begins with /lib.
_CLOSED = ("nix", "etc", "bin", "boot", "dev", "proc", "sys", "run", "usr", "sbin", "var", "root", "state", "verified")
_CLOSED_THEMSELVES = ("/", "/home", "/tmp")
_LONGEST_TAG = 36  # bytes; virtiofs's own bound
_WALK = posix.O_PATH | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC


class Mounts:
    """What is mounted below `root`. `changed` is called when that has changed."""

    def __init__(self, root: str, run: Run, changed: Callable[[], None]) -> None:
        self._root = root
        self._run = run
        self._changed = changed
        self._coming: set[str] = set()

    def listing(self) -> list[dict[str, Any]]:
        """What there is, in the order of mounting: payloads as of `mount`. Raises OSError."""
        found = []
        for row in files.read(self._root + _TABLE, _LARGEST_TABLE).splitlines():
            before, _, after = row.partition(" - ")
            place, options = before.split(" ")[4:6]
            kind, tag = after.split(" ")[:2]
            if kind in TYPES:
                path, read_only = _unescaped(place), "ro" in options.split(",")
                found.append({"tag": _unescaped(tag), "guest_path": path, "fs_type": kind, "read_only": read_only})
        return found

    def mount(self, body: Mapping[str, Any], done: Callable[[str], None], *, give: bool) -> tuple[str, str]:
        """Mount what a `mount` asks for; its tag and path. `give`: let the agent own it, as the original does.

        Raises ProtocolError and OSError if that cannot even begin; what mount(8) has to say goes to `done`.
        """
        tag, kind = fields.word(body, "tag", _LONGEST_TAG), fields.word(body, "fs_type")
        asked, read_only = fields.word(body, "guest_path"), fields.flag(body, "read_only")
        if not tag or not asked or not kind:
            raise ProtocolError("mount needs tag, guest_path and fs_type")
        if kind not in TYPES:
            raise ProtocolError(f"fs_type is none of {' and '.join(TYPES)}")
        if not tag.replace("-", "").replace("_", "").replace(".", "").isalnum() or not tag.isascii():
            raise ProtocolError("tag has other characters than letters, digits and . _ -")
        path = checked(asked)
        if path in self._coming or any(row["guest_path"] == path for row in self.listing()):
            raise ProtocolError(f"{path} is mounted already")
        folder = open_folder(self._root, path, make=True)
        options = TYPES[kind] + (",ro" if read_only else "")
        argv = ["/usr/bin/mount", "--no-canonicalize", "-t", kind, "-o", options, "--", tag, "."]
        self._coming.add(path)

        def mounted(error: str) -> None:
            posix.close(folder)
            self._coming.discard(path)
            if error:
                done(error)
                return
            self._changed()
            if give and not read_only:
                self._give(path, done)
            else:
                done("")

        # The program runs inside the folder that was opened: what becomes of its name meanwhile does not matter.
        self._run(argv, mounted, f"/proc/self/fd/{folder}")
        return tag, path

    def unmount(self, path: str, done: Callable[[str], None]) -> None:
        """Take one away. Raises ProtocolError, OSError."""
        if not any(row["guest_path"] == path for row in self.listing()):
            raise ProtocolError(f"nothing of the host's is mounted at {path}")

        def unmounted(error: str) -> None:
            if not error:
                self._changed()
            done(error)

        self._run(["/usr/bin/umount", "--no-canonicalize", "--", path], unmounted, "/")

    def unmount_all(self, done: Callable[[], None]) -> None:
        """Take all of them away, the last first, whatever goes wrong; then write out what is not on disk yet."""
        rest = [row["guest_path"] for row in self.listing()]

        def next_one(error: str) -> None:
            if error:
                posix.write(2, f"unmounting: {error}\n".encode())
            if rest:
                self._run(["/usr/bin/umount", "--no-canonicalize", "--", rest.pop()], next_one, "/")
            else:
                self._run(["/usr/bin/sync"], lambda error: done(), "/")

        next_one("")

    def _give(self, path: str, done: Callable[[str], None]) -> None:
        try:
            folder = open_folder(self._root, path, make=False)
        except (OSError, ProtocolError):
            done("")
            return

        def given(error: str) -> None:
            posix.close(folder)
            done("")  # as in the original: not every host lets us

        self._run(["/usr/bin/chown", "agent:agent", "."], given, f"/proc/self/fd/{folder}")


def checked(path: str) -> str:
    """The path without detours. Raises ProtocolError for one that is not absolute, or where nothing may be mounted."""
    if not path.startswith("/"):
        raise ProtocolError("guest_path is not absolute")
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts[-1:] = []
        elif part not in ("", "."):
            parts.append(part)
    clean = "/" + "/".join(parts)
    if clean in _CLOSED_THEMSELVES or parts[0] in _CLOSED or parts[0].startswith("lib"):
        raise ProtocolError(f"nothing may be mounted at {clean}")
    return clean


def open_folder(root: str, path: str, *, make: bool) -> int:
    """A descriptor (O_PATH) of the folder, reached without following a link. With `make`, what is missing is made.

    What is made belongs to whom the folder around it belongs to. Raises ProtocolError, OSError.
    """
    here = posix.open(root or "/", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    for part in path.strip("/").split("/"):
        try:
            below = _enter(here, part, make)
        except NotADirectoryError:
            raise ProtocolError(f"{path}: {part} is not a folder, or a link to one") from None
        finally:
            posix.close(here)
        here = below
    return here


def _enter(folder: int, name: str, make: bool) -> int:
    try:
        return posix.open(name, _WALK, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    before = posix.umask(0o022)
    try:
        posix.mkdir(name, 0o755, dir_fd=folder)
    finally:
        posix.umask(before)
    around = posix.fstat(folder)
    posix.chown(name, around.st_uid, around.st_gid, dir_fd=folder, follow_symlinks=False)
    return posix.open(name, _WALK, dir_fd=folder)


def _unescaped(text: str) -> str:
    """mountinfo writes space, tab, newline and backslash in octal."""
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, letter)
    return text
