"""Ties the caller's terminal, or its pipes, to a stream of the guest: what a remote shell does at its near end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from stereo.cli.output import safe
from stereo.errors import StereoError

if TYPE_CHECKING:
    from stereo.vm.stream import Exit, Stream

_CHUNK = 48 * 1024
_TIMED_OUT, _SIGNALLED = 124, 128  # as timeout(1) and shells say it
_NUMBERS = {name.removeprefix("SIG"): number for name, number in signal.Signals.__members__.items()}


def terminal_size() -> dict[str, Any]:
    """What `exec` is told of the terminal on stdout."""
    size = shutil.get_terminal_size()
    return {"rows": size.lines, "cols": size.columns, "term": os.environ.get("TERM", "dumb")[:64]}


def exit_status(ended: Exit) -> int:
    """The status that a shell would tell: 124 for a time limit, 128 and the number for a signal."""
    if ended.timed_out:
        return _TIMED_OUT
    if ended.signal is not None:
        return _SIGNALLED + _NUMBERS.get(ended.signal, 0)
    if ended.code is None:
        raise StereoError(f"the command was not run to its end: {ended.error or 'no reason given'}")
    if ended.error:  # it could not be started; the code is what a shell would tell
        click.echo(f"stereo: {safe(ended.error)}", err=True)
    return ended.code


async def attend(stream: Stream, *, terminal: bool, keyboard: bool) -> Exit:
    """Pass stdin to the stream (if `keyboard`) and its output to stdout and stderr, until it ends.

    With `terminal` stdin is put into raw mode meanwhile, and a change of the window's size is told. Without, Ctrl-C
    goes to the command inside; a second one gives up waiting for it.
    """
    loop = asyncio.get_running_loop()
    with _raw(sys.stdin.fileno()) if terminal else _interruptible(stream):
        if terminal:
            loop.add_signal_handler(signal.SIGWINCH, lambda: loop.create_task(_resize(stream)))
        if keyboard:
            threading.Thread(target=_type, args=[stream, loop], daemon=True).start()
        try:
            while piece := await stream.read():
                name, data = piece
                await asyncio.to_thread(_write_all, 2 if name == "stderr" else 1, data)
            return await stream.wait()
        finally:
            if terminal:
                loop.remove_signal_handler(signal.SIGWINCH)


def _type(stream: Stream, loop: asyncio.AbstractEventLoop) -> None:
    """In a thread of its own, which may wait in read(2) for ever: files, pipes and terminals are all the same to it."""
    with suppress(StereoError, OSError, CancelledError, RuntimeError):  # it ended meanwhile
        while data := os.read(sys.stdin.fileno(), _CHUNK):
            asyncio.run_coroutine_threadsafe(stream.write(data), loop).result()
        asyncio.run_coroutine_threadsafe(stream.write_eof(), loop).result()


async def _resize(stream: Stream) -> None:
    size = shutil.get_terminal_size()
    with suppress(StereoError):
        await stream.resize(size.lines, size.columns)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)


@contextmanager
def _interruptible(stream: Stream) -> Iterator[None]:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task
    asked: list[asyncio.Task[None]] = []

    def interrupt() -> None:
        if asked:
            task.cancel()
        else:
            asked.append(loop.create_task(stream.signal("INT")))

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
