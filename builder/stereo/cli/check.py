"""`stereo check`: which hypervisors a dist fits, why not, and how they start it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stereo.cli.options import ARCHITECTURE, dist_argument, keep
from stereo.cli.output import Output, columns, safe, speaking

if TYPE_CHECKING:
    from stereo.hypervisors.answer import Answer, Way

_NAMES = ("applevirt", "qemu", "libvirt", "cloud-hypervisor", "firecracker")  # of hypervisors.known


@click.command(
    short_help="Say which hypervisors a dist fits.",
    epilog="""\b
Examples:
  stereo check result                                 all five, and how each of them starts it
  stereo check result --for firecracker --for qemu
  stereo check result --for applevirt --arch aarch64  is it the one for my Mac?
  stereo check result --for libvirt --json | jq -r '.hypervisors[0].forms[0].steps[1].content'

Everything is read from the files themselves: partition table, EFI program, kernel, initrd, modules, command
line. "ok" holds (-v says what), "lacks" runs without something, "no" does not run. Whether anybody altered the
files is for `stereo verify`. docs/hypervisors.md has the table behind it.

Exit status: 0 it fits each of them in some form, 1 it does not, or is no dist, 2 wrong usage.""",
)
@dist_argument("folder")
@click.option(
    "--for", "names", multiple=True, type=click.Choice(_NAMES), help="A hypervisor, may be given again; default: all."
)
@click.option("--arch", type=ARCHITECTURE, help="The architecture that is wanted.")
@speaking(as_json=True)
def check(out: Output, folder: Path, names: tuple[str, ...], arch: str | None) -> int:
    """Say whether a dist fits hypervisors, and why not; print the shortest command that starts it."""
    from stereo.assemble.dist import read_manifest
    from stereo.hypervisors.answer import answers
    from stereo.hypervisors.facts import read_facts
    from stereo.model.architecture import Architecture

    keep(folder)
    manifest = read_manifest(folder)
    facts = read_facts(folder, manifest)
    found = answers(facts, names, Architecture(arch) if arch else None, Path.cwd())
    data = {
        "name": manifest.name,
        "version": manifest.version,
        "arch": manifest.arch,
        "fits": all(one.fits for one in found),
        "hypervisors": [_as_data(one) for one in found],
    }
    head = f"{manifest.name} {manifest.version} {manifest.arch}"
    text = [head, *(line for one in found for line in _as_text(one, verbose=out.verbose))]
    out.result(data, "\n".join(text))
    return 0 if data["fits"] else 1


def _as_data(answer: Answer) -> dict[str, Any]:
    return {"name": answer.name, "fits": answer.fits, "forms": [_way_as_data(way) for way in answer.ways]}


def _way_as_data(way: Way) -> dict[str, Any]:
    from stereo.hypervisors.start import Run

    rows = [
        {"check": row.what, "verdict": row.verdict.value, "message": row.message, "form": way.judged.form.value}
        for row in way.judged.rows
    ]
    steps: list[dict[str, Any]] = [
        {"run": list(step.argv)} if isinstance(step, Run) else {"file": step.name, "content": step.content}
        for step in way.steps
    ]
    return {"form": way.judged.form.value, "fits": way.judged.fits, "rows": rows, "steps": steps, "note": way.note}


def _as_text(answer: Answer, *, verbose: bool) -> Iterator[str]:
    fitting = [way for way in answer.ways if way.judged.fits]
    verdict = f"fits, as {', '.join(way.judged.form for way in fitting)}" if fitting else "does not fit"
    yield ""
    yield f"{answer.name}: {verdict}"
    yield from (f"  {line}" for line in columns(_matrix(answer)))
    yield from _messages(answer, verbose=verbose)
    for way in fitting:
        # For a shell as it stands: not indented, or a file's end would not be found.
        yield ""
        yield f"# {answer.name}, {way.judged.form}" + (f": {safe(way.note)}" if way.note else "")
        for step in way.steps:
            yield from map(safe, str(step).splitlines())


def _matrix(answer: Answer) -> list[list[str]]:
    """A line per check, a column per form."""
    table = [["", *(way.judged.form.value for way in answer.ways)]]
    for index, row in enumerate(answer.ways[0].judged.rows):
        table.append([row.what, *(way.judged.rows[index].verdict.value for way in answer.ways)])
    return table


def _messages(answer: Answer, *, verbose: bool) -> Iterator[str]:
    """What is not "ok", or with `verbose` everything: each message once, with the forms that it is about."""
    told: dict[tuple[str, str, str], list[str]] = {}
    for way in answer.ways:
        for row in way.judged.rows:
            if row.verdict.value == "ok" and not verbose:
                continue
            told.setdefault((row.verdict.value, row.what, row.message), []).append(way.judged.form.value)
    for (verdict, what, message), forms in told.items():
        yield f"  {verdict:<5}  {', '.join(forms)}: {what}: {safe(message)}"
