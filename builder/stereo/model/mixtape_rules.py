"""Faults of a mixtape that no single file shows: they come from what its files say together.

Each problem names the last file of the chain that has a part in it: that is where a person will want to change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from stereo.errors import Problem
from stereo.model.architecture import Architecture
from stereo.model.mixtape_chain import Source
from stereo.model.mixtape_file import MixtapeFile

if TYPE_CHECKING:
    from stereo.model.mixtape import Mixtape, Program


class _Chain:
    """Answers where something in the whole comes from."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.child = sources[-1].label
        self._sources = sources

    def last_with(self, has: Callable[[MixtapeFile], bool]) -> str:
        """The last file of which `has` is true."""
        return next((source.label for source in reversed(self._sources) if has(source.content)), self.child)

    def last_that_names(self, kind: str, package: str, architecture: Architecture) -> str:
        """The last file with that package."""

        def names(file: MixtapeFile) -> bool:
            tables = dict(file.agent.extra_packages.on(architecture).by_source())
            return any(spec.name == package for spec in tables[kind])

        return self.last_with(names)


def faults(mixtape: Mixtape, sources: Sequence[Source]) -> Iterator[Problem]:
    """All faults of `mixtape`, which was resolved from `sources` (first ancestor first)."""
    chain = _Chain(sources)
    if not mixtape.architectures:
        yield Problem(chain.child, "architectures", "is missing", 'say architectures = ["x86_64"], here or in a parent')
    yield from _keys_in_environment(mixtape, chain)
    yield from _files_that_are_folders(mixtape, chain)
    for architecture in mixtape.architectures:
        yield from _packages_twice(mixtape, chain, architecture)
        yield from _programs_twice(mixtape, chain, architecture)
        yield from _harness_without_program(mixtape, chain, architecture)


def _keys_in_environment(mixtape: Mixtape, chain: _Chain) -> Iterator[Problem]:
    for name in mixtape.environment:
        if name in mixtape.api_keys:
            where = chain.last_with(lambda file, name=name: name in file.agent.environment)  # type: ignore[misc]
            yield Problem(
                where,
                f"agent.environment.{name}",
                "is an API key, whose value comes at run time",
                "leave it to api_keys",
            )


def _files_that_are_folders(mixtape: Mixtape, chain: _Chain) -> Iterator[Problem]:
    for path in mixtape.home_files:
        for other in mixtape.home_files:
            if other.startswith(f"{path}/"):
                where = chain.last_with(lambda file, other=other: other in file.agent.home_files)  # type: ignore[misc]
                yield Problem(
                    where, "agent.home_files", f"{path!r} is a file, and also the folder of {other!r}", "rename one"
                )


def _packages_twice(mixtape: Mixtape, chain: _Chain, architecture: Architecture) -> Iterator[Problem]:
    for kind, specs in mixtape.extra_packages(architecture).by_source():
        for one, other in pairwise(specs):
            if one.name == other.name:
                where = chain.last_that_names(kind, one.name, architecture)
                yield Problem(
                    where,
                    f"agent.extra_packages.{kind}",
                    f"{one.name} stands twice for {architecture}",
                    "make it one entry",
                )


def _programs_twice(mixtape: Mixtape, chain: _Chain, architecture: Architecture) -> Iterator[Problem]:
    owners: dict[str, Program] = {}
    for program in mixtape.programs(architecture):
        owner = owners.setdefault(program.name, program)
        if owner.package != program.package or owner.source != program.source:
            where = chain.last_that_names(program.source, program.package, architecture)
            message = f"{program.package} and {owner.package} both bring the program {program.name!r}"
            yield Problem(where, f"agent.extra_packages.{program.source}", message, "leave it out of one's `programs`")


def _harness_without_program(mixtape: Mixtape, chain: _Chain, architecture: Architecture) -> Iterator[Problem]:
    wanted = mixtape.harness.program
    if wanted is not None and all(program.name != wanted for program in mixtape.programs(architecture)):
        where = chain.last_with(lambda file: file.harness is not None)
        message = f"{mixtape.harness} needs the program {wanted!r}, which no package has on {architecture}"
        yield Problem(where, "harness", message, f'name it in a package: programs = ["{wanted}"]')
