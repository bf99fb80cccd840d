"""The scripts of ci/, run as a person would, by the interpreter of the test suite."""

from __future__ import annotations

import sys
from collections.abc import Callable

from makers.command import Stereo
from stereo.paths import Checkout
from stereo.pipeline.verbs import INSIDE

ROOT = Checkout.containing_this_package().root


class Script(Stereo):
    """A script of ci/ in the place of `stereo`, for `running` and by itself."""

    def __init__(self, tell: Callable[[str], None], name: str) -> None:
        super().__init__(tell, program=[sys.executable, "-P", "-s", str(ROOT / "ci" / name)])

    def environment(self, extra: object = None) -> dict[str, str]:
        """As of a verb, and the word that this interpreter is the right one."""
        return {**super().environment(extra), INSIDE: "1"}  # type: ignore[arg-type]
