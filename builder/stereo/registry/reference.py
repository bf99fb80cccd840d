"""References: the texts by which people and scripts name published mixtapes.

| text | what it names |
|---|---|
| `HOST[:PORT]/REPO[:TAG][@sha256:HEX]` | a repository of an OCI registry |
| `oci:PATH[:TAG][@..]`, or a path that begins with `/`, `./`, `../` or `~` | an OCI layout in a folder |
| `https://HOST/PATH[:TAG][@..]` | an OCI layout that a web server offers as plain files |
| `NAME[:TAG][@..]` | `NAME` in the root $STEREO_REGISTRY, or else in a folder of the user |

A *root* is one of the first three without tag and last name: a registry or a part of it, a folder of layouts.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from stereo.errors import UsageError, shown
from stereo.paths import user_data

MAX_LENGTH = 1024
_DIGEST = r"sha256:[0-9a-f]{64}"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"  # distribution-spec, Pulling manifests
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
TAG = re.compile(_TAG)
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_NAME = re.compile(_COMPONENT)
_SUFFIX = re.compile(rf"(?P<rest>.*?)(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?", re.DOTALL)
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?")
_SEGMENT = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~+-]*")
FOLDERS = ("oci:", "/", "./", "../", "~")
"""What begins so is a layout in a folder."""
WEB = ("http://", "https://")
"""What begins so is a static server."""

_FORMS = "HOST/REPO:TAG, oci:PATH:TAG, https://HOST/PATH:TAG, or NAME:TAG"

Kind = Literal["registry", "layout", "static"]


@dataclass(frozen=True)
class Reference:
    """Where something is, and perhaps which version.

    `host` may hold a port; `repository` is what a registry has there, `path` a folder (layout) or what stands below the
    host (static); `scheme` is "http" or "https" for static ones.
    """

    kind: Kind
    host: str = ""
    repository: str = ""
    path: str = ""
    tag: str | None = None
    digest: str | None = None
    scheme: str = ""

    def __str__(self) -> str:
        return f"{self.name}{f':{self.tag}' if self.tag else ''}{f'@{self.digest}' if self.digest else ''}"

    @property
    def name(self) -> str:
        """The reference without tag and digest."""
        match self.kind:
            case "layout":
                return f"oci:{self.path}"
            case "static":
                return f"{self.scheme}://{self.host}/{self.path}"
            case "registry":
                return f"{self.host}/{self.repository}" if self.repository else self.host

    @property
    def version(self) -> str | None:
        """What to ask the remote for: the digest if there is one, else the tag."""
        return self.digest or self.tag

    @property
    def hostname(self) -> str:
        """The host without its port."""
        return split_host(self.host)[0]

    def with_tag(self, tag: str | None) -> Reference:
        """The same place, another version. Raises UsageError."""
        if tag is not None and TAG.fullmatch(tag) is None:
            raise UsageError(f"{shown(tag, 80)!r} is no tag", hint="letters, digits, '.', '_' and '-', at most 128")
        return replace(self, tag=tag, digest=None)

    def child(self, name: str) -> Reference:
        """What stands under `name` in this root. Raises UsageError if that is no name."""
        form = _REPOSITORY if self.kind == "registry" else _NAME  # registries may have more than one level
        if form.fullmatch(name) is None:
            raise UsageError(f"{shown(name, 80)!r} is no name of a mixtape in a registry")
        if self.kind == "registry":
            return replace(self, repository=f"{self.repository}/{name}".lstrip("/"), tag=None, digest=None)
        return replace(self, path=f"{self.path.rstrip('/')}/{name}".removeprefix("/" * (self.kind == "static")))


def parse_reference(text: str) -> Reference:
    """Read a reference. Raises UsageError."""
    return _parse(text, is_root=False)


def parse_root(text: str | None) -> Reference:
    """Read the reference of a root: a host, a folder, $STEREO_REGISTRY if None. Raises UsageError."""
    return _parse(text, is_root=True) if text is not None else default_root()


def default_root() -> Reference:
    """Where bare names lead: $STEREO_REGISTRY, or else a folder of the user. Raises UsageError."""
    chosen = os.environ.get("STEREO_REGISTRY")
    if not chosen:
        return Reference("layout", path=str(user_data() / "registry"))
    try:
        return _parse(chosen, is_root=True)
    except UsageError as error:
        raise UsageError(error.what, where="STEREO_REGISTRY", hint=error.hint) from error


def is_loopback(host: str) -> bool:
    """Whether `host` (perhaps with a port) is this machine by its very text; no name is looked up."""
    name = split_host(host)[0]
    if name.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def split_host(host: str) -> tuple[str, int | None]:
    """Host and port of HOST[:PORT], an IPv6 address without its brackets."""
    name, colon, port = host.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or name.endswith(":"):
        name, port = host, ""
    return name.strip("[]"), int(port) if port else None


def _parse(text: str, *, is_root: bool) -> Reference:
    if len(text) > MAX_LENGTH or not text.isprintable() or not text or text != text.strip():
        raise _refusal(text, "it is empty, too long, or has characters that no reference has")
    place = text.removeprefix("oci:")
    parts = None if is_root else _SUFFIX.fullmatch(place)
    rest, tag, digest = parts.group("rest", "tag", "digest") if parts else (place, None, None)
    if "@" in rest and not text.startswith(FOLDERS):
        raise _refusal(text, "what follows '@' is no sha256 digest")
    if text.startswith(WEB):
        if "/" not in rest.partition("://")[2]:  # what looked like a tag is a port
            rest, tag = text.removesuffix(f"@{digest}"), None
        found = _static(text, rest)
    elif text.startswith(FOLDERS) or text in (".", ".."):
        found = _layout(text, rest)
    elif "/" in rest or is_root:
        found = _registry(text, rest, is_root=is_root)
    elif is_loopback(rest) and (tag or "").isdigit():  # a port, and no tag
        raise _refusal(text, "it names a registry, and nothing that is in there")
    elif _NAME.fullmatch(rest):
        found = default_root().child(rest)
    else:
        raise _refusal(text, "its name is no name of a mixtape")
    return replace(found, tag=tag, digest=digest)


def _registry(text: str, rest: str, *, is_root: bool) -> Reference:
    host, _, repository = rest.partition("/")
    _check_host(text, host)
    name, port = split_host(host)
    if not is_root and "." not in name and ":" not in name and port is None and not is_loopback(host):
        raise _refusal(text, f"{shown(host, 80)!r} is no host, so it is not clear which registry is meant")
    if not (is_root and not repository) and (len(repository) > 255 or _REPOSITORY.fullmatch(repository) is None):
        raise _refusal(text, "its repository is not made of lower-case names with '/' between them")
    return Reference("registry", host=host.lower(), repository=repository)


def _layout(text: str, rest: str) -> Reference:
    if not rest:
        raise _refusal(text, "it names no folder")
    try:
        expanded = Path(rest).expanduser()
    except RuntimeError as error:
        raise _refusal(text, "there is no such user's home") from error
    return Reference("layout", path=os.path.abspath(expanded))  # noqa: PTH100 - links stay, '..' goes


def _static(text: str, rest: str) -> Reference:
    scheme, _, place = rest.partition("://")
    host, _, path = place.partition("/")
    _check_host(text, host)
    segments = [segment for segment in path.split("/") if segment]
    if not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise _refusal(text, "its path has characters that we do not take")
    return Reference("static", host=host.lower(), path="/".join(map(quote, segments)), scheme=scheme)


def _check_host(text: str, host: str) -> None:
    port = split_host(host)[1]
    if len(host) > 262 or _HOST.fullmatch(host) is None or (port is not None and not 0 < port < 1 << 16):
        raise _refusal(text, "it has no plausible host")
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(split_host(host)[0])
        except ValueError as error:
            raise _refusal(text, "it has no plausible host") from error


def _refusal(text: str, why: str) -> UsageError:
    said = re.sub(r"//[^/]*@", "//…@", text)  # somebody's password, perhaps
    return UsageError(f"{shown(said, 120)!r} is no reference: {why}", hint=_FORMS)
