"""What a single value of a mixtape must look like: names, versions, paths, addresses, lists of programs.

Three placeholders stand for the architecture's name, where a package is called or laid out differently on each:
`{arch}` (x86_64, aarch64), `{npm_arch}` (x64, arm64) and `{deb_arch}` (amd64, arm64).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, Strict

from stereo.model.architecture import Architecture
from stereo.model.document import pattern

Item = TypeVar("Item")
NAME_PATTERN = r"^[a-z][a-z0-9-]{0,30}$"
MOST_ITEMS = 500
_MOST_TEXT = 16 * 1024
_PLACEHOLDER = re.compile(r"\{[^{}]*\}|[{}]")
_PLACEHOLDERS = ("{arch}", "{npm_arch}", "{deb_arch}")


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


def one_line(text: str) -> str:
    """`text`. Raises ValueError for more than one line, and for blanks at its ends."""
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be one line of printable characters, without blanks at its ends")
    return text


def distinct(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """`items`. Raises ValueError if one of them stands there twice."""
    for index, item in enumerate(items):
        if item in items[:index]:
            raise ValueError(f"{item} stands here twice")
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
Line = Annotated[str, Field(max_length=1000), AfterValidator(one_line)]
Text = Annotated[str, Field(max_length=_MOST_TEXT)]
Architectures = Annotated[
    tuple[Annotated[Architecture, Strict(False)], ...], Field(min_length=1, max_length=2), AfterValidator(distinct)
]


def _programs_below(folder: str) -> Callable[[object], object]:
    """A list of names is short for a table from each name to the file of that name in `folder`."""

    def normal(value: object) -> object:
        if not isinstance(value, tuple):
            return value
        names = [name for name in value if isinstance(name, str)]
        if len(names) != len(value):
            raise ValueError("must be a list of program names, or a table from a program's name to its file")
        distinct(value)
        return {name: f"{folder}/{name}".lstrip("/") for name in names}

    return normal


ProgramTable = Annotated[dict[ProgramName, PackagePath], Field(max_length=MOST_ITEMS)]
_ProgramsAsWritten = tuple[ProgramName, ...] | ProgramTable
SystemPrograms = Annotated[
    ProgramTable, BeforeValidator(_programs_below("usr/bin"), json_schema_input_type=_ProgramsAsWritten)
]
PackagePrograms = Annotated[
    ProgramTable, BeforeValidator(_programs_below("bin"), json_schema_input_type=_ProgramsAsWritten)
]
FilePrograms = Annotated[ProgramTable, BeforeValidator(_programs_below(""), json_schema_input_type=_ProgramsAsWritten)]
