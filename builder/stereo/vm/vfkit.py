"""The program vfkit, and the REST service of a running one; see its doc/usage.md, "RESTful API"."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Timer
from typing import Any

from stereo import process
from stereo.errors import StereoError

HINT = "install it, for instance with `brew install vfkit`; or use --backend qemu"
ENTITLEMENT = "com.apple.security.virtualization"
"""What a program must be signed for to be let use the framework; an ad hoc signature will do."""

RUNNING = "VirtualMachineStateRunning"
STOP, HARD_STOP = "Stop", "HardStop"
"""Press the power button, and switch off."""

_SECONDS = 5.0
_LONGEST_ANSWER = 1 << 16


def find_vfkit() -> Path:
    """The program. Raises StereoError if there is none on PATH."""
    found = shutil.which("vfkit")
    if not found:
        raise StereoError("no vfkit on PATH", hint=HINT)
    return Path(found).absolute()


def version(vfkit: Path) -> str:
    """What it tells of itself, such as "v0.6.1". Raises StereoError."""
    words = process.run([vfkit, "--version"], timeout=30).stdout.split()
    return words[-1] if words else "unknown"


def is_entitled(vfkit: Path) -> bool:
    """Whether macOS lets it use the framework; see codesign(1). Elsewhere nobody asks."""
    if sys.platform != "darwin":
        return True
    try:
        told = process.run(["codesign", "--display", "--entitlements", "-", "--xml", vfkit.resolve()], timeout=30)
    except StereoError:
        return False
    return ENTITLEMENT in told.stdout


class Rest:
    """The service behind one socket. Each call blocks for a few seconds at most."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def state(self) -> str:
        """A name such as `RUNNING`. Raises StereoError if nobody answers."""
        state = self._ask("GET").get("state")
        return state if isinstance(state, str) else ""

    def change(self, state: str) -> None:
        """Ask for `STOP` or `HARD_STOP`. Raises StereoError if it is refused, or nobody answers."""
        self._ask("POST", {"state": state})

    def _ask(self, method: str, body: Mapping[str, str] | None = None) -> Mapping[str, Any]:
        connection = _Connection(self._path)
        late = Timer(_SECONDS, connection.hang_up)  # a time limit of a socket's is one for each piece
        late.start()
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, "/vm/state", content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data = answer.read(_LONGEST_ANSWER)
            found = json.loads(data) if data else {}
        except (OSError, HTTPException, ValueError, RecursionError) as error:
            raise StereoError(f"vfkit does not answer: {error}") from error
        finally:
            late.cancel()
            connection.close()
        if answer.status >= 300 or not isinstance(found, dict):
            raise StereoError(f"vfkit refused {method} with status {answer.status}")
        return found


class _Connection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def connect(self) -> None:
        self.sock = self._socket
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def hang_up(self) -> None:
        """Have whoever waits for the answer get no more of it."""
        with suppress(OSError):  # it ended meanwhile
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        super().close()
        self._socket.close()
