"""Requests to one registry or web server: its scheme, who we are to it, trying again, and blobs as streams.

Authentication is oras-py's: what a challenge means, and tokens from a token server. Its client proper was read and is
not used: it sends a blob from memory, waits two minutes for what will never work, follows any page anywhere, and logs
what servers say. `Session` holds its authentication to our rules of hosts, sizes and times.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests

from stereo.registry.credentials import Credentials, credentials_for
from stereo.registry.documents import Descriptor
from stereo.registry.errors import Denied, DigestMismatch, Malformed, NotFound, RegistryError, Unreachable
from stereo.registry.hosts import Hosts, api_host
from stereo.registry.parse import is_digest
from stereo.registry.reference import Reference, is_loopback, split_host
from stereo.registry.remote import BlobStream, Limits
from stereo.registry.session import Session, ca_bundle, pieces
from stereo.registry.strict import read_json

Answer = TypeVar("Answer")
MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_CHALLENGE = 4096
_CODE = re.compile(r"[A-Z_]{1,40}")
_LOGIN = "`podman login` or `docker login` keeps them where they are looked for"

# Its messages would come out on our terminal, with what servers say in them.
logging.getLogger("oras.logger").addHandler(logging.NullHandler())
logging.getLogger("oras.logger").propagate = False


@dataclass
class Transport:
    """The way to one host. Thread-safe."""

    reference: Reference
    plain_http: bool
    extra: tuple[str, ...]
    limits: Limits
    session: Session = field(init=False)

    def __post_init__(self) -> None:
        self.session = Session(self.limits)
        self._guard = threading.Lock()
        self._authorization: str | None = None

    @cached_property
    def hosts(self) -> Hosts:
        """The rules, once it is known whether to speak TLS."""
        host, scheme = self.reference.host, self.reference.scheme
        if not scheme:
            scheme = "http" if self.plain_http else "https"
            if is_loopback(host) and not self.plain_http:
                scheme = "https" if _speaks_tls(host, self.limits) else "http"
        if scheme == "http" and not (self.plain_http or is_loopback(host)):
            raise Denied("is to be asked without TLS", where=host, hint="if that is right: --plain-http")
        return Hosts(host, scheme, self.extra)

    @cached_property
    def _credentials(self) -> Credentials | None:
        return credentials_for(self.reference.host, self.reference.repository)

    # Requests

    def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        stream: bool = False,
        accept: tuple[int, ...] = (200,),
    ) -> requests.Response:
        """One answer of the registry's own host, with a status of `accept`. Raises RegistryError for all others."""

        def send(authorization: str | None) -> requests.Response:
            sent = {**(headers or {}), **({"Authorization": authorization} if authorization else {})}
            return self.session.request(method, url, headers=sent, data=body, stream=stream)

        response = send(self._authorization)
        if response.status_code == 401:
            fresh = self._authorized(response)
            response.close()
            if hasattr(body, "rewind"):
                body.rewind()
            response = send(fresh)
        if response.status_code not in accept:
            with response:
                raise self._refusal(response)
        return response

    def patiently(self, attempt: Callable[[], Answer]) -> Answer:
        """What `attempt` returns, tried again while nobody answers."""
        for number in range(1, self.limits.attempts + 1):
            try:
                return attempt()
            except Unreachable as error:
                if number == self.limits.attempts:
                    raise
                time.sleep(min(max(error.after, 0.5 * 2 ** (number - 1)), self.limits.longest_wait))
        raise AssertionError("unreachable")

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> requests.Response:
        """A whole answer, not a blob's."""
        return self.patiently(lambda: self.ask("GET", url, headers=headers))

    @contextmanager
    def blob(self, url: str, blob: Descriptor, offset: int, length: int | None) -> Iterator[BlobStream]:
        """See `Remote.open_blob`."""
        wanted = blob.size - offset if length is None else length
        assert 0 <= offset <= offset + wanted <= blob.size
        if not wanted:
            yield BlobStream(offset, iter(()))
            return
        ranged = wanted != blob.size
        headers = {"Range": f"bytes={offset}-{offset + wanted - 1}"} if ranged else {}
        accept = (200, 206) if ranged else (200,)
        try:
            answer = self.patiently(lambda: self._followed("GET", url, headers, accept))
        except NotFound as error:
            raise NotFound(f"there is no blob {blob.digest}", where=str(self.reference)) from error
        with answer as response:
            start = 0
            if response.status_code == 206:
                start = self._check_range(response, offset, wanted, blob.size)
            else:
                wanted = blob.size
            declared = response.headers.get("Content-Length")
            if declared is not None and declared != str(wanted):
                said = declared if declared.isdigit() and len(declared) < 20 else "impossible many"
                raise DigestMismatch(
                    f"blob {blob.digest} is to have {wanted} bytes, and comes with {said}", where=self._where
                )
            yield BlobStream(start, pieces(response, self.limits, most=wanted, whole=wanted))

    def has_blob(self, url: str, size: int) -> bool:
        """Whether there is a blob of that size."""
        try:
            with self.patiently(lambda: self._followed("HEAD", url, {}, (200,))) as response:
                return str(response.headers.get("Content-Length", size)) == str(size)
        except NotFound:
            return False

    def _followed(
        self, method: str, url: str, headers: Mapping[str, str], accept: tuple[int, ...]
    ) -> requests.Response:
        """The answer about a blob, perhaps of another host that the registry sends us to."""
        response = self.ask(method, url, headers=headers, stream=True, accept=(*accept, *_REDIRECTS))
        for _ in range(MAX_REDIRECTS):
            if response.status_code not in _REDIRECTS:
                break
            with response:
                location = response.headers.get("Location")
                if not location:
                    raise Malformed("redirects to nowhere", where=self._where)
                url = self.hosts.blob_source(url, location)
            response = self.session.request(method, url, headers=headers, stream=True)
        if response.status_code in _REDIRECTS:
            response.close()
            raise Denied(f"redirects more than {MAX_REDIRECTS} times", where=self._where)
        if response.status_code not in accept:
            with response:
                raise self._refusal(response)
        return response

    def _check_range(self, response: requests.Response, offset: int, wanted: int, size: int) -> int:
        said = response.headers.get("Content-Range", "")
        span = f"bytes {offset}-{offset + wanted - 1}/"
        if said not in (f"{span}{size}", f"{span}*"):
            raise Malformed("gives another part of a blob than it was asked for", where=self._where)
        return offset

    # Who we are

    def _authorized(self, response: requests.Response) -> str:
        """What to say to a registry that answered 401; also from now on. Raises `Denied`."""
        import oras.auth  # type: ignore[import-untyped]
        import oras.auth.utils  # type: ignore[import-untyped]

        challenge = response.headers.get("WWW-Authenticate", "")
        if len(challenge) > _MAX_CHALLENGE:
            raise Malformed("asks for a login at endless length", where=self._where)
        if challenge[:6].lower() == "basic ":
            backend = oras.auth.get_auth_backend("basic", self.session, tls_verify=ca_bundle())
            if self._credentials is None:
                raise Denied("wants a user and a password", where=self._where, hint=_LOGIN)
        elif challenge[:7].lower() == "bearer ":
            backend = oras.auth.get_auth_backend("token", self.session, tls_verify=ca_bundle())
            self.hosts.token_server(oras.auth.utils.parse_auth_header(challenge).realm or "")
        else:
            raise Denied("wants a kind of login that we do not know", where=self._where)
        if self._credentials is not None:
            if not self.hosts.keeps_secrets:
                raise Denied("wants a password, and is asked without TLS", where=self._where)
            backend.set_basic_auth(self._credentials.user, self._credentials.secret)
        try:
            with self._guard:
                headers, known = backend.authenticate_request(response, {}, refresh=True)
        except RegistryError:
            raise
        except Exception as error:  # a token that is none; oras-py checks little
            raise Denied(f"its token server gives no token ({type(error).__name__})", where=self._where) from None
        word = headers.get("Authorization")
        if not known or not isinstance(word, str) or not word.isprintable():
            raise Denied("gives no token to us", where=self._where, hint=None if self._credentials else _LOGIN)
        self._authorization = word
        return word

    # What went wrong

    @property
    def _where(self) -> str:
        return api_host(self.reference.host)

    def _refusal(self, response: requests.Response) -> RegistryError:
        """What an answer means that we did not want. Of its text only the code: the rest may repeat our password."""
        status, where = response.status_code, self._where
        code = _error_code(response, self.limits)
        asked = urlsplit(response.url).path.rpartition("/")[2]
        told = f"answers {status}{f' {code}' if code else ''}{f' for {asked}' if is_digest(asked) else ''}"
        match status:
            case 401 | 403:
                return Denied(
                    told, where=where, hint="these credentials may not do that" if self._credentials else _LOGIN
                )
            case 404:
                return NotFound(f"does not have it ({told})", where=where)
            case 429 | 502 | 503 | 504 | 408:
                return Unreachable(told, where=where, after=_seconds(response.headers.get("Retry-After", "")))
            case 400 if code == "DIGEST_INVALID" and _is_document(response.request):
                # We counted it from the very bytes. docker-registry says so when it reads a link that is just written.
                return Unreachable(told, where=where)
            case _ if status in _REDIRECTS:
                return Denied(f"redirects what is never redirected ({told})", where=where)
            case _ if status >= 500:
                return Unreachable(told, where=where)
        return RegistryError(told, where=where)


def _error_code(response: requests.Response, limits: Limits) -> str | None:
    """The code of an error as distribution-spec has it ("DENIED"), if there is one."""
    with suppress(RegistryError, KeyError, IndexError, TypeError):
        if not response._content:  # it was to be streamed
            response._content = b"".join(pieces(response, limits, most=1 << 16))
        code = read_json(response.content, limit=1 << 16, what="answer")["errors"][0]["code"]
        return code if isinstance(code, str) and _CODE.fullmatch(code) else None
    return None


def _is_document(request: requests.PreparedRequest) -> bool:
    """Whether a manifest or index was sent."""
    return request.method == "PUT" and "/manifests/" in (request.url or "")


def _seconds(text: str) -> float:
    """Of Retry-After; its form as a date is for people."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def _speaks_tls(host: str, limits: Limits) -> bool:
    """Whether somebody on this machine does. Nothing is said to him but hello, and nothing of his is believed."""
    name, port = split_host(host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's certificates: they take 15 ms to read
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        plain = socket.create_connection((name, port or 443), timeout=limits.connect)
        with plain, context.wrap_socket(plain, server_hostname=name):
            return True
    except (ssl.SSLError, ConnectionResetError):
        return False
    except OSError:
        raise Unreachable("cannot be reached", where=host) from None
