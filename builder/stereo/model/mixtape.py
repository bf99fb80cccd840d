"""A mixtape as the rest of the house sees it: its file, those that it extends, and the dev profile, made one.

A child's lists are appended to its parent's, without repeats, and its other values take the place of the parent's. So
does `architectures`, since a child may run on fewer machines; and a package that a child names again gets the programs
of both and the child's version.

`NAME-dev` is no file but NAME with the dev profile: the developer's key, tools to look inside, a serial console.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain as joined
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from stereo.errors import Problem, ProblemsError, UsageError
from stereo.model.architecture import Architecture
from stereo.model.document import json_schema, nearest
from stereo.model.mixtape_chain import DEV_SUFFIX, Library, Source
from stereo.model.mixtape_file import ExtraPackages, Harness, MixtapeFile, PackageSpec
from stereo.model.mixtape_rules import faults
from stereo.model.ssh_key import check_ssh_key

SSH_SERVER = "openssh-server"
DEV_PACKAGES = ("htop", "iproute2", "less", "lsof", "procps", "strace", "tcpdump", "vim-tiny")

Spec = TypeVar("Spec", bound=PackageSpec)
Item = TypeVar("Item")


@dataclass(frozen=True, order=True)
class Program:
    """One name on the agent's PATH. `file` is relative to its package's root, for Debian to the image's."""

    name: str
    source: str
    package: str
    file: str


class Mixtape(BaseModel):
    """Everything that was asked for. `base_name` is `name` without "-dev"; `lineage` names it and its ancestors.

    What is in `extra` may be for one architecture only and may hold placeholders; the methods give one architecture's
    view of it.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: str
    base_name: str
    dev: bool = False
    summary: str
    lineage: tuple[str, ...]
    architectures: tuple[Architecture, ...]
    harness: Harness
    api_keys: tuple[str, ...]
    system_packages: tuple[str, ...]
    extra: ExtraPackages
    environment: dict[str, str]
    home_files: dict[str, str]
    authorized_keys: tuple[str, ...]

    @property
    def ssh(self) -> bool:
        """Whether the SSH server starts at boot: only where somebody may log in with a key of the image."""
        return self.dev or bool(self.authorized_keys)

    def extra_packages(self, architecture: Architecture) -> ExtraPackages:
        """The agent's packages on `architecture`: placeholders filled in, sorted by name."""
        return self.extra.on(architecture)

    def debian_packages(self, architecture: Architecture) -> tuple[str, ...]:
        """Names of all Debian packages that the mixtape asks for, for the system and the agent, sorted."""
        names = {*self.system_packages, *(spec.name for spec in self.extra_packages(architecture).debian)}
        if self.ssh:
            names.add(SSH_SERVER)
        return tuple(sorted(names))

    def programs(self, architecture: Architecture) -> tuple[Program, ...]:
        """What stands on the agent's PATH, sorted by name."""
        return tuple(
            sorted(
                Program(name, source, spec.name, file)
                for source, specs in self.extra_packages(architecture).by_source()
                for spec in specs
                for name, file in spec.programs.items()
            )
        )


def _unique(items: Iterable[Item]) -> tuple[Item, ...]:
    return tuple(dict.fromkeys(items))


def _united(specs: Iterable[Spec]) -> tuple[Spec, ...]:
    """Packages of a chain, in order; one that comes again gets the programs of both and the later one's version."""
    found: dict[tuple[str, tuple[Architecture, ...] | None], Spec] = {}
    for spec in specs:
        identity = (spec.name, spec.architectures)
        earlier = found.get(identity)
        if earlier is not None:
            kept: dict[str, object] = {"programs": {**earlier.programs, **spec.programs}}
            if getattr(spec, "version", "") is None:
                kept["version"] = getattr(earlier, "version", None)
            spec = spec.model_copy(update=kept)
        found[identity] = spec
    return tuple(found.values())


def _resolve(sources: Sequence[Source]) -> Mixtape:
    """One mixtape from its chain of files, first ancestor first."""
    files = [source.content for source in sources]
    child = sources[-1]
    architectures = next((file.architectures for file in reversed(files) if file.architectures), ())
    harness = next((file.harness for file in reversed(files) if file.harness), Harness.NONE)
    extras = [file.agent.extra_packages for file in files]
    environment: dict[str, str] = {}
    home_files: dict[str, str] = {}
    for file in files:
        environment |= file.agent.environment
        home_files |= file.agent.home_files
    return Mixtape(
        name=child.name,
        base_name=child.name,
        summary=child.content.summary,
        lineage=tuple(source.name for source in reversed(sources)),
        architectures=architectures,
        harness=harness,
        api_keys=_unique(joined.from_iterable(file.api_keys for file in files)),
        system_packages=_unique(joined.from_iterable(file.packages.debian for file in files)),
        extra=ExtraPackages.model_construct(
            debian=_united(joined.from_iterable(extra.debian for extra in extras)),
            npm=_united(joined.from_iterable(extra.npm for extra in extras)),
            pypi=_united(joined.from_iterable(extra.pypi for extra in extras)),
            url=_united(joined.from_iterable(extra.url for extra in extras)),
        ),
        environment=dict(sorted(environment.items())),
        home_files=dict(sorted(home_files.items())),
        authorized_keys=_unique(joined.from_iterable(file.ssh.authorized_keys for file in files)),
    )


def with_dev_profile(mixtape: Mixtape, dev_key: str | None) -> Mixtape:
    """`mixtape` for its developer, who logs in with `dev_key` (a line of a .pub file).

    None leaves out the key, for those who ask only what is in the image. Raises UsageError for what is no public key.
    """
    try:
        keys = () if dev_key is None else (check_ssh_key(dev_key),)
    except ValueError as error:
        raise UsageError(f"the developer's key is unusable: {error}", where="ssh-key.pub") from error
    changed = {
        "name": mixtape.name + DEV_SUFFIX,
        "dev": True,
        "summary": f"{mixtape.summary} (dev profile)",
        "system_packages": _unique((*mixtape.system_packages, *DEV_PACKAGES)),
        "authorized_keys": _unique((*mixtape.authorized_keys, *keys)),
    }
    return mixtape.model_copy(update=changed)


def _load(library: Library, name: str) -> Mixtape:
    chain = library.chain(name)
    if chain.problems:
        raise ProblemsError(chain.problems)
    mixtape = _resolve(chain.sources)
    if problems := tuple(faults(mixtape, chain.sources)):
        raise ProblemsError(problems)
    return mixtape


def load_mixtape(name: str, folder: Path, *, dev_key: str | None, need_dev_key: bool = True) -> Mixtape:
    """The mixtape `name`, or `NAME-dev`, of the folder `mixtapes/`.

    `dev_key` is the line of the developer's .pub file. Without one, NAME-dev can be looked at and locked
    (`need_dev_key=False`) but not built. Raises UsageError when there is no such mixtape or no key, ProblemsError with
    all that is wrong with the mixtape and its ancestors.
    """
    library = Library(folder)
    base_name = name.removesuffix(DEV_SUFFIX)
    if base_name not in library.names:
        hint = nearest(base_name, library.names)
        raise UsageError(f"there is no mixtape {base_name!r}", where=str(folder), hint=hint)
    mixtape = _load(library, base_name)
    if name == base_name:
        return mixtape
    if dev_key is None and need_dev_key:
        raise UsageError(
            f"{name} needs the developer's SSH key, and there is none",
            hint="make one: ssh-keygen -t ed25519 -N '' -f ~/.config/stereos/ssh-key",
        )
    return with_dev_profile(mixtape, dev_key)


def list_mixtapes(folder: Path) -> tuple[Mixtape, ...]:
    """Every mixtape, by name, without dev profiles. Raises ProblemsError with the problems of all files."""
    mixtapes: list[Mixtape] = []
    problems: set[Problem] = set()
    library = Library(folder)
    for name in library.names:
        try:
            mixtapes.append(_load(library, name))
        except ProblemsError as error:
            problems.update(error.problems)
    if problems:
        raise ProblemsError(problems)
    return tuple(mixtapes)


def mixtape_schema() -> str:
    """The JSON Schema (draft 2020-12) of a mixtape file, as text that ends with a newline."""
    return json_schema(MixtapeFile, "stereo mixtape")
