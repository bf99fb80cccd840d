"""A stereosd in a temporary root, in this process: its services are the real ones, programs of the system are noted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stereos_guest import doors
from stereos_guest.execution import Account
from stereos_guest.requests import Requests
from stereos_guest.session import Session
from stereos_guest.stereosd import Daemon

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDvV3tqbxMbDjKwxPEZkCYtRWrJNTsQuUFcLFMRQbWkY somebody"
MOUNTINFO = "21 1 0:20 / / rw,relatime - overlay overlay rw,lowerdir=/verified\n22 21 0:21 / /proc rw - proc proc rw\n"


def heard(session: Session, sent: bytes = b"") -> list[bytes]:
    """The lines that a session answers with once it has worked through what was `sent`."""
    session.receive(sent)
    said = b""
    while True:
        busy = session.work()
        more = session.take(1 << 16)
        said += more
        if not busy and not more:
            return said.splitlines(keepends=True)


class Machine:
    """A root with what the daemon expects. `says` are the errors that programs end with; None: they go on."""

    def __init__(self, root: Path, *, token: str = "") -> None:
        self.root = root
        for folder in ("run", "etc", "home/agent", "home/admin", "proc/self", "workspace"):
            (root / folder).mkdir(parents=True)
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        self.mountinfo(MOUNTINFO)
        doors.make_folders(str(root))
        self.ran: list[list[str]] = []
        self.says: dict[str, str | None] = {}
        self.going_on: list[Callable[[str], None]] = []
        self.switched_off = 0
        self.daemon = Daemon({}, self._power_off, str(root))
        self.daemon.become_ready()
        self.requests = Requests(self.daemon, token=token, run=self._run, account=self._account)
        self.daemon.handlers.update(self.requests.handlers)

    def mountinfo(self, text: str) -> None:
        (self.root / "proc/self/mountinfo").write_text(text)

    def session(self, **options: bool) -> Session:
        return self.daemon.hosts.open(lambda: None, **options)

    def greeted(self, *features: str) -> Session:
        session = self.session()
        self.ask(session, "hello", {"version": 1, "features": list(features)})
        return session

    def ask(self, session: Session, kind: str, payload: Any = None, id: int = 0) -> list[Any]:  # noqa: A002
        """What is answered to one message."""
        envelope = {"type": kind, **({"id": id} if id else {}), **({} if payload is None else {"payload": payload})}
        return [json.loads(line) for line in heard(session, json.dumps(envelope).encode() + b"\n")]

    def error(self, kind: str, payload: Any) -> str:
        """The error of the one failed ack to a message of a host that is like the original's."""
        [answer] = self.ask(self.session(), kind, payload)
        assert answer["type"] == "ack"
        assert answer["payload"]["reply_to"] == kind
        assert answer["payload"]["ok"] is not bool(answer["payload"].get("error"))
        return str(answer["payload"].get("error", ""))

    def turn(self, times: int = 20) -> None:
        for _ in range(times):
            self.daemon.loop.turn(0.01)

    def close(self) -> None:
        self.daemon.loop.close()

    def _power_off(self) -> None:
        self.switched_off += 1

    def _run(self, argv: Sequence[str], done: Callable[[str], None], folder: str = "/") -> None:
        self.ran.append([*argv, *([str(Path(folder).readlink())] if folder != "/" else [])])
        error = self.says.get(Path(argv[0]).name, "")
        if error is None:
            self.going_on.append(done)
        else:
            done(error)

    def _account(self, name: str) -> Account:
        return Account(name, os.getuid(), os.getgid(), [], f"/home/{name}", "/bin/bash")
