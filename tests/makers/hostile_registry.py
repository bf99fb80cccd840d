"""A registry that lies, stalls and breaks off, one fault at a time: a web server over a good OCI layout.

It speaks the registry's protocol at `host`/`NAME`, takes what is pushed, and offers the same layout as plain files at
`static`. `fault` chooses what is wrong from then on, `at` for which paths. `requests` has what clients asked and with
which credentials; `stranger` is another server, that must never see any.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from makers.hostile_faults import ANSWER_FAULTS, BLOB_FAULTS, DOCUMENT_FAULTS, FAULTS, LIST_FAULTS, PUSH_FAULTS
from makers.hostile_handler import Asked, Handler, Stranger
from stereo.registry.documents import digest_of
from stereo.registry.layout import LayoutRemote
from stereo.registry.reference import Reference
from stereo.registry.strict import canonical

__all__ = [
    "ANSWER_FAULTS",
    "BLOB_FAULTS",
    "DOCUMENT_FAULTS",
    "FAULTS",
    "LIST_FAULTS",
    "PUSH_FAULTS",
    "HostileRegistry",
]


class HostileRegistry:
    """The server. A context manager: it serves inside the block.

    `auth` is what it asks of clients: None, "basic", or "bearer" with a token server of its own.
    """

    def __init__(
        self, layout: Path, name: str = "sample", *, tls: tuple[Path, Path] | None = None, auth: str | None = None
    ) -> None:
        self.layout = LayoutRemote(Reference("layout", path=str(layout)))
        self.folder = layout
        self.name = name
        self.auth = auth
        self.fault: str | None = None
        self.at: Callable[[str], bool] = lambda path: True
        self.times = -1
        self.reset_after = 1000
        self.retry_after = "0"
        self.ranges = True
        self.referrers = True
        self.token = "good-token"
        self.requests: list[Asked] = []
        self.stranger_requests: list[Asked] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._servers = [self._server(Handler, tls), self._server(Stranger, None)]
        self.scheme = "http" if tls is None else "https"
        self.host = f"127.0.0.1:{self._servers[0].server_port}"
        self.stranger = f"127.0.0.1:{self._servers[1].server_port}"
        self.static = f"{self.scheme}://{self.host}/files/{name}"
        """The reference of the same layout as plain files."""
        self.flipped = True

    def _server(self, handler: Any, tls: tuple[Path, Path] | None) -> ThreadingHTTPServer:
        server = _Server(("127.0.0.1", 0), partial(handler, self))
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        return server

    def __enter__(self) -> HostileRegistry:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def wrong(self, fault: str | None, *, at: str = "", times: int = -1) -> None:
        """From now on, `fault` (None: nothing) for paths that contain `at`, `times` times (-1: always)."""
        assert fault is None or fault in FAULTS, fault
        self.at = lambda path: at in path
        self.fault, self.times = fault, times

    def now(self, path: str, *faults: str) -> str | None:
        """The fault of this request, if it is one of these."""
        with self._lock:
            if self.fault not in faults or not self.at(path) or self.times == 0:
                return None
            self.times -= self.times > 0
            return self.fault

    def twisted(self, edit: Callable[[dict[str, Any]], None]) -> dict[str, bytes]:
        """By digest and by tag, documents whose digests fit, with every manifest of a mixtape changed by `edit`."""
        found: dict[str, bytes] = {}
        for tag in self.layout.tags():
            index = json.loads(self.layout.get_manifest(tag)[1])
            for entry in index.get("manifests", ()):
                table = json.loads(self.layout.get_manifest(entry["digest"])[1])
                edit(table)
                document = canonical(table)
                entry["digest"], entry["size"] = digest_of(document), len(document)
                found[entry["digest"]] = document
            document = canonical(index)
            found[tag] = found[digest_of(document)] = document
        return found


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        return  # clients hang up on a liar
