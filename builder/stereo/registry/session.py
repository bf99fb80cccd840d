"""requests, on a short leash: what goes out is timed, what comes back is bounded in bytes and time.
oras-py's authentication runs in it too, so it holds for that as well.

Redirects are never followed here; .netrc is not read, cookies are not kept, bodies are never unpacked. Messages name
hosts only: the rest of an address may be signed, and what a server says may repeat what we sent.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from stereo.errors import UsageError, shown
from stereo.registry.errors import DigestMismatch, Malformed, RegistryError, Unreachable
from stereo.registry.parse import MAX_DOCUMENT
from stereo.registry.reference import is_loopback
from stereo.registry.remote import Limits

_PIECE = 1 << 20
_SLOWEST = 16 << 10
"""Bytes that must come in the time after which silence is a stall; else a drop now and then would keep us for ever."""
_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_REASON = re.compile(r"certificate verify failed: ([A-Za-z0-9 ',.:_-]{1,100})")


class Session(requests.Session):
    """As requests has it, but see above. Raises `RegistryError` and nothing of requests'."""

    def __init__(self, limits: Limits, connections: int = 16) -> None:
        super().__init__()
        self._limits = limits
        self.trust_env = False
        self.verify = ca_bundle()
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.headers.clear()
        self.headers.update({"User-Agent": "stereo", "Accept-Encoding": "identity"})
        adapter = _Adapter(limits, connections)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """The answer. Unless it is to be streamed, its body is here, whole and not too large."""
        stream = options.pop("stream", False)
        url = request.url or ""
        options |= {
            "stream": True,
            "allow_redirects": False,
            "timeout": (self._limits.connect, self._limits.stalled),
            "proxies": {} if is_loopback(_host(url)) else requests.utils.get_environ_proxies(url),
        }
        with explained(url):
            response = super().send(request, **options)
            if (packed := response.headers.get("Content-Encoding", "identity")) != "identity":
                response.close()
                raise Malformed(f"packs a body ({shown(packed, 40)}) that was not to be packed", where=_host(url))
            if not stream:
                body = b"".join(pieces(response, self._limits, most=MAX_DOCUMENT))
                response._content = body  # where requests keeps what it has read
        return response


def pieces(response: requests.Response, limits: Limits, *, most: int, whole: int | None = None) -> Iterator[bytes]:
    """A body as it comes. Raises `DigestMismatch` for more than `most` bytes, `Unreachable` when it stops or stalls.

    `whole` is how many bytes there must be; a body without it must come within `limits.answer` seconds.
    """
    where, got = _host(response.url), 0
    waited = late = 0.0  # seconds in all, and since there were bytes enough; of ours only, not of who reads us
    since = 0
    with response, explained(response.url):
        while True:
            begun = time.monotonic()
            if not (piece := response.raw.read1(_PIECE, decode_content=False)):
                break
            took = time.monotonic() - begun
            waited, late = waited + took, late + took
            got += len(piece)
            since += len(piece)
            if got > most:
                raise DigestMismatch(f"sends more than the {most} bytes that it may", where=where)
            if since >= _SLOWEST:
                since, late = 0, 0.0
            if late > limits.stalled or (whole is None and waited > limits.answer):
                raise Unreachable("sends too slowly", where=where)
            yield piece
    if whole is not None and got < whole:
        raise Unreachable(f"broke off after {got} of {whole} bytes", where=where)


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what requests and urllib3 raise into what we say of it."""
    where = _host(url)
    try:
        yield
    except RegistryError:
        raise
    except requests.exceptions.SSLError as error:
        found = _REASON.search(str(error))
        hint = "a CA of your own: SSL_CERT_FILE" if found else None
        what = f"its certificate is not good: {found[1].strip()}" if found else "TLS fails"
        raise RegistryError(what, where=where, hint=hint) from None
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError):
        raise Unreachable("does not answer", where=where) from None
    except requests.exceptions.ProxyError:
        raise Unreachable("the proxy on the way does not work", where=where) from None
    except (requests.exceptions.ConnectionError, urllib3.exceptions.HTTPError, OSError) as error:
        said = repr(error)
        if "NameResolution" in said:
            raise Unreachable("is no host that can be found", where=where, hint="is its name right?") from None
        raise Unreachable("cannot be reached" if "NewConnection" in said else "broke off", where=where) from None
    except (requests.exceptions.RequestException, ValueError) as error:
        raise Malformed(f"does not speak HTTP as it should ({type(error).__name__})", where=where) from None


def ca_bundle() -> str | bool:
    """The certificates to trust: $REQUESTS_CA_BUNDLE, $SSL_CERT_FILE, the system's, or those that requests brings."""
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        if chosen := os.environ.get(name):
            if not Path(chosen).exists():
                raise UsageError("is not there", where=f"{name}={shown(chosen, 200)}", hint="a file of certificates")
            return chosen
    return str(_BUNDLE) if _BUNDLE.exists() else True


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        return shown(f"{parts.hostname}{f':{parts.port}' if parts.port else ''}", 120)
    except ValueError:
        return "(no address)"


class _Adapter(HTTPAdapter):
    """Connections in large pieces, that do not wait for ever for the head of an answer either."""

    def __init__(self, limits: Limits, connections: int) -> None:
        self._limits = limits
        super().__init__(pool_connections=4, pool_maxsize=connections)

    def init_poolmanager(self, *words: Any, **options: Any) -> None:
        super().init_poolmanager(*words, **options, blocksize=1 << 18)
        self.poolmanager.pool_classes_by_scheme = _pools(self._limits)

    def proxy_manager_for(self, *words: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*words, **options)
        manager.pool_classes_by_scheme = _pools(self._limits)
        return manager


def _pools(limits: Limits) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    class Plain(urllib3.connection.HTTPConnection):
        def getresponse(self) -> Any:
            with _cut_off(self, limits):
                return super().getresponse()

    class Secure(urllib3.connection.HTTPSConnection):
        def getresponse(self) -> Any:
            with _cut_off(self, limits):
                return super().getresponse()

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


@contextmanager
def _cut_off(connection: urllib3.connection.HTTPConnection, limits: Limits) -> Iterator[None]:
    """End a connection whose head of an answer dribbles in: each byte is in time, all of them never are."""
    sock, late = connection.sock, threading.Event()

    def end() -> None:
        late.set()
        with suppress(OSError):
            if sock is not None:
                sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(limits.answer, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if late.is_set():  # http.client takes the end of a connection for the end of a head
            raise TimeoutError
