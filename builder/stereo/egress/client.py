"""What a supervisor has of its gate: start it, replace its rules, see it die."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import stereo
from stereo import process
from stereo.egress.log import read_log
from stereo.errors import StereoError
from stereo.model.egress import Rules

__all__ = ["Gate", "GateError", "read_log"]

_ANSWER_SECONDS: Final = 30.0
_END_SECONDS: Final = 3.0


class GateError(StereoError):
    """The gate does not run, or does not answer. Nothing leaves the sandbox then."""


class Gate:
    """A running gate. Made by `start`."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child
        self._turn = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        sockets: Mapping[tuple[str, int], socket.socket],
        rules: Rules,
        log: Path,
        *,
        user: int | None = None,
    ) -> AsyncIterator[Gate]:
        """Run a gate on listening sockets ("tcp" or "udp", and the port that the guest knows) while the block runs.

        It gets its own descriptors of them. It runs as `user` if given, which takes root; complaints go to our stderr.
        Raises GateError.
        """
        async with AsyncExitStack() as stack:
            # Copies, or two keys with one descriptor would be closed twice.
            listening = {key: stack.enter_context(each.dup()) for key, each in sockets.items()}
            words = [f"--listen={key[0]}:{key[1]}:{each.fileno()}" for key, each in listening.items()]
            identity = [] if user is None else [f"--user={user}"]
            packages = str(Path(next(iter(stereo.__path__))).parent)
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-s", "-m", "stereo.egress", str(log), *identity, *words),
                env=process.closed_environment({"PYTHONPATH": packages}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[each.fileno() for each in listening.values()],
                start_new_session=True,
                preexec_fn=process.die_with_parent,
            )
        gate = cls(child)
        try:
            await gate.apply(rules)
            yield gate
        finally:
            await gate._end()

    @property
    def pid(self) -> int:
        """The process."""
        return self._child.pid

    async def apply(self, rules: Rules) -> int:
        """Put new rules in force, and close what they do not allow: how many connections. Raises GateError."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        async with self._turn:
            try:
                self._child.stdin.write(json.dumps({"rules": rules.texts}).encode() + b"\n")
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await self._child.stdin.drain()
                    line = await self._child.stdout.readline()
                return int(json.loads(line)["closed"])
            except TimeoutError as error:
                raise GateError(f"the egress gate has not answered for {_ANSWER_SECONDS:.0f} s") from error
            except (OSError, ValueError, KeyError) as error:
                raise GateError("the egress gate is gone", hint="its last words are in the supervisor's log") from error

    async def wait(self) -> int:
        """Until it has ended: its exit status, negative for a signal. It does not end while all is well."""
        return await self._child.wait()

    async def _end(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._child.wait(), _END_SECONDS)
        process.signal_group(self._child.pid, signal.SIGKILL)
        await self._child.wait()
