"""One run of mkosi on one rendered stage."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path

from stereo.build.sandbox import enclosed
from stereo.errors import StereoError
from stereo.process import CommandFailed, closed_environment, run

log = logging.getLogger(__name__)

_SUFFIX_OF_A_STEP = re.compile(r"^‣\s+")


def run_mkosi(stage: Path, *, tools: Path, work: Path) -> None:
    """Build the stage in `stage` (a folder with mkosi.conf) with the mkosi of the tools tree; its outputs appear there.

    Raises StereoError with the end of mkosi's own words; the whole log is `work`/NAME.log while the build runs.
    """
    for folder in ("workspace", "cache"):
        (work / folder).mkdir(exist_ok=True)
    environment = closed_environment(
        {
            "HOME": str(work),
            "PYTHONPATH": str(tools / "usr/lib/python3/dist-packages"),
            "PYTHONDONTWRITEBYTECODE": "1",
            # Nothing to colour, nobody to ask.
            "TERM": "dumb",
        },
        path=os.pathsep.join(("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")),
    )
    options = [
        f"--directory={stage}",
        f"--tools-tree={tools}",
        f"--workspace-directory={work / 'workspace'}",
        f"--package-cache-dir={work / 'cache'}",
        "--force",
    ]
    with (work / f"{stage.name}.log").open("w") as kept:

        def keep(line: str) -> None:
            kept.write(line + "\n")
            log.debug("mkosi: %s", line)

        try:
            run(enclosed([sys.executable, "-m", "mkosi", *options, "build"]), env=environment, on_line=keep)
        except CommandFailed as error:
            lines = [line for line in error.output.splitlines() if line.strip()]
            # mkosi ends with the failed command line, which says less than the lines before it.
            told = [line if len(line) < 500 else line[:500] + "…" for line in lines[-15:]]
            steps = [_SUFFIX_OF_A_STEP.sub("", line) for line in lines if _SUFFIX_OF_A_STEP.match(line)]
            raise StereoError(
                "mkosi failed" + (f" at “{steps[-1][:200]}”" if steps else "") + ":\n" + "\n".join(told),
                where=f"stage {stage.name}",
                hint="run again with --verbose to see all of mkosi's output",
            ) from error
