"""Runs something in a process that is killed right before its n-th change of the file system, for every n."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

_CHANGES = ("rename", "replace", "unlink", "rmdir", "mkdir", "symlink", "link")


def deaths(work: Callable[[], object]) -> Iterator[int]:
    """After each death its number, from 0; ends when `work` has lived to its end. What `work` raises fails the test."""
    number = 0
    while not _survives(work, number):
        yield number
        number += 1
        assert number < 200


def _survives(work: Callable[[], object], number: int) -> bool:
    child = os.fork()
    if child == 0:
        left = number

        def dying(really: Callable[..., Any]) -> Callable[..., Any]:
            def call(*words: Any, **options: Any) -> Any:
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return really(*words, **options)

            return call

        for name in _CHANGES:
            setattr(os, name, dying(getattr(os, name)))
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == 0
