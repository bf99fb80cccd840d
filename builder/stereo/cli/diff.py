"""`stereo diff`: where two dists part, from the whole down to the first difference that can be named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stereo.cli.output import Output, safe, speaking

if TYPE_CHECKING:
    from stereo.check.differences import Difference

_ANY_PATH = click.Path(path_type=Path)


@click.command(
    short_help="Explain how two dists differ.",
    epilog="""\b
Examples:
  stereo diff dist/coder/2026.01.31.0/x86_64 dist/coder/2026.01.31.1/x86_64
  stereo diff one/stereos.img two/stereos.img
  stereo diff result /mnt/theirs --json | jq -r '.differences[0].level'

Exit status: 0 identical, 1 different, 2 they cannot be compared.""",
)
@click.argument("a", type=_ANY_PATH)
@click.argument("b", type=_ANY_PATH)
@speaking(as_json=True)
def diff(out: Output, a: Path, b: Path) -> int:
    """Explain how two dists, or two artifacts of one kind, differ: one line each, the cause before its effects."""
    from stereo.check.diff import diff as differences

    found = differences(a, b, out.report)
    out.result(as_data(found), as_text(found))
    return int(bool(found))


def as_data(found: Sequence[Difference]) -> dict[str, Any]:
    """The differences for --json."""
    rows = [{"level": each.level.value, "where": each.where, "message": each.message} for each in found]
    return {"identical": not found, "differences": rows}


def as_text(found: Sequence[Difference]) -> str:
    """The differences for people."""
    return "\n".join(f"{each.level}: {safe(str(each))}" for each in found) or "identical"
