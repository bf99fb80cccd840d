"""The command line: the only part that prints, asks, colours or exits.

One module per verb, imported when the verb is called, and whatever a verb needs is imported when it runs: the time
until the first line is part of the interface.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


def main() -> None:
    """Run the command line of this process and exit."""
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # else it looks for some in all that is installed: 5 ms
    with importing():
        from stereo.cli.app import run, treat_signals_as_ctrl_c

    treat_signals_as_ctrl_c()
    status = run()
    gc.freeze()  # else the interpreter looks for garbage in everything once more before it ends: 17 ms after a pull
    raise SystemExit(status)


@contextmanager
def importing() -> Iterator[None]:
    """While much is imported: it all stays, and looking for garbage in it, then or later, takes a tenth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
