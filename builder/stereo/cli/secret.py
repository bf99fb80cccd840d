"""`stereo secret`: give a running sandbox a secret, take one away, list names. Values come on stdin, never as words."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from stereo.cli.options import sandbox_option
from stereo.cli.output import Output, safe, speaking
from stereo.errors import UsageError

_LARGEST = 256 * 1024


@click.group(
    short_help="Give a running sandbox a secret, take one away, list them.",
    epilog="""\b
Examples:
  stereo secret list
  pass show openai | stereo secret set OPENAI_API_KEY
  stereo secret rm OPENAI_API_KEY

Agents that list a secret (`secrets = [...]` in jcard.toml) are started again when it changes. A value is never an
argument: other users of this host could read it there. After `down` it is gone; jcard.toml is what gives it again.""",
)
def secret() -> None:
    """Give a running sandbox a secret, take one away, or list their names."""


@secret.command("list")
@sandbox_option
@speaking(as_json=True)
def list_(out: Output, sandbox: str | None) -> None:
    """Print the names of the secrets inside."""
    from stereos_guest import protocol

    answer = _ask(sandbox, protocol.LIST_SECRETS, {}, protocol.SECRETS)
    names = [str(name) for name in answer.get("names", []) if isinstance(name, str)]
    out.result(names, "\n".join(safe(name) for name in names))


@secret.command("set")
@sandbox_option
@click.argument("name")
@speaking()
def set_(out: Output, sandbox: str | None, name: str) -> None:
    """Put what comes on stdin into the sandbox as secret NAME; a newline at its end is left out."""
    from stereos_guest import protocol

    if sys.stdin.isatty():
        value = click.prompt(f"Value of {name}", hide_input=True, err=True)
    else:
        data = sys.stdin.buffer.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise UsageError(f"is larger than {_LARGEST} bytes", where=name)
        try:
            value = data.decode().removesuffix("\n")
        except UnicodeDecodeError:
            raise UsageError("is not UTF-8 text", where=name, hint="encode it, for instance with base64") from None
    _ask(sandbox, protocol.INJECT_SECRET, {"name": name, "value": value})
    out.report.note(f"Set {name}")


@secret.command("rm")
@sandbox_option
@click.argument("name")
@speaking()
def rm(out: Output, sandbox: str | None, name: str) -> None:
    """Take secret NAME out of the sandbox. A process that has it already keeps what it read."""
    from stereos_guest import protocol

    _ask(sandbox, protocol.REMOVE_SECRET, {"name": name})
    out.report.note(f"Removed {name}")


def _ask(sandbox: str | None, kind: str, payload: Mapping[str, Any], answer: str = "ack") -> Mapping[str, Any]:
    import asyncio

    from stereo.sandbox.client import connected
    from stereo.sandbox.names import pick

    async def ask() -> Mapping[str, Any]:
        async with connected(pick(sandbox)) as control:
            return await control.request(kind, payload, answer=answer)

    return asyncio.run(ask())
