"""Every conversation that is going on, and what all hosts are told without having asked."""

from __future__ import annotations

from stereos_guest import protocol
from stereos_guest.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stereos_guest.loop import Loop
    from stereos_guest.session import Handler


class Hosts:
    """Opens sessions, and keeps those that are open.

    A client of the original takes the next line for the answer to what it asked. So only a host that has said `hello`
    is told something unasked, and whoever comes over the virtio port, which the original does not know.
    """

    def __init__(self, loop: Loop, handlers: Mapping[str, Handler]) -> None:
        self._loop = loop
        self._handlers = handlers
        self._sessions: dict[Session, bool] = {}

    def open(
        self, wake: Callable[[], None], *, survives_overlong: bool = False, locked: bool = False, unasked: bool = False
    ) -> Session:
        """A new conversation; `unasked`: it hears of the lifecycle without a `hello`. The rest: see `Session`."""
        session = Session(self._handlers, self._loop, survives_overlong=survives_overlong, locked=locked)
        session.wake = wake
        session.on_end = lambda: self._forget(session)
        self._sessions[session] = unasked
        return session

    def wake(self) -> None:
        """Let everybody go on, now that there are handlers."""
        for session in self._sessions:
            session.wake()

    def _forget(self, session: Session) -> None:
        self._sessions.pop(session, None)

    def tell_lifecycle(self, line: bytes) -> None:
        """Push a `lifecycle` to all who want to hear it."""
        for session, unasked in tuple(self._sessions.items()):
            if unasked or session.greeted:
                session.push(protocol.LIFECYCLE, line)

    def tell_event(self, subject: str, line: bytes) -> None:
        """Push an `event` about `subject` to all who have said hello."""
        for session in tuple(self._sessions):
            if session.greeted:
                session.push(subject, line)
