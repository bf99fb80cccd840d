"""One run of mkosi on one rendered stage.

mkosi sees its files at the same place on every machine: in the sandbox the workspace lies over a folder that every
system has. So no path of ours can get into an image, and none breaks the shell scripts that apt is given for hooks,
as one with a space would.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from pathlib import Path

from stereo.build.foreign import emulator_of, is_foreign
from stereo.build.sandbox import enclosed, mount_point
from stereo.errors import MAKE_ROOM, StereoError
from stereo.model.architecture import Architecture
from stereo.process import CommandFailed, closed_environment, run

log = logging.getLogger(__name__)

# mount(8): the tools into the workspace, and the workspace to where it is seen.
_PLACES = 'mount --bind "$1" "$2/tools"; mount --rbind "$2" "$3"; shift 3; exec "$@"'
_MARK_OF_A_STEP = re.compile(r"^‣\s+")


def run_mkosi(stage: Path, *, arch: Architecture, tools: Path, work: Path) -> None:
    """Build `stage` (a folder of `work` with mkosi.conf) with the mkosi of the tools tree; its outputs appear there.

    `arch` is the image's. Raises StereoError with the end of mkosi's own words; the whole log is `work`/NAME.log while
    the build runs.
    """
    for folder in ("workspace", "cache", "tools"):
        (work / folder).mkdir(exist_ok=True)
    here = mount_point(work, tools)
    environment = closed_environment(
        {
            "HOME": str(here),
            "PYTHONPATH": str(here / "tools/usr/lib/python3/dist-packages"),
            "PYTHONDONTWRITEBYTECODE": "1",
            # What a killed mkosi leaves goes with the rest of its work, not into the host's /tmp.
            "TMPDIR": str(here / "workspace"),
            # Nothing to colour, nobody to ask.
            "TERM": "dumb",
        },
        path=os.pathsep.join(("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")),
    )
    options = [
        f"--directory={here / stage.relative_to(work)}",
        f"--tools-tree={here / 'tools'}",
        f"--workspace-directory={here / 'workspace'}",
        f"--package-cache-dir={here / 'cache'}",
        "--force",
    ]
    mkosi = [sys.executable, "-m", "mkosi", *options, "build"]
    inside: list[str | Path] = ["sh", "-euc", _PLACES, "sh", tools, work, here, *mkosi]
    command = emulator_of(arch, tools).enclosed(inside, here) if is_foreign(arch) else enclosed(inside)
    with (work / f"{stage.name}.log").open("w") as kept:

        def keep(line: str) -> None:
            kept.write(line + "\n")
            log.debug("mkosi: %s", line)

        try:
            run(command, env=environment, cwd=Path("/"), on_line=keep)
        except CommandFailed as error:
            lines = [line for line in error.output.splitlines() if line.strip()]
            steps = [_MARK_OF_A_STEP.sub("", line) for line in lines if _MARK_OF_A_STEP.match(line)]
            what = "mkosi failed" + (f" at “{steps[-1][:200]}”" if steps else "")
            if error.out_of_space:
                raise StereoError(
                    f"{what}: {os.strerror(errno.ENOSPC)}", where=str(work.parent), hint=MAKE_ROOM
                ) from error
            # mkosi ends with the failed command line, which says less than the lines before it.
            told = [line if len(line) < 500 else line[:500] + "…" for line in lines[-15:]]
            raise StereoError(
                f"{what}:\n" + "\n".join(told),
                where=f"stage {stage.name}",
                hint="run again with --verbose to see all of mkosi's output",
            ) from error
