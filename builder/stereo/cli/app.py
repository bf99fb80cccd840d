"""The group of verbs, and the edge where errors become text and an exit status.

Exit status: 0 done, 1 failed or different, 2 wrong usage, 130 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

import click
from click.shell_completion import shell_complete

from stereo.cli.output import error_text
from stereo.errors import MAKE_ROOM, StereoError, UsageError

TOOL_VERSION = "0.1.0"
# Verb -> the module that has it, and the name that it has there if another; in the order of a first acquaintance.
VERBS = {
    "build": "build",
    "init": "init",
    "up": "up",
    "apply": "up",
    "status": "status",
    "list": "status:list_",
    "exec": "exec:exec_",
    "attach": "exec",
    "logs": "logs",
    "ssh": "ssh",
    "cp": "cp",
    "secret": "secret",
    "down": "down",
    "destroy": "down",
    "boot": "boot",
    "verify": "verify",
    "check": "check",
    "vmlinux": "vmlinux",
    "diff": "diff",
    "rebuild": "rebuild",
    "keygen": "keygen",
    "sign": "sign",
    "sbom": "sbom",
    "publish": "publish",
    "tags": "tags",
    "inspect": "tags",
    "search": "tags",
    "pull": "pull",
    "mixtapes": "mixtapes",
    "dists": "dists",
    "show": "mixtapes",
    "render": "render",
    "schema": "mixtapes",
    "lock": "lock",
    "doctor": "doctor",
    "clean": "clean",
    "ci": "ci",
    "completion": "completion",
    "test": "suite",
}
_ALIASES = {"ls": "list"}
COMPLETE = "_STEREO_COMPLETE"
DONE, FAILED, USAGE, STOPPED = 0, 1, 2, 130


class Verbs(click.Group):
    """A group that imports a verb when somebody asks for it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = _ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name].partition(":")
        command = getattr(import_module(f"stereo.cli.{module}"), attribute or cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in (*VERBS, *_ALIASES) and not args[0].startswith("-"):
            from stereo.model.document import nearest

            raise click.UsageError(f"there is no verb {args[0]!r}; {nearest(args[0], list(VERBS))}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  stereo build opencode-mixtape      from a mixtape to dist/opencode-mixtape/VERSION/ARCH/
  stereo verify result               prove that nothing in it was altered
  stereo boot result --until ready   boot it until the guest daemon answers, and show the phases
  stereo test                        the whole test suite

Exit status: 0 done, 1 failed or different, 2 wrong usage.""",
)
@click.version_option(TOOL_VERSION, "-V", "--version", message="%(prog)s %(version)s")
def stereo() -> None:
    """Turn mixtapes into verified, reproducible virtual machine images, and boot them."""


def treat_signals_as_ctrl_c() -> None:
    """Whoever ends us, by kill(1) or by closing the terminal, lets builds clean up after themselves."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def _fill_closed_streams() -> None:
    """Of stdin, stdout and stderr, those that our caller closed: their numbers must not become those of files."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def run(arguments: Sequence[str] | None = None, command: click.Command = stereo) -> int:
    """Run one command line (default: this process's, for the verbs) and return the exit status."""
    _fill_closed_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        if instruction := os.environ.get(COMPLETE):
            return shell_complete(stereo, {}, "stereo", COMPLETE, instruction)
        # Not `stereo.main()`, which makes of Ctrl-C something of its own.
        with command.make_context(command.name, given) as context:
            status = command.invoke(context)
        sys.stdout.flush()
        return status if isinstance(status, int) else DONE
    except click.exceptions.Exit as wanted:
        return wanted.exit_code
    except click.exceptions.NoArgsIsHelpError as asked:
        _complain(asked.format_message())
        return USAGE
    except click.ClickException as error:
        usage = error.ctx.get_usage() + "\n" if isinstance(error, click.UsageError) and error.ctx else ""
        _complain(error_text(StereoError(error.format_message()), as_json=as_json), "" if as_json else usage)
        return error.exit_code
    except StereoError as error:
        _complain(error_text(error, as_json=as_json))
        return USAGE if isinstance(error, UsageError) else FAILED
    except (KeyboardInterrupt, click.Abort):
        _complain("stereo: stopped")
        return STOPPED
    except BrokenPipeError:
        # Who read us has read enough. Point stdout elsewhere, or the interpreter complains when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        where = str(error.filename) if error.filename else None
        hint = MAKE_ROOM if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
        _complain(error_text(StereoError(error.strerror or str(error), where=where, hint=hint), as_json=as_json))
        return FAILED


def _complain(text: str, before: str = "") -> None:
    with suppress(OSError):
        print(before + text, file=sys.stderr, flush=True)
