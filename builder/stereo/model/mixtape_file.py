"""What one file in mixtapes/ may say: the tables, the keys, and what a value must look like.

The models here are the schema, for the parser and for editors alike. What several files say together (inheritance, the
dev profile, faults that show only in the whole) is in mixtape.py.

Three placeholders stand for the architecture's name, where a package is called or laid out differently on each:
`{arch}` (x86_64, aarch64), `{npm_arch}` (x64, arm64) and `{deb_arch}` (amd64, arm64).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, model_validator

from stereo.model.architecture import Architecture
from stereo.model.document import pattern
from stereo.model.ssh_key import check_ssh_key

NAME_PATTERN = r"^[a-z][a-z0-9-]{0,30}$"
_MOST_ITEMS = 500
_MOST_TEXT = 16 * 1024
_PLACEHOLDER = re.compile(r"\{[^{}]*\}|[{}]")
_PLACEHOLDERS = ("{arch}", "{npm_arch}", "{deb_arch}")
# A variable that decides what runs, or as whom, belongs to the system and not to a mixtape.
_SYSTEM_VARIABLES = frozenset({"PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "IFS", "ENV", "BASH_ENV"})
SECRET_VARIABLE = re.compile(r"(_|^)(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$")


def expand(text: str, architecture: Architecture) -> str:
    """`text` with the placeholders replaced by what `architecture` is called."""
    names = (architecture.value, architecture.npm, architecture.debian)
    for placeholder, name in zip(_PLACEHOLDERS, names, strict=True):
        text = text.replace(placeholder, name)
    return text


def _placeholders(text: str) -> str:
    for found in _PLACEHOLDER.findall(text):
        if found not in _PLACEHOLDERS:
            raise ValueError(f"{found} is no placeholder: known are {', '.join(_PLACEHOLDERS)}")
    return text


def _plain_path(text: str) -> str:
    if any(part in ("", ".", "..") for part in text.split("/")):
        raise ValueError("must be a plain relative path, without '.', '..' or a leading or trailing '/'")
    return text


def _one_line(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be one line of printable characters, without blanks at its ends")
    return text


def _distinct(items: tuple[Any, ...]) -> tuple[Any, ...]:
    seen = []
    for item in items:
        identity = (item.name, item.architectures) if isinstance(item, PackageSpec) else item
        if identity in seen:
            raise ValueError(f"{getattr(item, 'name', item)} stands here twice")
        seen.append(identity)
    return items


MixtapeName = Annotated[
    str, pattern(NAME_PATTERN, "lower-case letters, digits and '-', beginning with a letter, at most 31")
]
DebianName = Annotated[
    str, pattern(r"^[a-z0-9][a-z0-9+.-]{1,99}$", "a Debian package name: lower-case letters, digits, '+', '-', '.'")
]
NpmName = Annotated[
    str,
    pattern(
        r"^(@[a-z0-9{][a-z0-9{}._-]{0,99}/)?[a-z0-9{][a-z0-9{}._-]{0,99}$",
        "an npm package name, such as 'opencode-ai' or '@openai/codex'",
    ),
    AfterValidator(_placeholders),
]
NpmVersion = Annotated[
    str,
    pattern(
        r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}(-[0-9A-Za-z{][0-9A-Za-z{}_.-]{0,99})?$",
        "one exact version, such as '1.2.3'; leave it out and the lock takes the latest",
    ),
    AfterValidator(_placeholders),
]
PypiName = Annotated[
    str,
    pattern(
        r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?$", "a PyPI project name: letters, digits, and '._-' inside"
    ),
]
PypiVersion = Annotated[
    str,
    pattern(
        r"^[0-9][0-9A-Za-z.!+]{0,63}$", "one exact version, such as '1.2.3'; leave it out and the lock takes the latest"
    ),
]
Sha256 = Annotated[str, pattern(r"^[0-9a-f]{64}$", "64 lower-case hexadecimal digits, as `sha256sum` prints")]
Url = Annotated[
    str,
    pattern(r"^https://[A-Za-z0-9.-]+(:[0-9]{1,5})?/[!-~]{1,1999}$", "an https:// address of one file"),
    AfterValidator(_placeholders),
]
ProgramName = Annotated[
    str, pattern(r"^(\[|[A-Za-z0-9_][A-Za-z0-9._+-]{0,62})$", "a program's name, without a folder, such as 'rg'")
]
PackagePath = Annotated[
    str,
    pattern(
        r"^[A-Za-z0-9@{._][A-Za-z0-9@{}._+\[/-]{0,254}$",
        "a path in the package, relative to its root, such as 'bin/opencode'",
    ),
    AfterValidator(_plain_path),
    AfterValidator(_placeholders),
]
HomePath = Annotated[
    str,
    pattern(
        r"^[A-Za-z0-9._][A-Za-z0-9._/-]{0,254}$", "a path below the agent's home, such as '.config/tool/config.json'"
    ),
    AfterValidator(_plain_path),
]
KeyVariable = Annotated[
    str, pattern(r"^[A-Z][A-Z0-9_]{0,62}$", "the name of an environment variable, such as 'OPENAI_API_KEY'")
]
Variable = Annotated[
    str, pattern(r"^[A-Za-z_][A-Za-z0-9_]{0,62}$", "the name of an environment variable, such as 'DISABLE_AUTOUPDATER'")
]
Line = Annotated[str, Field(max_length=1000), AfterValidator(_one_line)]
Text = Annotated[str, Field(max_length=_MOST_TEXT)]
Architectures = Annotated[
    tuple[Annotated[Architecture, Strict(False)], ...], Field(min_length=1, max_length=2), AfterValidator(_distinct)
]


def _programs_below(folder: str) -> Callable[[object], object]:
    """A list of names is short for a table from each name to the file of that name in `folder`."""

    def normal(value: object) -> object:
        if not isinstance(value, tuple):
            return value
        names = [name for name in value if isinstance(name, str)]
        if len(names) != len(value):
            raise ValueError("must be a list of program names, or a table from a program's name to its file")
        _distinct(value)
        return {name: f"{folder}/{name}".lstrip("/") for name in names}

    return normal


ProgramTable = Annotated[dict[ProgramName, PackagePath], Field(max_length=_MOST_ITEMS)]
_ProgramsAsWritten = tuple[ProgramName, ...] | ProgramTable
SystemPrograms = Annotated[
    ProgramTable, BeforeValidator(_programs_below("usr/bin"), json_schema_input_type=_ProgramsAsWritten)
]
PackagePrograms = Annotated[
    ProgramTable, BeforeValidator(_programs_below("bin"), json_schema_input_type=_ProgramsAsWritten)
]
FilePrograms = Annotated[ProgramTable, BeforeValidator(_programs_below(""), json_schema_input_type=_ProgramsAsWritten)]


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
_Items = Field(max_length=_MOST_ITEMS)


_Spec = TypeVar("_Spec", bound=PackageSpec)


def _on(specs: Sequence[_Spec], architecture: Architecture) -> tuple[_Spec, ...]:
    here = (spec.on(architecture) for spec in specs)
    return tuple(sorted((spec for spec in here if spec is not None), key=lambda spec: spec.name))


class ExtraPackages(_Table):
    """What the agent gets beyond the bare system, by source."""

    debian: Annotated[tuple[_DebianItem, ...], _Items, AfterValidator(_distinct)] = ()
    npm: Annotated[tuple[NpmSpec, ...], _Items, AfterValidator(_distinct)] = ()
    pypi: Annotated[tuple[PypiSpec, ...], _Items, AfterValidator(_distinct)] = ()
    url: Annotated[tuple[UrlSpec, ...], _Items, AfterValidator(_distinct)] = ()

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

    debian: Annotated[tuple[DebianName, ...], _Items, AfterValidator(_distinct)] = ()


class SshTable(_Table):
    """Who may log in. Without a key the image has no SSH server at all."""

    authorized_keys: Annotated[
        tuple[Annotated[str, AfterValidator(check_ssh_key)], ...],
        Field(max_length=100, description="public keys for the users admin and agent, one line each"),
    ] = ()


class MixtapeFile(_Table):
    """One file of mixtapes/."""

    summary: Annotated[
        str, Field(min_length=1, max_length=120, description="what it is, in one line"), AfterValidator(_one_line)
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
        AfterValidator(_distinct),
    ] = ()
    packages: SystemPackages = SystemPackages()
    agent: AgentTable = AgentTable()
    ssh: SshTable = SshTable()
