"""`stereo ci`: the workflow files follow from a model, and this keeps them at it."""

from __future__ import annotations

import click

from stereo.cli.output import Output, speaking
from stereo.paths import Checkout


@click.command(
    short_help="Write or check the workflow files.",
    epilog="""\b
Examples:
  stereo ci            write what differs in .github/workflows/ from the model
  stereo ci --check    say what differs, and change nothing

The model is builder/stereo/pipeline/workflows.py; every command in it is a script of ci/, which also
runs by hand: ci/release does on one machine what the workflows do on many.

Exit status: 0 as the model says (now), 1 something differs (--check) or does not come from it, 2 wrong usage.""",
)
@click.option("--check", is_flag=True, help="Only say what differs.")
@speaking(as_json=True)
def ci(out: Output, check: bool) -> int:
    """Write the workflow files from their model, or check that they are what it says."""
    from stereo.pipeline.workflows import differences, write

    checkout = Checkout.containing_this_package().root
    written = [] if check else write(checkout)
    found = differences(checkout)
    lines = [f"{path}: written" for path in written] + [f"{row.path}: {row.what}" for row in found]
    if not lines:
        lines = ["the workflow files are what the model says"]
    out.result({"written": written, "differences": [vars(row) for row in found]}, "\n".join(lines))
    return int(bool(found))
