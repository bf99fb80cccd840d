"""Moves bytes between a descriptor that does not block and what wants them: shared by the port and all sockets."""

from __future__ import annotations

import posix
from errno import EAGAIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Conversation(Protocol):
        """Both ends of a talk as bytes; see `session.Session`."""

        closed: bool

        @property
        def hungry(self) -> bool:
            """Whether more should be read."""

        def receive(self, data: bytes) -> None:
            """Bytes that came."""

        def work(self) -> bool:
            """Do some of what they ask for. True if there is more to do at once."""

        def take(self, room: int) -> bytes:
            """Bytes to send."""


_CHUNK = 1 << 16
_ROUNDS_PER_TURN = 8
_WRITES_PER_ROUND = 8

DONE, MORE, ENDED = "done", "more", "ended"
"""What a pump says: wait for the descriptor; let the others have a turn and come back; the far end hung up."""


class Wire:
    """The descriptor, and what was taken from a conversation but not yet written."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.unsent = b""
        self.mid_line = False  # the last byte that left was not a newline

    def pump(self, talk: Conversation) -> str:
        """Read, let work and write, for a while. Raises OSError for what is wrong with the descriptor."""
        for _ in range(_ROUNDS_PER_TURN):
            busy = talk.work()
            busy = self._write(talk) or busy
            if talk.closed and not self.unsent and not busy:
                return ENDED
            # Also while there is much to write: a flood must not keep us from hearing what else is asked.
            data = self._read() if talk.hungry else None
            if data:
                talk.receive(data)
            elif data is not None:
                talk.closed = True  # nothing more will come, but what was asked for is still answered
            elif not busy:
                return DONE  # room for output, or an answer that was waited for, brings us back
        return MORE

    def _read(self) -> bytes | None:
        """What is there: None if nothing is now, empty at the end. A virtio port gives no more than a page at once."""
        pieces: list[bytes] = []
        room = _CHUNK
        while room:
            try:
                piece = posix.read(self.descriptor, room)
            except OSError as error:
                if error.errno != EAGAIN and not pieces:
                    raise
                break
            if not piece:
                return b"".join(pieces)  # an end that is not told now is found again
            pieces.append(piece)
            room -= len(piece)
        return b"".join(pieces) if pieces else None

    def _write(self, talk: Conversation) -> bool:
        """Write what there is. True if there may be more, and room for it."""
        for _ in range(_WRITES_PER_ROUND):
            if not self.unsent:
                self.unsent = talk.take(_CHUNK)
                if not self.unsent:
                    return False
            try:
                written = posix.write(self.descriptor, self.unsent)
            except OSError as error:
                if error.errno == EAGAIN:
                    return False
                raise
            self.mid_line = self.unsent[written - 1 : written] != b"\n"
            self.unsent = self.unsent[written:]
        return True
