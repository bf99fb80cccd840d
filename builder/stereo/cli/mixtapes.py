"""`stereo mixtapes`, `stereo show` and `stereo schema`: what can be built, and what a mixtape asks for."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import click

from stereo.cli.options import arch_option, mixtape_argument
from stereo.cli.output import Output, columns, speaking
from stereo.errors import UsageError
from stereo.paths import Checkout

if TYPE_CHECKING:
    from stereo.model.architecture import Architecture
    from stereo.model.mixtape import Mixtape

_WIDTH = 96
_INDENT = 20


@click.command(
    epilog="""\b
Examples:
  stereo mixtapes
  stereo mixtapes --json | jq -r '.[].name'

Every NAME is also there as NAME-dev: with your SSH key, debug tools and a serial console."""
)
@speaking(as_json=True)
def mixtapes(out: Output) -> None:
    """List the mixtapes. What was built of them is listed by `stereo dists`."""
    from stereo.model.mixtape import list_mixtapes

    found = list_mixtapes(Checkout.containing_this_package().mixtapes)
    rows = [("NAME", "HARNESS", "ARCHITECTURES", "SUMMARY")]
    rows += [(each.name, each.harness.value, ",".join(each.architectures), each.summary) for each in found]
    keys = ("name", "harness", "architectures", "summary", "api_keys")
    out.result([{key: each.model_dump(mode="json")[key] for key in keys} for each in found], "\n".join(columns(rows)))


@click.command(
    short_help="Show what a mixtape asks for.",
    epilog="""\b
Examples:
  stereo show opencode-mixtape
  stereo show coder --json | jq -r '.programs[].name'""",
)
@mixtape_argument()
@arch_option
@speaking(as_json=True)
def show(out: Output, name: str, arch: str | None) -> None:
    """Show what a mixtape asks for, with all that it inherits."""
    from stereo.build.defaults import chosen_architecture, dev_key
    from stereo.model.mixtape import load_mixtape

    folder = Checkout.containing_this_package().mixtapes
    mixtape = load_mixtape(name, folder, dev_key=dev_key(), need_dev_key=False)
    architecture = chosen_architecture(mixtape, arch)
    out.result(_as_data(mixtape, architecture), "\n".join(_as_lines(mixtape, architecture)))


def _as_data(mixtape: Mixtape, architecture: Architecture) -> dict[str, Any]:
    packages = mixtape.extra_packages(architecture)
    return {
        **mixtape.model_dump(mode="json", exclude={"extra", "base_name"}),
        "arch": architecture.value,
        "agent_packages": {
            source: [spec.model_dump(mode="json", exclude={"architectures", "programs"}) for spec in specs]
            for source, specs in packages.by_source()
        },
        "programs": [vars(program) for program in mixtape.programs(architecture)],
    }


def _as_lines(mixtape: Mixtape, architecture: Architecture) -> Iterator[str]:
    yield f"{mixtape.name}: {mixtape.summary}"
    yield from _entry("files", " <- ".join(f"mixtapes/{name}.toml" for name in mixtape.lineage))
    yield from _entry("architectures", ", ".join(mixtape.architectures))
    yield from _entry("harness", mixtape.harness.value)
    yield from _entry("API keys", ", ".join(mixtape.api_keys))
    yield from _entry("system packages", " ".join(mixtape.system_packages))
    for source, specs in mixtape.extra_packages(architecture).by_source():
        yield from _entry(f"from {source}", " ".join(getattr(spec, "requirement", spec.name) for spec in specs))
    yield from _entry("programs", " ".join(program.name for program in mixtape.programs(architecture)))
    yield from _entry("environment", " ".join(f"{key}={value}" for key, value in mixtape.environment.items()))
    yield from _entry("home files", " ".join(mixtape.home_files))
    if mixtape.ssh:
        yield from _entry("SSH keys", str(len(mixtape.authorized_keys)))
    if mixtape.dev:
        yield from _entry("dev profile", "yes: never a release")


def _entry(label: str, text: str) -> Iterator[str]:
    indent = " " * _INDENT
    lines = wrap(text, _WIDTH - _INDENT, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines):
        yield (f"  {label}".ljust(_INDENT) if number == 0 else indent) + line


@click.command(
    short_help="Print the JSON Schema of a file format.",
    epilog="""\b
Examples:
  stereo schema mixtape > mixtapes/mixtape.schema.json
  stereo schema jcard > jcard.schema.json
  stereo schema jcard --markdown > docs/jcard.md
  stereo schema policy > policy.schema.json""",
)
@click.argument("what", metavar="KIND", type=click.Choice(["mixtape", "jcard", "policy"]))
@click.option(
    "--markdown", is_flag=True, help="For jcard and policy: print the page of documentation that says the same."
)
@speaking(as_json=True)  # a schema is JSON with or without --json
def schema(out: Output, what: str, markdown: bool) -> None:
    """Print the JSON Schema of a file format, for editors and other tools."""
    if what == "mixtape":
        if markdown:
            raise UsageError("the page on mixtapes is written by hand", where="--markdown", hint="docs/mixtapes.md")
        from stereo.model.mixtape import mixtape_schema

        click.echo(mixtape_schema(), nl=False)
        return
    if what == "policy":
        from stereo.trust.policy import policy_schema
        from stereo.trust.policy_page import policy_page

        click.echo(policy_page() if markdown else policy_schema(), nl=False)
        return
    from stereo.model.jcard import jcard_schema
    from stereo.model.jcard_page import jcard_page

    click.echo(jcard_page() if markdown else jcard_schema(), nl=False)
