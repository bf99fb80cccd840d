"""`stereo ssh`: OpenSSH into a sandbox, with the sandbox's own key and its host key checked strictly."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import click

from stereo.cli.options import sandbox_option
from stereo.cli.output import Output, speaking
from stereo.errors import StereoError


@click.command(
    short_help="Log in to a sandbox by ssh.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="""\b
Examples:
  stereo ssh                             as admin
  stereo ssh -u agent review             as the agent, in the sandbox `review`
  stereo ssh uname -a                    one command
  stereo ssh --config >>~/.ssh/config    for scp, rsync and editors: host `stereo-NAME`

The first word is the sandbox if there is one of that name, unless --sandbox says which.""",
)
@click.option("-u", "--user", type=click.Choice(["admin", "agent"]), default="admin", show_default=True)
@click.option("--config", is_flag=True, help="Print an ssh_config(5) section instead.")
@sandbox_option
@click.argument("words", metavar="[SANDBOX] [COMMAND]...", nargs=-1, type=click.UNPROCESSED)
@speaking()
def ssh(out: Output, user: str, config: bool, sandbox: str | None, words: Sequence[str]) -> int:
    """Log in to SANDBOX by ssh, or run COMMAND there, by a shell as ssh(1) does."""
    from stereo.sandbox.keys import alias
    from stereo.sandbox.names import pick
    from stereo.sandbox.ssh import options
    from stereo.sandbox.state import all_folders

    if sandbox is None and words and words[0] in {folder.name for folder in all_folders()}:
        sandbox, *words = words
    name = pick(sandbox)
    chosen = options(name, user)
    if config:
        lines = [f"Host {alias(name)}", *(f"    {key} {value}" for key, value in chosen.items())]
        out.result([], "\n".join(lines))
        return 0
    program = shutil.which("ssh")
    if program is None:
        raise StereoError("no ssh on PATH", hint="install openssh-client; `stereo exec` needs none")
    argv = [program, "-F", "none"]
    for key, value in chosen.items():
        if key != "HostName":
            argv += ["-o", f"{key}={value}"]
    argv.append("--")
    os.execv(program, [*argv, chosen["HostName"], *words])
    raise AssertionError("unreachable")
