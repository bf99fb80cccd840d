"""A web server on the loopback that offers a folder as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder on the loopback, as plain files."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *words: Any) -> None:  # noqa: A002 - the name that http.server has
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
