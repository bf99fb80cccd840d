"""Arguments and options that several verbs have, and what they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from stereo.cli.places import DistType
from stereo.holding import holding
from stereo.paths import Checkout

Verb = TypeVar("Verb", bound=Callable[..., Any])
_BACKENDS = ("qemu", "applevirt")  # vm.backends.BackendName, likewise


class _ArchitectureType(click.Choice[str]):
    """A model.Architecture, spelled out: importing it would slow down every --help."""

    def __init__(self) -> None:
        super().__init__(("x86_64", "aarch64"))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            from stereo.model.architecture import Architecture

            with suppress(ValueError):  # macOS, Debian and Go have another name for it
                self.fail(f"{error.message} Did you mean {Architecture.from_machine(value)}?", param, ctx)
            raise


ARCHITECTURE = _ArchitectureType()


class Seconds(click.FloatRange):
    """From 0 to `most`; nan, which no bound of click's holds, is no time."""

    def __init__(self, most: float, *, min_open: bool = False) -> None:
        super().__init__(0, most, min_open=min_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail("nan is no number of seconds.", param, ctx)
        return seconds


def _complete_mixtape(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    names = sorted(path.stem for path in Checkout.containing_this_package().mixtapes.glob("*.toml"))
    return [name for base in names for name in (base, f"{base}-dev") if name.startswith(incomplete)]


def mixtape_argument(*, required: bool = True) -> Callable[[Verb], Verb]:
    """NAME, a mixtape or NAME-dev."""
    return click.argument("name", required=required, shell_complete=_complete_mixtape)


def arch_option(verb: Verb) -> Verb:
    """--arch"""
    text = "Architecture of the image; default: this machine's, if the mixtape has it."
    return click.option("--arch", type=ARCHITECTURE, help=text)(verb)


def guest_arch_option(verb: Verb) -> Verb:
    """--arch of a machine"""
    text = "Architecture of the dist in the local store; default: the sandbox's, else this machine's."
    return click.option("--arch", type=ARCHITECTURE, help=text)(verb)


def backend_option(verb: Verb) -> Verb:
    """--backend"""
    text = "What runs the machine; default: STEREO_BACKEND, else applevirt on a Mac with vfkit, else qemu."
    return click.option("--backend", type=click.Choice(_BACKENDS), help=text)(verb)


def locks_option(verb: Verb) -> Verb:
    """--locks"""
    text = "Folder of the locks; default: manifests/ of the checkout."
    return click.option("--locks", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help=text)(verb)


def mirror_option(verb: Verb) -> Verb:
    """--mirror"""
    text = "Debian mirror to use instead of those of the host's apt; may be given again, best first."
    return click.option("--mirror", multiple=True, metavar="URL", help=text)(verb)


def version_option(verb: Verb) -> Verb:
    """--version of an image"""
    text = "Version of a release, YYYY.MM.DD.N; default: STEREO_VERSION, else dev-REVISION."
    return click.option("--version", metavar="V", help=text)(verb)


def rebuild_options(verb: Verb) -> Verb:
    """--offline, --jobs, --mirror and --locks of what builds a dist again."""
    offline = click.option("--offline", is_flag=True, help="Rebuild with what the store holds alone.")
    jobs = click.option(
        "--jobs", type=click.IntRange(1, 256), metavar="N", help="Work at most on N things at once; default: cores."
    )
    return offline(jobs(mirror_option(locks_option(verb))))


def building_options(verb: Verb) -> Verb:
    """--offline and --output-dir of what builds dists."""
    verb = click.option(
        "--output-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("dist"),
        show_default=True,
        metavar="DIR",
        help="Where NAME/VERSION/ARCH is made.",
    )(verb)
    return click.option("--offline", is_flag=True, help="Use only what the store holds.")(verb)


def dist_argument(name: str) -> Callable[[Verb], Verb]:
    """A dist: DIR, or NAME[:VERSION] of the local store; see `places.DistType`."""
    return click.argument(name, type=DistType(), metavar="DIR|NAME[:VERSION]")


def keep(*dists: Path) -> None:
    """Let nobody remove `dists` from their places until the verb has ended. Raises StereoError if one is not there."""
    for dist in dists:
        click.get_current_context().with_resource(holding(dist))


def complete_key(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of the user's own keys."""
    from stereo.trust.keyfiles import key_names

    return [name for name in key_names() if name.startswith(incomplete)]


def _complete_sandbox(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from stereo.sandbox.state import all_folders

    return [folder.name for folder in all_folders() if folder.name.startswith(incomplete)]


def sandbox_argument(verb: Verb) -> Verb:
    """A sandbox, or nothing for that of the jcard.toml here, else the only one there is; see `sandbox.names.pick`."""
    return click.argument("sandbox", required=False, shell_complete=_complete_sandbox)(verb)


def sandbox_option(verb: Verb) -> Verb:
    """-s, --sandbox: the same for verbs whose arguments are something else."""
    text = "The sandbox; default: that of the jcard.toml here, else the only one there is."
    return click.option("-s", "--sandbox", metavar="NAME", help=text, shell_complete=_complete_sandbox)(verb)
