"""What vfkit understands of its command line, and what it refuses: the rules of its pkg/cmdline and pkg/config.

The rules of a real framework that show only when the machine is made (a kernel that is compressed, a folder that is not
there) are checked as well, by `check`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn
from urllib.parse import unquote, urlsplit

_KERNEL_MAGIC, _KERNEL_MAGIC_AT = b"ARM\x64", 0x38
_LONGEST_SOCKET = 103  # bytes; macOS
_MAC = re.compile(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")


class Refused(Exception):  # noqa: N818 - reads as what happened
    """What vfkit ends with, on its standard error."""


@dataclass(frozen=True)
class Vsock:
    """A port of the guest's vsock device, and the host's socket that belongs to it."""

    port: int
    path: str
    listen: bool


@dataclass
class Options:
    """A whole command line. `memory` is in MiB."""

    cpus: int = 1
    memory: int = 512
    loader: str = ""
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    variables: str = ""
    create: bool = False
    disks: list[str] = field(default_factory=list)
    consoles: list[str] = field(default_factory=list)
    vsocks: list[Vsock] = field(default_factory=list)
    cards: list[str] = field(default_factory=list)
    """The MAC address of each network card behind NAT; empty for one that the host makes up."""
    shares: list[tuple[str, str]] = field(default_factory=list)
    """Tag and folder."""
    rng: bool = False
    rest: str | None = None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(message)


def parse(arguments: Sequence[str]) -> Options:
    """The options that `arguments` say. Raises Refused."""
    parser = _Parser(prog="vfkit", add_help=False, allow_abbrev=False)
    parser.add_argument("--cpus", "-c", type=_number, default=1)
    parser.add_argument("--memory", "-m", type=_number, default=512)
    parser.add_argument("--bootloader", "-b", action="append", default=[])
    parser.add_argument("--device", "-d", action="append", default=[])
    parser.add_argument("--restful-uri", default="none://")
    parser.add_argument("--log-level", choices=("", "debug", "info", "error"), default="")
    found = parser.parse_args(list(arguments))
    options = Options(found.cpus, found.memory, rest=_rest(found.restful_uri))
    _loader([word for value in found.bootloader for word in split_quoted(value)], options)
    for value in found.device:
        _device(value, options)
    return options


def check(options: Options) -> None:
    """What the framework finds out when the machine is made. Raises Refused."""
    if options.loader == "linux":
        with _opened(options.kernel) as file:
            if file.read(_KERNEL_MAGIC_AT + 4)[_KERNEL_MAGIC_AT:] != _KERNEL_MAGIC:
                raise Refused(f"kernel must be uncompressed, {options.kernel} is a compressed file")
        _opened(options.initrd).close()
    elif not options.create and not Path(options.variables).exists():
        raise Refused("invalid EFI variable store")
    for disk in options.disks:
        _opened(disk).close()
        if Path(disk).stat().st_size % 512:
            raise Refused("invalid storage device attachment")
    tags = [tag for tag, _ in options.shares]
    if len(set(tags)) != len(tags) or not all(0 < len(tag.encode()) <= 36 for tag in tags):
        raise Refused("invalid directory sharing device tag")
    for _, folder in options.shares:
        if not Path(folder).is_dir():
            raise Refused(f"no such directory: {folder}")
    for path in filter(None, (options.rest, *(vsock.path for vsock in options.vsocks))):
        if len(path.encode()) > _LONGEST_SOCKET:
            raise Refused(f"listen unix {path}: bind: invalid argument")


def split_quoted(value: str) -> list[str]:
    """A --bootloader: apart at commas, but not between quotation marks; those around a whole word go."""
    words, word, quoted = [], "", False
    for char in value:
        if char == '"':
            quoted = not quoted
        if char == "," and not quoted:
            words.append(_unquoted(word))
            word = ""
        else:
            word += char
    if quoted:
        raise Refused('mismatched "')
    return [*words, _unquoted(word)]


def _unquoted(text: str) -> str:
    return text.strip('"') if text.startswith('"') and text.endswith('"') else text


def _loader(words: Sequence[str], options: Options) -> None:
    if not words:
        raise Refused("empty option list in --bootloader command line argument")
    options.loader = words[0]
    if options.loader not in ("linux", "efi"):
        raise Refused(f"unknown bootloader type: {options.loader}")
    for key, value in _options(words[1:]):
        match options.loader, key:
            case "linux", "kernel":
                options.kernel = value
            case "linux", "initrd":
                options.initrd = value
            case "linux", "cmdline":
                options.cmdline = _unquoted(value)
            case "efi", "variable-store":
                options.variables = value
            case "efi", "create" if not value:
                options.create = True
            case _:
                raise Refused(f"unknown option for {options.loader} bootloaders: {key}")


def _device(words: str, options: Options) -> None:
    kind, *rest = words.split(",")  # no quotation marks here
    known = {
        "virtio-blk": ("path", "deviceId"),
        "virtio-fs": ("sharedDir", "mountTag"),
        "virtio-net": ("nat", "mac"),  # and fd and unixSocketPath, which are not served here
        "virtio-rng": (),
        "virtio-serial": ("logFilePath",),  # and stdio
        "virtio-vsock": ("port", "socketURL", "listen", "connect"),
    }
    if kind not in known:
        raise Refused(f"unknown device type: {kind}")
    given = dict(_options(rest))
    for key in given:
        if key not in known[kind]:
            raise Refused(f"unknown option for {kind} devices: {key}")
    match kind:
        case "virtio-blk":
            options.disks.append(_needed(kind, given, "path"))
        case "virtio-fs":
            folder = _needed(kind, given, "sharedDir")
            options.shares.append((given.get("mountTag") or Path(folder).name, folder))
        case "virtio-net":
            options.cards.append(_card(given))
        case "virtio-rng":
            options.rng = True
        case "virtio-serial":
            options.consoles.append(_needed(kind, given, "logFilePath"))
        case "virtio-vsock":
            options.vsocks.append(_vsock(given))


def _card(given: dict[str, str]) -> str:
    if given.get("nat") != "":
        raise Refused("One of 'nat' or 'fd' or 'unixSocketPath' must be set")
    mac = given.get("mac", "")
    if "mac" in given and not _MAC.fullmatch(mac):
        raise Refused(f"address {mac}: invalid MAC address")
    return mac


def _vsock(given: dict[str, str]) -> Vsock:
    listen = True  # as long as nothing else is said, and what is said last counts
    for key in given:
        listen = {"listen": True, "connect": False}.get(key, listen)
    path = _needed("virtio-vsock", given, "socketURL")
    if listen:
        path = unquote(path)
    elif "?" in path or "#" in path or "%" in path or " " in path:
        raise Refused(f"the socket would be {path!r}, but escaped")
    return Vsock(_number(_needed("virtio-vsock", given, "port")), path, listen)


def _needed(kind: str, given: dict[str, str], key: str) -> str:
    if not given.get(key):
        raise Refused(f"missing mandatory '{key}' option for {kind} device")
    return given[key]


def _options(words: Sequence[str]) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (word.partition("=") for word in words if word)]


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise Refused(f"invalid argument {text!r}: invalid syntax")
    return int(text)


def _rest(uri: str) -> str | None:
    url = urlsplit(uri)
    if url.scheme == "none":
        return None
    if url.scheme != "unix":
        raise Refused(f"invalid scheme {url.scheme}")  # tcp is not served here
    if not url.path or url.netloc:
        raise Refused("invalid unix uri: missing path" if not url.path else "invalid unix uri: host is forbidden")
    return unquote(url.path)


def _opened(path: str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise Refused(f"open {path}: {error.strerror}") from None
