"""What a verb says and how: results on stdout, as text or as JSON, and everything else on stderr.

`Output` is made from the options that all verbs share. It hands the working parts a reporter that suits whoever
listens: bars on a terminal, plain lines in CI, silence for `--json`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any

import click

from stereo.errors import ProblemsError, StereoError
from stereo.report import Report, Silent


@dataclass(frozen=True)
class Output:
    """How this run was asked to speak."""

    json: bool = False
    verbose: bool = False
    quiet: bool = False

    @cached_property
    def report(self) -> Report:
        """The reporter for the working parts."""
        if self.json:
            return Silent()
        if is_terminal() and not self.quiet and not self.verbose:  # log lines and bars would overwrite each other
            from stereo.cli.terminal import TerminalReport

            return TerminalReport()
        from stereo.cli.plain import PlainReport

        return PlainReport(sys.stderr, quiet=self.quiet)

    def result(self, data: Mapping[str, Any] | list[Any], text: str) -> None:
        """The answer: `data` for --json, else `text`."""
        click.echo(json.dumps(data, indent=2, ensure_ascii=False) if self.json else text, nl=bool(self.json or text))


def is_terminal() -> bool:
    """Whether stderr is a terminal that can redraw a line."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def safe(text: str) -> str:
    """`text` from a file that is not ours, for a terminal: whatever would act there is escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def columns(table: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines, with cells under each other."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def error_text(error: StereoError, *, as_json: bool) -> str:
    """An error for stderr: what, where and what to do next, or the same as a JSON object."""
    problems = error.problems if isinstance(error, ProblemsError) else ()
    if as_json:
        fault: dict[str, Any] = {"what": error.what, "where": error.where, "hint": error.hint}
        if problems:
            fault["problems"] = [vars(problem) for problem in problems]
        return json.dumps({"error": fault}, ensure_ascii=False)
    if problems:
        lines = []
        for problem in problems:
            lines.append(safe(f"stereo: {problem.file}: {problem.key}: {problem.message}"))
            if problem.hint:
                lines.append(safe(f"        hint: {problem.hint}"))
        if len(problems) > 1:
            lines.append(f"stereo: {len(problems)} problems")
        return "\n".join(lines)
    what = error.what if error.where is None else f"{error.where}: {error.what}"
    hint = f"\n        hint: {error.hint}" if error.hint else ""
    return "\n".join(safe(line) for line in f"stereo: {what}{hint}".splitlines())


def speaking(*, as_json: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a verb -v, -q and, with `as_json`, --json; it gets an `Output` as its first argument in their place."""

    def decorate(verb: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(verb)
        def with_output(*args: Any, verbose: bool, quiet: bool, json: bool = False, **kwargs: Any) -> Any:
            if verbose:
                logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
                logging.getLogger("stereo").setLevel(logging.DEBUG)
            return verb(Output(json=json, verbose=verbose, quiet=quiet), *args, **kwargs)

        with_output = click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings and errors.")(
            with_output
        )
        with_output = click.option("-v", "--verbose", is_flag=True, help="Log every program that is started.")(
            with_output
        )
        if as_json:
            with_output = click.option("--json", is_flag=True, help="Print the result as JSON, and nothing else.")(
                with_output
            )
        return with_output

    return decorate
