"""HTTP as our downloads need it: pooled connections, the host's proxies and certificates, careful redirects.

A body is handed out in chunks and never read further than the caller wants. Every open response can be cut off from
another thread, so that Ctrl-C does not wait for a server that has fallen silent.
"""

from __future__ import annotations

import ssl
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import urllib3
from urllib3.response import BaseHTTPResponse

from stereo.errors import StereoError
from stereo.inputs.sources import redacted

CONNECT_TIMEOUT = 15.0  # seconds
READ_TIMEOUT = 30.0  # seconds without a byte
_REDIRECTS = 6
_SHORT = 1 << 14  # bytes
_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


class HttpError(StereoError):
    """A request that brought nothing. `status` is 0 if there was no answer at all."""

    def __init__(self, what: str, *, status: int = 0, where: str | None = None) -> None:
        super().__init__(what, where=where)
        self.status = status

    @property
    def is_gone(self) -> bool:
        """The server answered, and does not have it (or does not give it): asking again is pointless."""
        return 400 <= self.status < 500 and self.status not in (408, 425, 429)


class Http:
    """A client. Thread-safe. Proxies are those of the environment unless a request names others."""

    def __init__(self, *, connections: int = 8) -> None:
        self._proxies = urllib.request.getproxies()
        self._connections = connections
        self._managers: dict[str, urllib3.PoolManager] = {}
        self._guard = threading.Lock()
        self._open: set[BaseHTTPResponse] = set()
        self._stopped = False

    @contextmanager
    def request(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Iterator[BaseHTTPResponse]:
        """An answer with a status below 400, its body unread. Raises HttpError.

        Redirects are followed to http and https only, and credentials do not follow them to another host. `proxies` by
        scheme stand above the environment's; "DIRECT" means none.
        """
        url, sent = _with_credentials(url, dict(headers or {}))
        for _ in range(_REDIRECTS):
            response = self._once(method, url, sent, proxies or {})
            try:
                target = response.headers.get("Location")
                if response.status >= 300 or method == "HEAD":
                    _drain(response)
                if response.status in (301, 302, 303, 307, 308) and target:
                    url, sent = _redirected(url, target, sent)
                    continue
                if response.status >= 300:
                    raise HttpError(f"answers {response.status}", status=response.status, where=redacted(url))
                yield response
                return
            finally:
                with self._guard:
                    self._open.discard(response)
                response.close()  # does nothing to a connection whose answer was read to its end: that is in the pool
        raise HttpError(f"redirects more than {_REDIRECTS} times", where=redacted(url))

    def text(self, url: str, *, headers: Mapping[str, str] | None = None, limit: int = 64 << 20) -> bytes:
        """A whole body of at most `limit` bytes. Raises HttpError."""
        with self.request(url, headers=headers) as response:
            body = bytearray()
            for chunk in chunks(response):
                body += chunk
                if len(body) > limit:
                    raise HttpError(f"sends more than {limit} bytes", where=redacted(url))
            return bytes(body)

    def __enter__(self) -> Http:
        return self

    def __exit__(self, *_: object) -> None:
        for manager in self._managers.values():
            manager.clear()

    def stop(self) -> None:
        """Cut off every request under way and refuse new ones. Callable from any thread."""
        with self._guard:
            self._stopped = True
            for response in self._open:
                with suppress(Exception):  # it may just be ending by itself
                    response.shutdown()

    def _once(self, method: str, url: str, headers: Mapping[str, str], proxies: Mapping[str, str]) -> BaseHTTPResponse:
        try:
            response = self._manager(url, proxies).request(
                method,
                url,
                headers={"User-Agent": "stereo", "Accept-Encoding": "identity", **headers},
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise HttpError(_reason(error), where=redacted(url)) from error
        with self._guard:
            if self._stopped:
                response.close()
                raise HttpError("interrupted", where=redacted(url))
            self._open.add(response)
        return response

    def _manager(self, url: str, proxies: Mapping[str, str]) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = proxies.get(parts.scheme) or self._proxies.get(parts.scheme) or self._proxies.get("all") or ""
        if proxy.upper() == "DIRECT" or urllib.request.proxy_bypass(parts.hostname or ""):
            proxy = ""
        with self._guard:
            if proxy not in self._managers:
                self._managers[proxy] = self._made(proxy)
            return self._managers[proxy]

    def _made(self, proxy: str) -> urllib3.PoolManager:
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT, read=READ_TIMEOUT)
        context = _tls_context()
        if not proxy:
            return urllib3.PoolManager(maxsize=self._connections, num_pools=16, timeout=timeout, ssl_context=context)
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if parts.scheme not in ("http", "https"):
            raise StereoError(f"a {parts.scheme} proxy is configured", hint="use an http proxy")
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
        return urllib3.ProxyManager(
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}",
            proxy_headers=urllib3.make_headers(proxy_basic_auth=user) if user else None,
            maxsize=self._connections,
            num_pools=16,
            timeout=timeout,
            ssl_context=context,
        )


def chunks(response: BaseHTTPResponse, size: int = 1 << 16) -> Iterator[bytes]:
    """The body in pieces of at most `size` bytes. Raises HttpError if it breaks off."""
    try:
        # read1 gives what has come: a dribbling server cannot hold us until a whole chunk is full.
        while piece := response.read1(size, decode_content=False):
            yield piece
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise HttpError(_reason(error)) from error


def _tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()  # honours SSL_CERT_FILE and SSL_CERT_DIR
    if _CA_BUNDLE.is_file():  # a Python that was not built by Debian looks elsewhere
        with suppress(ssl.SSLError, OSError):
            context.load_verify_locations(_CA_BUNDLE)
    return context


def _with_credentials(url: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise HttpError("is not an http(s) address", where=redacted(url))
    if parts.username is None:
        return url, headers
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return bare, {**urllib3.make_headers(basic_auth=user), **headers}


def _redirected(url: str, target: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    try:
        new = urljoin(url, target)
        old_parts, parts = urlsplit(url), urlsplit(new)
    except ValueError as error:
        raise HttpError("redirects to something that is not http(s)", where=redacted(url)) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise HttpError(f"redirects to something that is not http(s) ({parts.scheme[:20]})", where=redacted(url))
    if (old_parts.scheme, old_parts.netloc) != (parts.scheme, parts.netloc):
        headers = {key: value for key, value in headers.items() if key.lower() not in ("authorization", "cookie")}
    return _with_credentials(new, headers)


def _drain(response: BaseHTTPResponse) -> None:
    """Read the short text that goes with a redirect or an error, so that the connection can be used again."""
    with suppress(urllib3.exceptions.HTTPError, OSError):
        if (getattr(response, "length_remaining", None) or 0) <= _SHORT:
            response.read(_SHORT)


def _reason(error: BaseException) -> str:
    text = str(getattr(error, "reason", None) or error).strip()
    return text[:300] or type(error).__name__
