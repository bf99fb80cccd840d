"""What is answered to each request of the protocol. Streams have their own module; all else that a host asks is here.

It is loaded once the machine is ready: until then nobody waits for it.
"""

from __future__ import annotations

from time import monotonic

from stereos_guest import fields, frames, health, mounts, protocol
from stereos_guest.agentlink import AgentLink
from stereos_guest.config import Config
from stereos_guest.execution import Account
from stereos_guest.helpers import Helpers
from stereos_guest.mounts import Mounts
from stereos_guest.network import set_network
from stereos_guest.openers import Context, openers
from stereos_guest.protocol import ProtocolError
from stereos_guest.secrets import Secrets
from stereos_guest.sshkeys import SshKeys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stereos_guest.helpers import Run
    from stereos_guest.protocol import Message
    from stereos_guest.session import Handler, Session
    from stereos_guest.stereosd import Daemon

FEATURES = (
    *("id", "exec", "copy", "connect", "logs", "events", "secrets", "mounts", "agents", "network", "ssh_host_key"),
    frames.RAW,
)
_ACTIONS = ("start", "stop", "restart", "signal")
_AGENTD_COMES_SECONDS = 15.0  # after a configuration; it is started after us


class Requests:
    """The services of the daemon, and `handlers` that answer by them.

    `token` is what a host on TCP must know. `run` and `account` are replaced in tests.
    """

    def __init__(
        self,
        daemon: Daemon,
        *,
        token: str = "",
        run: Run | None = None,
        account: Callable[[str], Account] = Account.of_machine,
    ) -> None:
        self._daemon = daemon
        self._token = token
        self._run = run = run or Helpers(daemon.loop)
        self.secrets = Secrets(daemon.root, self._reload)
        self.config = Config(daemon.root, self._reconfigured)
        self.mounts = Mounts(daemon.root, run, self._reload)
        self.ssh = SshKeys(daemon.root, run, account)
        self.link = AgentLink(daemon.loop, daemon.root, self._agents_changed)
        self._told: list[dict[str, Any]] = []
        # Until when it is no fault that agentd is not there; None: there is nothing for it to do.
        self._agentd_due: float | None = None
        if self.config.there():
            self._expect_agentd()
        self.handlers: dict[str, Handler] = {
            protocol.PING: lambda message, session: protocol.pong(message.id),
            protocol.GET_HEALTH: lambda message, session: protocol.encode(protocol.HEALTH, self.health(), message.id),
            protocol.SET_CONFIG: self._later(self._set_config),
            protocol.INJECT_SECRET: self._at_once(lambda body: self.secrets.put(body)),
            protocol.INJECT_SSH_KEY: self._later(lambda body, done, session: self.ssh.put(body, done)),
            protocol.MOUNT: self._later(
                lambda body, done, session: self.mounts.mount(body, done, give=not session.greeted)
            ),
            protocol.SHUTDOWN: self._shutdown,
            protocol.HELLO: self._hello,
            protocol.LIST_SECRETS: self._tells(protocol.SECRETS, lambda: {"names": self.secrets.names()}),
            protocol.REMOVE_SECRET: self._at_once(lambda body: self.secrets.remove(fields.text(body, "name"))),
            protocol.LIST_MOUNTS: self._tells(protocol.MOUNTS, lambda: {"mounts": self.mounts.listing()}),
            protocol.UNMOUNT: self._later(
                lambda body, done, session: self.mounts.unmount(mounts.checked(fields.word(body, "guest_path")), done)
            ),
            protocol.LIST_AGENTS: self._tells(protocol.AGENTS, lambda: {"agents": self.link.agents}),
            protocol.AGENT: self._later(self._agent),
            protocol.SET_NETWORK: self._later(self._set_network),
            protocol.SSH_HOST_KEY: self._ssh_host_key,
            **openers(Context(daemon.loop, daemon.root)),
        }

    def health(self) -> dict[str, Any]:
        """The payload of `health`, and what the HTTP API answers."""
        agents = health.as_original(self.link.agents)
        return protocol.health(self._daemon.state, int(monotonic() - self._daemon.started), agents, self._daemon.boot)

    def begin_shutdown(self) -> None:
        """Unmount, write out, switch off: after the answer has left. Raises ProtocolError if that is not ours to do."""
        power_off = self._daemon.power_off
        if power_off is None:
            raise ProtocolError("this stereosd is not in charge of a machine")
        if self._daemon.state != protocol.SHUTTING_DOWN:
            self._daemon.set_state(protocol.SHUTTING_DOWN)
            self._daemon.loop.later(0, lambda: self.mounts.unmount_all(power_off))

    # --- what makes a handler ---

    def _at_once(self, do: Callable[[dict[str, Any]], object]) -> Handler:
        def handler(message: Message, session: Session) -> bytes:
            do(message.body())
            return protocol.ack(message.type, id=message.id)

        return handler

    def _later(self, begin: Callable[[dict[str, Any], Callable[[str], None], Session], object]) -> Handler:
        def handler(message: Message, session: Session) -> None:
            begin(
                message.body(),
                lambda error: session.answer(message, protocol.ack(message.type, error, message.id)),
                session,
            )

        return handler

    def _tells(self, kind: str, payload: Callable[[], dict[str, Any]]) -> Handler:
        return lambda message, session: protocol.encode(kind, payload(), message.id)

    # --- the others ---

    def _hello(self, message: Message, session: Session) -> bytes:
        body = message.body()
        if session.locked and not _same(fields.text(body, "token"), self._token):
            raise ProtocolError("this connection needs a token")
        version = fields.number(body, "version", protocol.MAX_ID)
        if version < protocol.VERSION:
            raise ProtocolError(f"version {version} is not spoken here, but {protocol.VERSION}")
        wanted = protocol.field(body, "features", None) or []
        if not isinstance(wanted, list):
            raise ProtocolError("features is not a list")
        features = [feature for feature in FEATURES if feature in wanted]
        session.greet(features, frames.decode if frames.RAW in features else protocol.decode)
        session.push(protocol.LIFECYCLE, self._daemon.lifecycle())
        answer = {"version": protocol.VERSION, "features": list(FEATURES), "software": "stereosd"}
        return protocol.encode(protocol.HELLO, answer, message.id)

    def _shutdown(self, message: Message, session: Session) -> bytes:
        # The payload is optional and, as in the original, not even looked at.
        self.begin_shutdown()
        return protocol.ack(message.type, id=message.id)

    def _ssh_host_key(self, message: Message, session: Session) -> None:
        def done(key: str, error: str) -> None:
            if error:
                session.answer(message, protocol.ack(message.type, error, message.id))
            else:
                session.answer(message, protocol.encode(protocol.SSH_HOST_KEY, {"public_key": key}, message.id))

        self.ssh.host_key(done)

    def _set_config(self, body: dict[str, Any], done: Callable[[str], None], session: Session) -> None:
        """Answered when the agents are told of as the new configuration has them; at once where there is no agentd."""
        self.config.put(body)
        self.link.taken(lambda error: done(""))

    def _set_network(self, body: dict[str, Any], done: Callable[[str], None], session: Session) -> None:
        if command := set_network(self._daemon.root, body):
            self._run(command, lambda error: done(error and f"the gateway did not start: {error}"), "/")
        else:
            done("")

    def _agent(self, body: dict[str, Any], done: Callable[[str], None], session: Session) -> None:
        name, action, signal = (fields.word(body, field, 100) for field in ("name", "action", "signal"))
        if action not in _ACTIONS:
            raise ProtocolError(f"action is none of {', '.join(_ACTIONS)}")
        if not any(agent["name"] == name for agent in self.link.agents):
            raise ProtocolError(f"there is no agent {name}")
        self.link.act({"name": name, "action": action, **({"signal": signal} if signal else {})}, done)

    # --- what changes by itself ---

    def _reload(self) -> None:
        self.link.reload()

    def _reconfigured(self) -> None:
        self._reload()
        self._expect_agentd()

    def _expect_agentd(self) -> None:
        if self._agentd_due is None:
            self._agentd_due = monotonic() + _AGENTD_COMES_SECONDS
            self._daemon.loop.later(_AGENTD_COMES_SECONDS, self._judge)

    def _agents_changed(self) -> None:
        if self.link.connected:
            self._agentd_due = monotonic()  # it was there: from now on it is missed at once
        for entry in health.changes(self._told, self.link.agents):
            line = protocol.encode(protocol.EVENT, {"kind": "agent", "agent": entry})
            self._daemon.hosts.tell_event(f"agent {entry['name']}", line)
        self._told = self.link.agents
        self._judge()

    def _judge(self) -> None:
        if self._daemon.state == protocol.SHUTTING_DOWN:
            return
        due = self._agentd_due
        gone = not self.link.connected and due is not None and monotonic() >= due
        self._daemon.set_state(*health.state_of(self.link.agents, agentd_gone=gone))


def _same(given: str, wanted: str) -> bool:
    """Whether both are equal, in a time that does not tell where they differ."""
    from _operator import _compare_digest  # what `hmac` hands on

    return bool(wanted) and bool(_compare_digest(given.encode(), wanted.encode()))
