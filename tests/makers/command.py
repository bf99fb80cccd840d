"""Runs the real command line as a user would: another process, from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Thread

from stereo.paths import Checkout
from stereo.process import die_with_parent, end_group

# What would make the same command do something else on another machine.
_OF_THE_CALLER = ("STEREO_VERSION", "SOURCE_DATE_EPOCH", "PYTHONPATH")


class Stereo:
    """The command line of a checkout. What it says on stderr goes to `tell` while it runs.

    `program` is how it is started if not by the interpreter of the test suite: the launcher, as another user.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        checkout: Path | None = None,
        *,
        program: Sequence[str] | None = None,
    ) -> None:
        self.tell = tell
        self._checkout = checkout or Checkout.containing_this_package().root
        self._program = program or [sys.executable, "-P", "-s", "-m", "stereo"]

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Where the command finds its own code, and for the rest what the test suite runs in, and `extra`."""
        plain = {name: value for name, value in os.environ.items() if name not in _OF_THE_CALLER}
        return {**plain, "PYTHONPATH": f"{self._checkout}/builder:{self._checkout}/guest", **(extra or {})}

    def argv(self, *words: str | Path) -> list[str]:
        """The whole command, for a test that starts it in a way of its own."""
        return [*self._program, *map(str, words)]

    def __call__(
        self,
        *words: str | Path,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        timeout: float = 1800,
        status: int | None = 0,
        umask: int = -1,
    ) -> subprocess.CompletedProcess[str]:
        """Run a verb in the folder `cwd`, for at most `timeout` seconds; fail unless it ends with `status`."""
        argv, said = self.argv(*words), list[str]()
        with tempfile.TemporaryFile("w+") as stdout:
            child = subprocess.Popen(
                argv,
                cwd=cwd,
                env=self.environment(env),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                umask=umask,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

            def listen() -> None:
                assert child.stderr
                for line in child.stderr:
                    said.append(line)
                    self.tell(line.rstrip("\n"))

            listener = Thread(target=listen, daemon=True)
            listener.start()
            late = False
            try:
                child.wait(timeout=timeout)
            except subprocess.TimeoutExpired:
                late = True
            finally:
                end_group(child)
            listener.join(5)
            stdout.seek(0)
            out = stdout.read()
        done = subprocess.CompletedProcess(argv, child.returncode, out, "".join(said))
        if late:
            raise AssertionError(f"{words}: not done after {timeout:g} s\n{out}{done.stderr}")
        if status is not None and done.returncode != status:
            raise AssertionError(f"{words}: status {done.returncode}, not {status}\n{out}{done.stderr}")
        return done
