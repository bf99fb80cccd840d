"""The verbs of stereo, each in a process of its own: what a release does is what a person could type, and nothing else.

So a job needs no more of another part than its command line, every command is in the log, and whoever has a failed job
before them can do it again by hand.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stereo.paths import Checkout
from stereo.pipeline.jobs import SECRETS
from stereo.process import quote, run
from stereo.report import Report

INSIDE = "_STEREO_CI"
"""Tells a script of ci/ that the interpreter is the right one already; see ci/start.py."""
# Isolated where we are; where PYTHONPATH led to us, it must lead there again, from any folder.
_PYTHON = (sys.executable, *(("-I",) if sys.flags.isolated else ("-P", "-s")))
_CODE = os.pathsep.join(str(Checkout.containing_this_package().root / one) for one in ("builder", "guest"))
_TIME_OF_DAY = re.compile(r"^\d\d:\d\d:\d\d ")


@dataclass(frozen=True)
class Verbs:
    """Starts verbs in the folder `cwd`. `environment` is added to ours, which goes without its secrets."""

    cwd: Path
    report: Report
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *words: str | Path, env: Mapping[str, str] | None = None, secret: str | None = None) -> None:
        """Run `stereo WORDS`. A `secret` goes to its stdin. Raises CommandFailed unless it ends with status 0."""
        self.report.note(f"stereo {quote(list(map(str, words)))}")
        self.program([*_PYTHON, "-m", "stereo", *words], env=env, secret=secret)

    def script(self, path: Path, *words: str | Path) -> None:
        """Run a script of ci/ in the environment that we run in. Raises CommandFailed."""
        self.report.note(f"ci/{path.name} {quote(list(map(str, words)))}")
        self.program([*_PYTHON, path, *words], env={INSIDE: "1"})

    def program(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        secret: str | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Run any program. Raises CommandFailed."""
        ours = {name: value for name, value in os.environ.items() if name not in SECRETS}
        surroundings = {**ours, "PYTHONPATH": _CODE, **self.environment, **(env or {})}
        if secret is None:
            run(argv, env=surroundings, cwd=cwd or self.cwd, on_line=self._pass_on)
        else:
            run(argv, env=surroundings, cwd=cwd or self.cwd, input_text=secret)

    def _pass_on(self, line: str) -> None:
        if line:
            self.report.note("  " + _TIME_OF_DAY.sub("", line))
