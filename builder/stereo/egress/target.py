"""Where a request wants to go: the one reading of it that the decision, the connection and the next server share.

RFC 9112, section 3.2: a proxy gets the absolute form (`GET http://host/path`) or, for CONNECT, the authority form
(`CONNECT host:port`). What could be read in two ways is refused: user information, a Host that says something else,
two framings of one body. Hop-by-hop fields end here (RFC 9110, section 7.6.1), so nothing can be upgraded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import h11

from stereo.model.egress import as_address, normal_name

_AUTHORITY: Final = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_HTTP_PORT: Final = 80
_HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"proxy-connection"}
    | {b"proxy-authorization", b"proxy-authenticate", b"proxy-authentication-info"}
)
_Message = h11.Request | h11.Response | h11.InformationalResponse
_VIA: Final = (b"Via", b"1.1 stereo")


class BadRequest(Exception):  # noqa: N818 - reads as what happened
    """A request that no proxy should pass on. The text is a sentence for whoever sent it."""


@dataclass(frozen=True)
class Target:
    """`path` is what the next server is asked for; None for a tunnel."""

    host: str
    port: int
    path: bytes | None


def target_of(request: h11.Request) -> Target:
    """Raises BadRequest."""
    names = [name for name, _ in request.headers]
    if b"transfer-encoding" in names and (b"content-length" in names or request.http_version < b"1.1"):
        raise BadRequest("The request says in two ways how long it is.")
    if request.method == b"CONNECT":
        host, port = _authority(request.target)
        if port is None:
            raise BadRequest("CONNECT needs HOST:PORT.")
        if {b"transfer-encoding", b"content-length"} & {*names}:
            raise BadRequest("CONNECT has no body.")
        target = Target(host, port, None)
    else:
        scheme, mark, rest = request.target.partition(b"://")
        if not mark or not scheme.isalpha():
            raise BadRequest("This is a proxy: it takes CONNECT host:port, and requests for http://host/path.")
        if scheme.lower() != b"http":
            raise BadRequest("The proxy asks for http:// alone; https:// goes through CONNECT.")
        split = re.match(rb"[^/?#]*", rest)
        assert split is not None
        path = rest[split.end() :]
        if b"#" in path:
            raise BadRequest("The address has a fragment.")
        host, port = _authority(split[0])
        target = Target(host, port or _HTTP_PORT, path if path.startswith(b"/") else b"/" + path)
    _check_host(request, target)
    return target


def host_of(target: bytes) -> str:
    """What the log may keep of a target that is refused unread: not its path, and no user information."""
    host = re.split(rb"[/?#]", target.partition(b"://")[2] or target, maxsplit=1)[0]
    return host.rpartition(b"@")[2].decode("ascii", "replace")


def _authority(text: bytes) -> tuple[str, int | None]:
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        raise BadRequest("The address has to be HOST or HOST:PORT, without a user.")
    port = None if found[2] is None else int(found[2])
    if port is not None and not 1 <= port <= 65535:
        raise BadRequest("Ports are from 1 to 65535.")
    return found[1].decode("ascii"), port


def _check_host(request: h11.Request, target: Target) -> None:
    """A Host field must say what the address says; without a port it says nothing of it, as clients leave it out."""
    for name, value in request.headers:
        if name == b"host":
            host, port = _authority(value)
            if _known(host) != _known(target.host) or (port is not None and port != target.port):
                raise BadRequest("The Host field names another host than the address.")


def _known(host: str) -> str:
    address = as_address(host)
    return str(address) if address is not None else normal_name(host) or host.lower()


def onward(request: h11.Request, target: Target) -> h11.Request:
    """The request as the next server gets it: one connection for it alone, its Host taken from the address."""
    assert target.path is not None
    authority = target.host if target.port == _HTTP_PORT else f"{target.host}:{target.port}"
    headers = [(b"Host", authority.encode("ascii")), *_end_to_end(request, b"host"), *_framing(request), _VIA]
    return h11.Request(method=request.method, target=target.path, headers=[*headers, (b"Connection", b"close")])


def back(
    response: h11.Response | h11.InformationalResponse, kind: type[h11.Response | h11.InformationalResponse]
) -> h11.Response | h11.InformationalResponse:
    """The response as the guest gets it; h11 adds what frames its body on that connection."""
    headers = [*_end_to_end(response), *_length(response), _VIA]
    return kind(status_code=response.status_code, headers=headers, reason=response.reason)


def _end_to_end(message: _Message, *dropped: bytes) -> list[tuple[bytes, bytes]]:
    """The fields that are meant for the other end; those that say how long the body is are dealt with apart."""
    connection = (value for name, value in message.headers if name == b"connection")
    named = {word.strip().lower() for value in connection for word in value.split(b",")}
    gone = {*_HOP_BY_HOP, *named, *dropped, b"content-length"}
    return [(name, value) for name, value in message.headers.raw_items() if name.lower() not in gone]


def _framing(message: h11.Request) -> list[tuple[bytes, bytes]]:
    if any(name == b"transfer-encoding" for name, _ in message.headers):
        return [(b"Transfer-Encoding", b"chunked")]
    return _length(message)


def _length(message: _Message) -> list[tuple[bytes, bytes]]:
    """How long the body is, where that was said; h11 has made one of several that agree."""
    if any(name == b"transfer-encoding" for name, _ in message.headers):
        return []
    return [(b"Content-Length", value) for name, value in message.headers if name == b"content-length"]
