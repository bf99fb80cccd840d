"""The life of one sandbox, in a process of its own: from the job that `up` hands over to the end of the machine.

Whatever ends it comes as an `End`: the machine's own, an operator's wish, a time limit, a failure, or that `up` went
away before all was ready. The machine and its helpers die with this process, even when it is killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

from stereo.errors import StereoError
from stereo.holding import holding
from stereo.sandbox import state
from stereo.sandbox.actions import Actions
from stereo.sandbox.birth import Parent
from stereo.sandbox.bounded import BoundedFile
from stereo.sandbox.guest import Guest
from stereo.sandbox.job import Change, Job
from stereo.sandbox.machines import machine_spec
from stereo.sandbox.messages import BOOT, FAILED, READY, STARTING, TAKEN
from stereo.sandbox.service import Service
from stereo.sandbox.state import Folder, Record, Taken
from stereo.vm.console import Console
from stereo.vm.control import GuestError
from stereo.vm.machine import Backend, Machine
from stereos_guest import protocol

log = logging.getLogger(__name__)

_AGREE_SECONDS = 5.0
_BUTTON_SECONDS = 10.0
_CHANNEL_CLOSES_FIRST = 1.0  # seconds; a channel that closed may only be the first sign of the machine's end


class End(NamedTuple):
    """Why a run ends: the state that it leaves, a sentence, and the seconds that the guest gets to shut down."""

    state: str
    reason: str
    grace: float = 0.0
    hint: str | None = None


class Supervisor:
    """Runs one sandbox to its end."""

    def __init__(self, job: Job, folder: Folder, backend: Backend, parent: Parent) -> None:
        self.job = job
        self.folder = folder
        self.guest: Guest | None = None  # once it answers
        self.ready = False
        self.began = time.time()
        self.ends_at: float | None = None
        self.record: Record
        self.actions = Actions(folder.actions_log, lambda text: self.job.redact(text))
        self.service = Service(self)
        self._backend = backend
        self._parent = parent
        loop = asyncio.get_running_loop()
        self._ending: asyncio.Future[End] = loop.create_future()
        self._forced = asyncio.Event()
        self.settled: asyncio.Future[None] = loop.create_future()  # ready, or never to be
        self.over: asyncio.Future[tuple[End, str]] = loop.create_future()

    @property
    def state(self) -> str:
        """Which of the states of a sandbox that has a supervisor."""
        if self._ending.done():
            return state.STOPPING
        return state.RUNNING if self.ready else state.STARTING

    def end(self, end: End) -> None:
        """Bring about the end; the first reason counts."""
        if not self._ending.done():
            log.info("ending: %s", self.job.redact(end.reason))
            self._ending.set_result(end)

    def stop(self, reason: str, grace: float | None = None, *, force: bool = False) -> None:
        """End it on somebody's wish, with `grace` seconds (default: the job's); force counts even if it is ending."""
        if force:
            self._forced.set()
        patience = self.job.grace if grace is None else grace
        self.end(End(state.STOPPED, reason, 0 if force or not self.ready else patience))

    def why_not_ready(self) -> str:
        """A sentence for those who waited for a start that failed, or that somebody ended."""
        by_wish = self.record.state == state.STOPPED
        return f"it was ended while it started: {self.record.reason}" if by_wish else self.record.reason

    async def apply(self, job: Job) -> tuple[list[Change], list[str]]:
        """See `Guest.apply`."""
        if self.guest is None:
            raise StereoError(STARTING)
        changes, notes = await self.guest.apply(job)
        self.job = self.guest.job
        self.record = self.guest.note(self.record)
        self.folder.write(self.record)
        return changes, notes

    async def run(self) -> None:
        """Live; leave the folder as it has to be found next time, or none. Nothing is raised: who asked is told."""
        try:
            new = self.folder.make()
            lock = self.folder.lock()
        except Taken:
            self._parent.tell(TAKEN)
            return
        except (StereoError, OSError) as error:
            self._parent.failed(error)
            return
        try:
            self._begin()
        except (StereoError, OSError) as error:  # nothing was changed yet
            self._parent.failed(error)
            if new:
                self.folder.remove()
            os.close(lock)
            return
        try:
            end, how = await self._live_or_fail()
        finally:
            self.folder.socket.unlink(missing_ok=True)
            keep = self.ready or self.job.keep or not new
            if not keep:
                self.folder.remove()
            os.close(lock)
        if not self.ready:
            self._parent.tell(FAILED, error={"what": self.why_not_ready(), "where": None, "hint": end.hint})
        self.over.set_result((end, how))

    async def _live_or_fail(self) -> tuple[End, str]:
        """The whole of it, with the end written down."""
        end, how = End(state.FAILED, "the supervisor failed; its log says how"), ""
        async with AsyncExitStack() as stack:
            try:
                for needed in filter(None, (self.job.dist, self.job.tools)):
                    stack.enter_context(holding(Path(needed)))
                end, how = await self._live(stack)
            except StereoError as error:
                end = self._failure(error)
            except Exception as error:  # a fault of ours must not leave a sandbox that looks alive
                log.exception("this is a fault")
                end = End(state.FAILED, f"the supervisor failed: {type(error).__name__}")
        log.info("%s: %s%s", end.state, end.reason, f" ({how})" if how else "")
        self.record = self.record.now(end.state, end.reason)
        self.actions.note("ended", {"state": end.state, "reason": end.reason})
        with suppress(OSError):
            self.folder.write(self.record)
        if not self.settled.done():
            self.settled.set_result(None)
        return end, how

    def _begin(self) -> None:
        """Look at what the last run left, and write down that this one began."""
        job, old = self.job, self.folder.record()
        self.record = Record(
            *(job.name, job.jcard, job.mixtape, job.dist, job.manifest),
            created=old.created if old else time.time(),
            disk=job.disk,
            backend=job.backend,
            arch=job.arch,
            proven=bool(old and old.proven),
            ssh_port=old.ssh_port if old else None,
            network=job.mode if job.egress is None else f"{job.mode}, filtered",
            digest=job.digest(),
        )
        _check_fits(job, self.folder)
        if not self.record.proven:
            for disk in self.folder.disks.values():
                disk.unlink(missing_ok=True)
        self.folder.known_hosts.unlink(missing_ok=True)
        log.info("starting %s from %s", job.name, job.mixtape)
        shares = [f"{share.host}:{share.guest}" + ":ro" * share.readonly for share in job.shares]
        given = {"digest": self.record.digest, "shares": shares, "secrets": sorted(job.secrets)}
        self.actions.note("started", {"mixtape": job.mixtape, "jcard": job.jcard, **given})
        self.folder.write(self.record.now(state.STARTING))

    async def _live(self, stack: AsyncExitStack) -> tuple[End, str]:
        self._catch_signals()
        orphaned = asyncio.create_task(self._parent_gone())
        stack.callback(orphaned.cancel)
        await self.service.start(self.folder.listen())
        stack.push_async_callback(self.service.stop)
        self._parent.phase(BOOT)
        machine = await stack.enter_async_context(self._backend.start(machine_spec(self.job, self.folder)))
        sink = BoundedFile(self.folder.console_log)
        stack.callback(sink.close)
        console = Console(machine.console.reader, sink.write)
        pump = asyncio.create_task(console.pump())
        gone = asyncio.create_task(self._watch(machine, console))
        stack.callback(gone.cancel)
        stack.callback(pump.cancel)
        try:
            await self._unless_ended(self._come_up(machine, stack))
        except StereoError as error:
            await asyncio.wait([gone], timeout=_CHANNEL_CLOSES_FIRST)
            self.end(self._failure(error, _said(console)))
        end = await self._ending
        how = await self._switch_off(machine, gone, end)
        return end, how

    async def _come_up(self, machine: Machine, stack: AsyncExitStack) -> None:
        """From a machine that was switched on to a sandbox that is ready. Raises StereoError."""
        guest = Guest(self.job, self.folder, machine)
        stack.push_async_callback(guest.close)
        failures = await guest.come_up(self.record.ssh_port, self._parent.phase)
        self.guest = guest
        if self.job.lifetime is not None:
            left = self.job.lifetime - (time.monotonic() - machine.began)
            reason = f"its time of {self.job.lifetime:g} s was over"
            self.ends_at = time.time() + left
            asyncio.get_running_loop().call_later(max(0, left), self.stop, reason)
        self.ready = True
        self.record = self.record.now(state.RUNNING)
        self.record = guest.note(self.record)
        self.folder.write(self.record)
        log.info("ready")
        for failure in failures:
            self._parent.note(self.job.redact(failure))
        self._parent.tell(READY, ssh_port=self.record.ssh_port)
        self._parent.close()
        self.settled.set_result(None)
        reason = await guest.broken()  # for as long as it serves
        self.end(End(state.FAILED, reason, self.job.grace))

    async def _unless_ended(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        waits: list[asyncio.Future[Any]] = [task, self._ending]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        elif error := task.exception():
            raise error

    async def _watch(self, machine: Machine, console: Console) -> None:
        """Tell of the machine's end."""
        try:
            await machine.wait()
        except StereoError as error:
            await asyncio.sleep(0.1)  # let the console's last words arrive
            self.end(self._failure(error, _said(console)))
        else:
            await asyncio.sleep(0.1)  # let the console's last words arrive
            if console.panic:
                self.end(self._failure(StereoError(f"its kernel gave up: {console.panic}")))
            elif self.ready:
                self.end(End(state.STOPPED, "it was shut down from inside"))
            else:
                self.end(self._failure(StereoError("the machine ended while it started"), _said(console)))

    def _failure(self, error: StereoError, more: str = "") -> End:
        what = f"{error.where}: {error.what}" if error.where else error.what
        return End(state.FAILED, self.job.redact(what + more), self.job.grace if self.ready else 0, error.hint)

    async def _switch_off(self, machine: Machine, gone: asyncio.Task[None], end: End) -> str:
        """End the machine as gently as `end` allows. Returns how it went."""
        if gone.done():
            return ""
        if end.grace > 0 and not self._forced.is_set():
            self.folder.write(self.record.now(state.STOPPING, end.reason))
            if self.guest and await self._agrees(self.guest, end) and await self._gone(gone, end.grace):
                return "it shut down"
            if not self._forced.is_set():
                pressed = asyncio.create_task(machine.stop(_BUTTON_SECONDS))
                if await self._gone(gone, _BUTTON_SECONDS):
                    await pressed
                    return "its power button was pressed"
                pressed.cancel()
        await machine.stop(0)
        return "it was switched off"

    async def _agrees(self, guest: Guest, end: End) -> bool:
        try:
            await guest.control.request(protocol.SHUTDOWN, {"reason": end.reason}, seconds=_AGREE_SECONDS)
        except GuestError as error:
            log.warning("the guest does not shut down: %s", error)
            return False
        return True

    async def _gone(self, gone: asyncio.Task[None], seconds: float) -> bool:
        forced = asyncio.create_task(self._forced.wait())
        waits: list[asyncio.Future[Any]] = [gone, forced]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        return gone.done()

    async def _parent_gone(self) -> None:
        await self._parent.gone()
        if not self.ready:
            self.end(End(state.STOPPED, "`stereo up` was given up"))

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop, f"the supervisor got {signal.Signals(number).name}")


def _said(console: Console) -> str:
    tail = console.tail()
    return f"; its console's last lines:\n{tail}" if tail else "; its console shows nothing"


def _check_fits(job: Job, folder: Folder) -> None:
    """Refuse to go on with a disk that was made for something else. Raises StereoError."""
    record = folder.record()
    if record is None or not record.proven or not folder.disks[record.backend].exists():
        return
    fresh = f"`stereo destroy {job.name}` gives it up"
    if record.arch not in ("", job.arch):
        raise StereoError(
            f"the disk of {job.name} is that of an {record.arch} machine, not {job.arch}",
            hint=f"go on with --arch {record.arch}, or {fresh}",
        )
    if record.manifest != job.manifest:
        now = f"{job.mixtape}, which has changed since" if record.mixtape == job.mixtape else job.mixtape
        stay = f'go on with mixtape = "{record.mixtape}", or ' if record.mixtape != job.mixtape else ""
        raise StereoError(
            f"the disk of {job.name} was made for {record.mixtape}, and the mixtape is now {now}", hint=stay + fresh
        )
    if record.backend != job.backend:
        raise StereoError(
            f"the disk of {job.name} was made by the backend {record.backend}, and {job.backend} cannot read it",
            hint=f"go on with --backend {record.backend}, or {fresh}",
        )
    if record.disk != job.disk:
        raise StereoError(
            f"the disk of {job.name} has {record.disk >> 20} MiB, and a disk cannot change its size",
            where=f"{job.jcard}: resources.disk",
            hint=fresh,
        )
