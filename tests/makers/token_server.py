"""A token server for docker-registry: who gives the user and password, gets what was asked for, signed by our key."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ISSUER, SERVICE = "stereo tests", "tests"


class TokenServer:
    """A running one. `host` is HOST:PORT, `asked` what it was asked for."""

    def __init__(self, host: str, certificate: Path, key: Path, login: tuple[str, str]) -> None:
        self.host = host
        self.certificate = certificate
        self.asked: list[str] = []
        self.authorization = f"Basic {base64.b64encode(':'.join(login).encode()).decode()}"
        secret = serialization.load_pem_private_key(key.read_bytes(), None)
        assert isinstance(secret, ec.EllipticCurvePrivateKey)
        self._secret = secret
        der = x509.load_pem_x509_certificate(certificate.read_bytes()).public_bytes(serialization.Encoding.DER)
        self._head = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}

    def configuration(self) -> dict[str, Any]:
        """What docker-registry wants to know of it."""
        words = {"realm": f"http://{self.host}/token", "service": SERVICE, "issuer": ISSUER}
        return {"token": {**words, "rootcertbundle": str(self.certificate)}}

    def token(self, scopes: list[str]) -> str:
        """A JSON web token for scopes such as repository:NAME:pull,push."""
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        claims = {"iss": ISSUER, "sub": "", "aud": SERVICE, "exp": now + 300, "nbf": now - 60, "iat": now, "jti": "1"}
        parts = [_packed(json.dumps(part).encode()) for part in (self._head, {**claims, "access": access})]
        r, s = decode_dss_signature(self._secret.sign(".".join(parts).encode(), ec.ECDSA(hashes.SHA256())))
        return ".".join([*parts, _packed(r.to_bytes(32, "big") + s.to_bytes(32, "big"))])


@contextmanager
def token_server(certificate: tuple[Path, Path], login: tuple[str, str]) -> Iterator[TokenServer]:
    """One for users that know `login`; its tokens are signed by the key of `certificate`."""
    found: list[TokenServer] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, found))
    found.append(TokenServer(f"127.0.0.1:{server.server_port}", *certificate, login))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield found[0]
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, found: list[TokenServer], *rest: Any) -> None:
        self._server = found[0]
        super().__init__(*rest)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        return

    def do_GET(self) -> None:
        scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
        self._server.asked += scopes
        known = self.headers.get("Authorization") == self._server.authorization
        body = json.dumps({"token": self._server.token(scopes)} if known else {}).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
