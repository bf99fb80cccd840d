"""The HTTP API of the machine's administrator: the routes, codes and objects of the original."""

from __future__ import annotations

from stereos_guest import health, http, jsontext, protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stereos_guest.http import Answer, Reply
    from stereos_guest.requests import Requests

SOCKET = "/run/stereos/stereosd.sock"
_ROUTES = {
    "/v1/ping": ("GET",),
    "/v1/health": ("GET",),
    "/v1/secrets": ("GET", "POST"),
    "/v1/mounts": ("GET", "POST"),
    "/v1/shutdown": ("POST",),
    "/v1/agents": ("GET",),
}
_ONE_SECRET = "/v1/secrets/"


class Api:
    """Answers to requests of HTTP by what `requests` has for those of the protocol."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def respond(self, method: str, path: str, body: bytes) -> Answer:
        """See `http.Respond`."""
        if path.startswith(_ONE_SECRET):
            return self._one_secret(method, path[len(_ONE_SECRET) :])
        if path not in _ROUTES:
            return http.NOT_FOUND
        if method not in _ROUTES[path]:
            return http.NOT_ALLOWED
        try:
            return self._answer(method, path, body)
        except protocol.ProtocolError as error:
            return 422, {"error": str(error)}
        except OSError as error:
            return 500, {"error": str(error.strerror)}

    def _answer(self, method: str, path: str, body: bytes) -> Answer:
        requests = self._requests
        if path == "/v1/ping":
            return 200, {"status": "ok"}
        if path == "/v1/health":
            return 200, requests.health()
        if path == "/v1/agents":
            return 200, {"agents": health.as_original(requests.link.agents)}
        if path == "/v1/shutdown":
            requests.begin_shutdown()
            return 202, {"status": "shutting_down"}
        if method == "GET":
            if path == "/v1/secrets":
                return 200, {"secrets": requests.secrets.names()}
            return 200, {"mounts": requests.mounts.listing()}
        try:
            payload = jsontext.loads(body.decode())
        except ValueError as error:
            return 400, {"error": f"malformed JSON: {error}"}
        if not isinstance(payload, dict):
            return 400, {"error": "malformed JSON: not an object"}
        if path == "/v1/secrets":
            return 201, {"status": "ok", "name": requests.secrets.put(payload)}
        return lambda reply: self._mount(payload, reply)

    def _mount(self, payload: dict[str, Any], reply: Reply) -> None:
        named: tuple[str, str] = ("", "")

        def done(error: str) -> None:
            tag, path = named
            if error:
                reply(422, {"error": error})
            else:
                reply(201, {"status": "ok", "tag": tag, "guest_path": path})

        try:
            named = self._requests.mounts.mount(payload, done, give=True)
        except protocol.ProtocolError as error:
            reply(422, {"error": str(error)})
        except OSError as error:
            reply(422, {"error": str(error.strerror)})

    def _one_secret(self, method: str, name: str) -> Answer:
        if method != "DELETE":
            return http.NOT_ALLOWED
        if not name:
            return 400, {"error": "no name"}
        try:
            self._requests.secrets.remove(name)
        except protocol.ProtocolError as error:
            return 422, {"error": str(error)}
        except OSError as error:
            return 500, {"error": str(error.strerror)}
        return 200, {"status": "ok", "name": name}
