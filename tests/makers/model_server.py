"""An OpenAI-compatible server on loopback whose model follows a script: tool calls, one after another, then a word.

It streams as the real ones do (server-sent events, see the chat completions API), and keeps what it was asked.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Model:
    """The script, and what came in. `calls` are pairs of a tool's name and its arguments."""

    calls: Sequence[tuple[str, dict[str, Any]]]
    farewell: str = "The test passes now."
    port: int = 0
    keys: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    """What the tools told of the calls, as the last request carried it."""

    def answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The delta and the reason to finish for one request."""
        if not request.get("tools"):
            return {"role": "assistant", "content": "A title"}, "stop"
        messages = request.get("messages", [])
        results = [_text(message.get("content")) for message in messages if message.get("role") == "tool"]
        self.results = results
        if len(results) >= len(self.calls):
            return {"role": "assistant", "content": self.farewell}, "stop"
        name, arguments = self.calls[len(results)]
        call = {"name": name, "arguments": json.dumps(arguments)}
        calls = [{"index": 0, "id": f"call_{len(results)}", "type": "function", "function": call}]
        return {"role": "assistant", "tool_calls": calls}, "tool_calls"


def _text(content: object) -> str:
    return content if isinstance(content, str) else json.dumps(content)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: Model

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.model.keys.append(self.headers.get("Authorization", ""))
        delta, reason = self.model.answer(request)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        for event in (
            {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": usage},
        ):
            self._chunk({"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", **event})
        self._send(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, event: dict[str, Any]) -> None:
        self._send(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _send(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


@contextmanager
def serving(model: Model) -> Iterator[Model]:
    """Serve `model` on a free port of 127.0.0.1 for the length of a `with` block."""
    handler = type("Handler", (_Handler,), {"model": model})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    model.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def opencode_configuration(base_url: str) -> str:
    """An opencode.json for a project whose only model is behind `base_url`; the key comes from the environment."""
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": base_url, "apiKey": "{env:OPENAI_API_KEY}"},
        "models": {"m": {}},
    }
    return json.dumps(
        {
            "autoupdate": False,
            "share": "disabled",
            "model": "local/m",
            "small_model": "local/m",
            "enabled_providers": ["local"],
            "provider": {"local": provider},
        },
        indent=2,
    )
