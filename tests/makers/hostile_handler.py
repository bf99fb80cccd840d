"""How the hostile registry answers: as the protocol wants it, or with the fault of the moment."""

from __future__ import annotations

import json
import re
import socket
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from makers.hostile_faults import ANSWER_FAULTS, BLOB_FAULTS, DOCUMENT_FAULTS, LIST_FAULTS, PUSH_FAULTS
from stereo.registry import media
from stereo.registry.documents import Descriptor, digest_of
from stereo.registry.errors import RegistryError
from stereo.registry.parse import media_type_of
from stereo.registry.strict import canonical

if TYPE_CHECKING:
    from makers.hostile_registry import HostileRegistry

_PIECE = 1 << 16
_LONGEST = 60  # seconds that an endless or stalled answer goes on, if the client stays
_NO_DOCUMENT = ("huge-manifest", "deep-manifest", "twice-manifest", "no-json-manifest")


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    method: str
    path: str
    authorization: str | None
    range: str | None


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, registry: HostileRegistry, *rest: Any) -> None:
        self.registry = registry
        super().__init__(*rest)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        return

    def asked(self) -> Asked:
        """What is asked now."""
        return Asked(self.command, self.path, self.headers.get("Authorization"), self.headers.get("Range"))

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A whole and honest answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Stranger(_Quiet):
    """Another host. It would give anything to anybody."""

    def do_GET(self) -> None:
        self.registry.stranger_requests.append(self.asked())
        self.answer(200, json.dumps({"token": "stolen"}).encode())

    do_HEAD = do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815 - the library's names


class Handler(_Quiet):
    def do_GET(self) -> None:
        registry = self.registry
        with registry._lock:
            registry.requests.append(self.asked())
        parts = urlsplit(self.path)
        if parts.path == "/token":
            self._token()
        elif (fault := registry.now(self.path, *ANSWER_FAULTS)) is not None:
            self._misanswer(fault)
        elif not parts.path.startswith("/files/") and not self._allowed():
            self._challenge(f"{registry.scheme}://{registry.host}/token")
        else:
            self._route(parts.path.removeprefix("/v2/").removeprefix(registry.name).lstrip("/"), parse_qs(parts.query))

    do_HEAD = do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815 - the library's names

    def _route(self, path: str, query: dict[str, list[str]]) -> None:
        registry = self.registry
        known = f"/files/{registry.name}/"
        if self.command in ("POST", "PUT", "PATCH"):
            self._pushed(path, query)
        elif self.path.startswith(known):
            self._file(self.path.removeprefix(known))
        elif path == "tags/list":
            self._list("tags", registry.layout.tags(), query)
        elif path == "_catalog":
            self._list("repositories", [registry.name], query)
        elif path.startswith("manifests/"):
            self._manifest(path.removeprefix("manifests/"))
        elif path.startswith("blobs/"):
            self._blob(path.removeprefix("blobs/"))
        elif path.startswith("referrers/") and registry.referrers:
            found = registry.layout.referrers(path.removeprefix("referrers/"))
            body = {"schemaVersion": 2, "mediaType": media.IMAGE_INDEX, "manifests": [one.as_json() for one in found]}
            self.answer(200, canonical(body), Content_Type=media.IMAGE_INDEX)
        else:
            self.answer(200 if not path else 404)

    # Who may

    def _allowed(self) -> bool:
        said = self.headers.get("Authorization", "")
        if self.registry.auth == "basic":
            return said == "Basic cHVibGlzaGVyOmNvcnJlY3QtaG9yc2UtYmF0dGVyeQ=="  # registries.USER and PASSWORD
        return self.registry.auth is None or said == f"Bearer {self.registry.token}"

    def _challenge(self, realm: str) -> None:
        scope = f"repository:{self.registry.name}:pull,push"
        bearer = f'Bearer realm="{realm}",service="tests",scope="{scope}"'
        self.answer(401, WWW_Authenticate='Basic realm="tests"' if self.registry.auth == "basic" else bearer)

    def _token(self) -> None:
        self.answer(200, json.dumps({"token": self.registry.token}).encode())

    def _misanswer(self, fault: str) -> None:
        match fault:
            case "401-loop":
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._challenge(f"{self.registry.scheme}://{self.registry.host}/token")
            case "401-foreign-realm":
                self._challenge(f"https://{self.registry.stranger}/token")
            case "401-plain-realm":
                self._challenge("http://192.0.2.1/token")
            case "401-two-realms" | "401-long":  # which of them a client takes is for it to know
                good, padding = f"{self.registry.scheme}://{self.registry.host}/token", "x" * 5000
                middle = f'",x="{padding}' if fault == "401-long" else ""
                self._challenge(f'{good}{middle}",realm="https://{self.registry.stranger}/token')
            case "429" | "503":
                self.answer(int(fault), Retry_After=self.registry.retry_after)
            case "403" | "500":
                self.answer(int(fault), b'{"errors":[{"code":"DENIED","message":"\\u001b[31mno"}]}')
            case "hang":
                self.registry.closing.wait(_LONGEST)
            case "no-http":
                self.wfile.write(b"SSH-2.0-OpenSSH_9.9\r\n")
            case "endless-headers":
                self._forever(b"X-Padding: " + b"x" * 1000 + b"\r\n", start=b"HTTP/1.1 200 OK\r\n")
            case "dribbling-head":
                self._forever(b"x", start=b"HTTP/1.1 200 OK\r\nX-Padding: ", pause=0.05)
            case "trickle":
                start = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
                self._forever(b" ", start=start, pause=0.05)
        self.close_connection = fault not in ("401-loop", "429", "503")

    def _forever(self, piece: bytes, *, start: bytes = b"", pause: float = 0) -> None:
        self.close_connection = True
        until = time.monotonic() + _LONGEST
        self.wfile.write(start)
        while time.monotonic() < until and not self.registry.closing.wait(pause):
            self.wfile.write(piece)
            self.wfile.flush()

    # Reading

    def _list(self, key: str, values: list[str], query: dict[str, list[str]]) -> None:
        fault = self.registry.now(self.path, *LIST_FAULTS)
        path = urlsplit(self.path).path
        if fault == "link-huge":
            values = [f"v{number}" for number in range(200_000)]
        elif fault == "tags-terminal":
            values = [*values, "\x1b[2Jgone", "../../etc"]
        headers = {}
        if fault == "link-strange":
            headers["Link"] = f'<http://{self.registry.stranger}{path}>; rel="next"'
        elif fault == "link-endless":
            headers["Link"] = f'<{path}?last={time.monotonic_ns()}>; rel="next"'
        else:
            most, last = min(2, int(query.get("n", ["2"])[0])), query.get("last", [""])[0]
            rest = [value for value in values if value > last or fault]
            values = rest if fault else rest[:most]
            if len(values) < len(rest):
                headers["Link"] = f'<{path}?n={most}&last={values[-1]}>; rel="next"'
        self.answer(200, json.dumps({"name": self.registry.name, key: values}).encode(), **headers)

    def _manifest(self, version: str) -> None:
        fault = self.registry.now(self.path, *DOCUMENT_FAULTS)
        try:
            document = self._document(version, fault)
        except RegistryError:
            return self.answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
        kind = media_type_of(document, version) if fault not in _NO_DOCUMENT else media.IMAGE_INDEX
        digest = digest_of(b"other" if fault == "digest-header-lies" else document)
        head = {"Content_Type": kind, "Docker_Content_Digest": digest}
        match fault:
            case "endless-manifest":
                return self._forever(b" " * 1000, start=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{")
            case "slow-manifest":
                self.answer(200, document[:10], Content_Length=str(len(document)), **head)
                self.registry.closing.wait(_LONGEST)
            case "short-manifest":
                self.answer(200, document[:10], Content_Length=str(len(document)), **head)
            case "redirect-manifest":
                return self.answer(307, Location=f"http://{self.registry.stranger}{self.path}")
            case _:
                return self.answer(200, document, **head)
        self.close_connection = True
        return None

    def _document(self, version: str, fault: str | None) -> bytes:
        layout = self.registry.layout
        match fault:
            case "huge-manifest":
                return b"{" + b" " * (5 << 20) + b"}"
            case "deep-manifest":
                return b"[" * 100_000 + b"]" * 100_000
            case "twice-manifest":
                return layout.get_manifest(version)[1].replace(b"{", b'{"schemaVersion":1,', 1)
            case "no-json-manifest":
                return b"<html>Log in to the hotel's network</html>"
            case "wrong-digest" | "tag-flips" if fault == "wrong-digest" or version in layout.tags():
                self.registry.flipped = not self.registry.flipped
                if fault == "tag-flips" and not self.registry.flipped:
                    return layout.get_manifest(version)[1]
                documents = [layout.get_manifest(tag)[1] for tag in layout.tags()]
                other = [document for document in documents if document != layout.get_manifest(version)[1]]
                return other[0] if other else layout.get_manifest(version)[1] + b"\n"
            case "climbing-titles" | "seven-disks":
                twisted = self.registry.twisted(_climb if fault == "climbing-titles" else _crowd)
                return twisted[version] if version in twisted else layout.get_manifest(version)[1]
        return layout.get_manifest(version)[1]

    def _file(self, path: str) -> None:
        if found := re.fullmatch("blobs/sha256/([0-9a-f]{64})", path):
            return self._blob(f"sha256:{found[1]}")
        if path not in ("oci-layout", "index.json"):
            return self.answer(404)
        return self.answer(200, (self.registry.folder / path).read_bytes())

    def _blob(self, digest: str) -> None:
        registry = self.registry
        path = registry.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")
        fault = registry.now(self.path, *BLOB_FAULTS)
        if not path.is_file() or fault == "missing-blob":
            return self.answer(404, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}')
        data, status, headers = path.read_bytes(), 200, {}
        if (asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))) and registry.ranges:
            start, end = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
            if fault != "range-ignored":
                shown = start + 1 if fault == "range-lying" else start
                status, headers["Content_Range"] = 206, f"bytes {shown}-{end}/{len(data)}"
                data = data[start : end + 1]
        return self._misblob(fault, data, status, headers)

    def _misblob(self, fault: str | None, data: bytes, status: int, headers: dict[str, str]) -> None:
        registry = self.registry
        length = {"Content_Length": str(len(data)), **headers}
        match fault:
            case "wrong-bytes":
                return self.answer(status, bytes(len(data)), **headers)
            case "flipped-bit":
                middle = len(data) // 2
                return self.answer(status, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], **headers)
            case "short-length":
                return self.answer(status, data[:-1], **headers)
            case "long-length":
                return self.answer(status, data + b"x", **headers)
            case "packed-body":
                return self.answer(status, data, Content_Encoding="gzip", **headers)
            case "endless-body":
                return self._forever(b"x" * _PIECE, start=f"HTTP/1.1 {status} OK\r\n\r\n".encode() + data)
            case "redirect-strange":
                return self.answer(307, Location=f"https://{registry.stranger}/blob")
            case "redirect-loop":
                return self.answer(307, Location=self.path)
            case "redirect-http":
                return self.answer(307, Location="http://192.0.2.1/blob")
            case "redirect-file":
                return self.answer(307, Location="file:///etc/passwd")
            case "redirect-nowhere":
                return self.answer(307)
            case "short-body" | "slow-body" | "reset":
                self.answer(status, data[: registry.reset_after if fault == "reset" else len(data) // 2], **length)
                self.wfile.flush()
                self.close_connection = True
                if fault == "slow-body":
                    registry.closing.wait(_LONGEST)
                return None
        return self.answer(status, data, **headers)

    # Writing

    def _pushed(self, path: str, query: dict[str, list[str]]) -> None:
        registry, layout = self.registry, self.registry.layout
        begins = self.command == "POST"
        fault = registry.now(self.path, *(one for one in PUSH_FAULTS if begins == (one == "upload-strange")))
        place = f"/v2/{registry.name}/blobs/uploads/one"
        if begins:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            other = f"http://{registry.stranger}{place}"
            return self.answer(202, Location=other if fault == "upload-strange" else place)
        if fault == "upload-reset":
            self.rfile.read(min(int(self.headers["Content-Length"]), registry.reset_after))
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return None
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if fault == "upload-500":
            return self.answer(500)
        if path.startswith("manifests/"):
            version = path.removeprefix("manifests/")
            if fault == "manifest-doubted":
                return self.answer(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
            if fault != "manifest-lost":
                layout.put_manifest(body, self.headers["Content-Type"], None if ":" in version else version)
            return self.answer(201, Docker_Content_Digest=digest_of(body))
        digest = query["digest"][0]
        if digest_of(body) != digest:
            return self.answer(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
        if fault != "upload-lost":
            layout.put_blob(Descriptor(media.OCTETS, digest, len(body)), body)
        if fault == "upload-flipped":
            stored = registry.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")
            stored.write_bytes(bytes([body[0] ^ 1]) + body[1:])
        return self.answer(201, Docker_Content_Digest=digest)


def _climb(table: dict[str, Any]) -> None:
    table["layers"][0]["annotations"][media.TITLE] = "../../../outside"


def _crowd(table: dict[str, Any]) -> None:
    table["layers"] += [table["layers"][0]] * 6
