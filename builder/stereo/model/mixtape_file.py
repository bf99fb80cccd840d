"""What one file in mixtapes/ may say: the tables and their keys. What their values look like is in mixtape_values.py.

The models here are the schema, for the parser and for editors alike. What several files say together (inheritance, the
dev profile, faults that show only in the whole) is in mixtape.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, model_validator

from stereo.model.architecture import Architecture
from stereo.model.mixtape_values import (
    MOST_ITEMS,
    Architectures,
    DebianName,
    FilePrograms,
    HomePath,
    KeyVariable,
    Line,
    MixtapeName,
    NpmName,
    NpmVersion,
    PackagePrograms,
    ProgramName,
    PypiName,
    PypiVersion,
    Sha256,
    SystemPrograms,
    Text,
    Url,
    Variable,
    distinct,
    expand,
    one_line,
)
from stereo.model.ssh_key import check_ssh_key

# A variable that decides what runs, or as whom, belongs to the system and not to a mixtape.
_SYSTEM_VARIABLES = frozenset({"PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "IFS", "ENV", "BASH_ENV"})
SECRET_VARIABLE = re.compile(r"(_|^)(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$")


class Harness(StrEnum):
    """The agent program that a mixtape is about. `none` brings tools only, `custom` a program called `agent`."""

    OPENCODE = "opencode"
    CLAUDE_CODE = "claude-code"
    GEMINI_CLI = "gemini-cli"
    CODEX = "codex"
    CUSTOM = "custom"
    NONE = "none"

    @property
    def program(self) -> str | None:
        """The name under which the harness stands on the agent's PATH."""
        named = {"claude-code": "claude", "gemini-cli": "gemini", "custom": "agent", "none": None}
        return named.get(self.value, self.value)


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class PackageSpec(_Table):
    """What the sources of packages have in common."""

    name: str
    programs: Mapping[str, str] = {}
    architectures: Annotated[Architectures | None, Field(description="only on these; left out: on all")] = None

    def on(self, architecture: Architecture) -> Self | None:
        """This package as it is called and laid out on `architecture`, or None when it is not for it."""
        if self.architectures is not None and architecture not in self.architectures:
            return None
        filled: dict[str, object] = {
            key: expand(value, architecture)
            for key in ("name", "version", "url")
            if isinstance(value := getattr(self, key, None), str)
        }
        programs = {name: expand(file, architecture) for name, file in sorted(self.programs.items())}
        return self.model_copy(update={**filled, "programs": programs, "architectures": None})


class DebianSpec(PackageSpec):
    """A Debian package for the agent. Its programs are files below the root of the image."""

    name: Annotated[
        DebianName, Field(description="package name; a plain string is short for a package without programs")
    ]
    programs: Annotated[
        SystemPrograms, Field(description="programs for the agent's PATH; a list means usr/bin/NAME")
    ] = {}


class NpmSpec(PackageSpec):
    """A package of the npm registry, with what it requires. Its optional dependencies are not followed."""

    name: NpmName
    version: Annotated[NpmVersion | None, Field(description="exact version; left out, the lock takes the latest")] = (
        None
    )
    programs: Annotated[PackagePrograms, Field(description="programs for the agent's PATH; a list means bin/NAME")] = {}

    @property
    def requirement(self) -> str:
        """NAME or NAME@VERSION, as npm writes it."""
        return self.name if self.version is None else f"{self.name}@{self.version}"


class PypiSpec(PackageSpec):
    """A project of PyPI, installed from wheels together with what it requires, in an environment of its own."""

    name: PypiName
    version: Annotated[PypiVersion | None, Field(description="exact version; left out, the lock takes the latest")] = (
        None
    )
    programs: Annotated[PackagePrograms, Field(description="programs for the agent's PATH; a list means bin/NAME")] = {}

    @property
    def requirement(self) -> str:
        """NAME or NAME==VERSION, as pip writes it."""
        return self.name if self.version is None else f"{self.name}=={self.version}"


class Archive(StrEnum):
    """How a downloaded file is packed. `none`: the file is the program."""

    NONE = "none"
    TAR = "tar"
    ZIP = "zip"


class UrlSpec(PackageSpec):
    """A file from the web, known by its digest."""

    name: Annotated[ProgramName, Field(description="what to call it in messages and in the image")]
    url: Url
    sha256: Sha256
    archive: Annotated[Archive, Strict(False), Field(description="none, tar (also compressed) or zip")] = Archive.NONE
    programs: Annotated[
        FilePrograms, Field(description="programs for the agent's PATH and their file in the archive")
    ] = {}

    @model_validator(mode="after")
    def _bare_file_is_one_program(self) -> Self:
        if self.archive is Archive.NONE and len(self.programs) != 1:
            raise ValueError(
                "a file that is no archive is exactly one program: name it in `programs`, or say `archive`"
            )
        return self


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


_DebianItem = Annotated[DebianSpec, BeforeValidator(_named, json_schema_input_type=DebianName | DebianSpec)]
_Items = Field(max_length=MOST_ITEMS)


_Spec = TypeVar("_Spec", bound=PackageSpec)


def _on(specs: Sequence[_Spec], architecture: Architecture) -> tuple[_Spec, ...]:
    here = (spec.on(architecture) for spec in specs)
    return tuple(sorted((spec for spec in here if spec is not None), key=lambda spec: spec.name))


def _apart(specs: tuple[_Spec, ...]) -> tuple[_Spec, ...]:
    """A package may stand there twice if it is for other architectures each time."""
    seen: set[tuple[str, object]] = set()
    for spec in specs:
        if (spec.name, spec.architectures) in seen:
            raise ValueError(f"{spec.name} stands here twice")
        seen.add((spec.name, spec.architectures))
    return specs


class ExtraPackages(_Table):
    """What the agent gets beyond the bare system, by source."""

    debian: Annotated[tuple[_DebianItem, ...], _Items, AfterValidator(_apart)] = ()
    npm: Annotated[tuple[NpmSpec, ...], _Items, AfterValidator(_apart)] = ()
    pypi: Annotated[tuple[PypiSpec, ...], _Items, AfterValidator(_apart)] = ()
    url: Annotated[tuple[UrlSpec, ...], _Items, AfterValidator(_apart)] = ()

    def by_source(self) -> tuple[tuple[str, Sequence[PackageSpec]], ...]:
        """The tables with their names."""
        return ("debian", self.debian), ("npm", self.npm), ("pypi", self.pypi), ("url", self.url)

    def on(self, architecture: Architecture) -> ExtraPackages:
        """What there is on `architecture`, as it is called there, sorted by name."""
        return ExtraPackages.model_construct(
            debian=_on(self.debian, architecture),
            npm=_on(self.npm, architecture),
            pypi=_on(self.pypi, architecture),
            url=_on(self.url, architecture),
        )


def _agent_variables(variables: Mapping[str, str]) -> Mapping[str, str]:
    for name in variables:
        if name in _SYSTEM_VARIABLES or name.startswith("LD_"):
            raise ValueError(f"{name} belongs to the system: the agent's PATH is made from `programs`")
        if SECRET_VARIABLE.search(name):
            raise ValueError(f"{name} looks like a secret, which has no place in an image: name it in api_keys instead")
    return variables


class AgentTable(_Table):
    """What the user `agent` finds."""

    extra_packages: ExtraPackages = ExtraPackages()
    environment: Annotated[
        dict[Variable, Line],
        Field(max_length=100, description="variables of every process of the agent"),
        AfterValidator(_agent_variables),
    ] = {}
    home_files: Annotated[
        dict[HomePath, Text], Field(max_length=100, description="files of a fresh home: path below /home/agent to text")
    ] = {}


class SystemPackages(_Table):
    """Packages of the system itself: not on the agent's PATH."""

    debian: Annotated[tuple[DebianName, ...], _Items, AfterValidator(distinct)] = ()


class SshTable(_Table):
    """Who may log in. Without a key the image has no SSH server at all."""

    authorized_keys: Annotated[
        tuple[Annotated[str, AfterValidator(check_ssh_key)], ...],
        Field(max_length=100, description="public keys for the users admin and agent, one line each"),
    ] = ()


class MixtapeFile(_Table):
    """One file of mixtapes/."""

    summary: Annotated[
        str, Field(min_length=1, max_length=120, description="what it is, in one line"), AfterValidator(one_line)
    ]
    extends: Annotated[MixtapeName | None, Field(description="the mixtape that this one builds upon")] = None
    architectures: Annotated[
        Architectures | None, Field(description="what it is built for; left out: as its parent")
    ] = None
    harness: Annotated[
        Harness | None, Strict(False), Field(description="the agent program it is about; left out: as its parent")
    ] = None
    api_keys: Annotated[
        tuple[KeyVariable, ...],
        _Items,
        Field(description="variables that its programs read keys from"),
        AfterValidator(distinct),
    ] = ()
    packages: SystemPackages = SystemPackages()
    agent: AgentTable = AgentTable()
    ssh: SshTable = SshTable()
