"""What a single value of a jcard must look like, and what it becomes: paths that exist, variables that are set.

A value is checked together with its surroundings (the jcard's folder, the caller's environment), so that one run tells
of a folder that is missing and of a key that is mistyped alike. Values of secrets stand in no message.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf, ValidationInfo, WithJsonSchema

from stereo.model.document import fault, pattern, shown
from stereo.model.egress import Rule, parse_rule
from stereo.model.units import MIB, parse_duration, parse_size, size_text

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,40}$"
NAME_MEANING: Final = "lower-case letters, digits and '-', beginning with a letter or digit, at most 41"
WORKSPACE: Final = "/home/agent/workspace"
"""Where an agent works that has no share."""

_LONGEST_PROMPT = 100_000  # bytes: the kernel takes 128 KiB as one argument of a program (MAX_ARG_STRLEN)
_SHARE_IT = "let the agent read it from a share"
_MOUNT_THERE = "mount below /home/agent, or at /workspace"
_LONGEST_SECRET = 64 * 1024
_LONGEST_PATH = 1024
_LONGEST_PART = 255  # bytes (NAME_MAX)
_LONGEST_DURATION = 366 * 24 * 3600  # seconds, as in the guest
_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What the guest refuses to be covered by a mount: the system's own folders, with all below them.
_SYSTEM_FOLDERS = re.compile(r"/(bin|boot|dev|etc|lib[^/]*|nix|proc|root|run|sbin|state|sys|usr|var|verified)(/.*)?")


@dataclass(frozen=True)
class Surroundings:
    """Where a jcard is, and the variables of whoever reads it. The context of its validation."""

    folder: Path
    variables: Mapping[str, str]


def surroundings(info: ValidationInfo) -> Surroundings:
    """The context of a validation."""
    assert isinstance(info.context, Surroundings)
    return info.context


def expand_variables(text: str, variables: Mapping[str, str]) -> str:
    """`text` with each ${NAME} replaced; `$${` stands for `${`. Raises ValueError naming a variable that is not set."""

    def value(found: re.Match[str]) -> str:
        if found[0] == "$${":
            return "${"
        if not found[2] or not _VARIABLE.fullmatch(found[1]):
            raise fault("holds '${' without a variable's name and '}'", "'$${' stands for '${' itself")
        if found[1] not in variables:
            raise fault(f"the variable {found[1]} is not set", "export it and run again")
        return variables[found[1]]

    return _REFERENCE.sub(value, text)


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character, which no program takes")
    return text


def _expanded(value: object, info: ValidationInfo) -> str:
    """A text whose content stands in no message: it may be a secret."""
    if not isinstance(value, str):
        raise ValueError("must be a text in quotes")  # noqa: TRY004 - pydantic collects ValueErrors
    text = _no_nul(expand_variables(value, surroundings(info).variables))
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise fault("is not UTF-8", "give its variable another value") from None
    if size > _LONGEST_SECRET:
        raise ValueError(f"longer than {_LONGEST_SECRET // 1024} KiB")
    return text


def _file_name(name: str) -> str:
    if ".." in name or name.endswith((".", ".new", ".tmp")):
        raise ValueError("holds '..', or ends in '.', '.new' or '.tmp': the guest keeps it as a file")
    return name


def host_path(text: str, info: ValidationInfo) -> Path:
    """A path on the host: ${VAR} and ~ expanded, relative to the jcard."""
    around = surroundings(info)
    expanded = _no_nul(expand_variables(text, around.variables))
    if not expanded:
        raise fault("is empty", "give a path")
    if expanded == "~" or expanded.startswith("~/"):
        if not around.variables.get("HOME", "").startswith("/"):
            raise ValueError("begins with ~, and the variable HOME is not set")
        expanded = around.variables["HOME"] + expanded[1:]
    elif expanded.startswith("~"):
        raise fault("begins with somebody's ~, and only one's own is known", "write '~/...' or the whole path")
    return around.folder / expanded


def _host_folder(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str):
        raise ValueError("must be a path in quotes")  # noqa: TRY004 - pydantic collects ValueErrors
    path = host_path(value, info)
    try:
        status = path.stat()
        folder = path.resolve()
    except (OSError, RuntimeError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be used: {_reason(error)}"
        raise ValueError(f"{shown(str(path))} {reason}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise fault(f"{shown(str(path))} is no folder", "only folders can be shared")
    return folder


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "it leads nowhere"


@dataclass(frozen=True)
class PromptFile:
    """A prompt that was kept in a file."""

    path: Path
    text: str


def _prompt_file(value: object, info: ValidationInfo) -> PromptFile:
    if not isinstance(value, str):
        raise ValueError("must be a path in quotes")  # noqa: TRY004 - pydantic collects ValueErrors
    path = host_path(value, info)
    try:
        # Without O_NONBLOCK a FIFO of that name would hang us before fstat(2) can tell what it is.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError(f"{shown(str(path))} is no regular file")
            data = stream.read(_LONGEST_PROMPT + 1)
        text = data.decode("utf-8").strip()
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise ValueError(f"{shown(str(path))} {reason}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown(str(path))} is not UTF-8") from error
    if len(data) > _LONGEST_PROMPT:
        raise fault(f"{shown(str(path))} is longer than {_LONGEST_PROMPT} bytes", _SHARE_IT)
    if not text:
        raise ValueError(f"{shown(str(path))} is empty")
    return PromptFile(path, _no_nul(text))


def _prompt(text: str) -> str:
    if len(text.encode()) > _LONGEST_PROMPT:
        raise fault(f"longer than {_LONGEST_PROMPT} bytes", _SHARE_IT)
    return _no_nul(text)


def _guest_path(text: str) -> str:
    longest_part = max(len(part.encode()) for part in text.split("/"))
    if len(text) > _LONGEST_PATH or longest_part > _LONGEST_PART or not text.isprintable():
        raise ValueError(
            f"must be printable and at most {_LONGEST_PATH} characters, {_LONGEST_PART} bytes between two /"
        )
    if not text.startswith("/") or text != str(PurePosixPath(text)) or ".." in text.split("/") or text[:2] == "//":
        raise ValueError("must be a whole path in the guest, without '.', '..', '//' or a '/' at its end")
    return text


def _mount_point(text: str) -> str:
    path = _guest_path(text)
    if path in ("/", "/home", "/tmp") or _SYSTEM_FOLDERS.fullmatch(path):
        raise fault(f"{shown(path)} belongs to the guest's system", _MOUNT_THERE)
    if path.startswith("/home/") and path.split("/")[2] != "agent":
        raise fault(f"{shown(path)} is another user's", _MOUNT_THERE)
    return path


def _whole_mebibytes(size: int) -> int:
    """Disks and memory come in whole MiB: rounded up."""
    return -(-size // MIB) * MIB


def between(least: int, most: int) -> AfterValidator:
    """Bounds of a size, in bytes."""

    def check(size: int) -> int:
        if not least <= size <= most:
            raise ValueError(f"must be from {size_text(least)} to {size_text(most)}, not {size_text(size)}")
        return size

    return AfterValidator(check)


def _duration(value: object) -> float:
    seconds = parse_duration(value)
    if seconds > _LONGEST_DURATION:
        raise fault(f"longer than {_LONGEST_DURATION // 3600} hours", "leave it out")
    return seconds


def _not_zero(seconds: float) -> float:
    if seconds <= 0:
        raise fault("must be longer than nothing", "leave it out for no limit")
    return seconds


def _rule(value: object) -> Rule:
    if not isinstance(value, str):
        raise ValueError("must be a rule in quotes, such as 'example.com:443'")  # noqa: TRY004 - as above
    return _told(value)


def _told(text: str) -> Rule:
    try:
        return parse_rule(text)
    except ValueError as error:
        hint = "such as 'example.com', '*.example.com:443', '10.0.0.0/8', '[2001:db8::1]:8000-8100'"
        raise fault(f"{shown(text)} {error}", hint) from error


_TEXT = WithJsonSchema({"type": "string"})
Name = Annotated[str, pattern(NAME_PATTERN, NAME_MEANING)]
Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=int | str)]
WholeSize = Annotated[Size, AfterValidator(_whole_mebibytes)]
Duration = Annotated[float, BeforeValidator(_duration, json_schema_input_type=str)]
Limit = Annotated[Duration, AfterValidator(_not_zero)]
Variable = Annotated[
    str, pattern(r"^[A-Za-z_][A-Za-z0-9_]{0,99}$", "the name of an environment variable, such as 'OPENAI_API_KEY'")
]
SecretName = Annotated[
    str,
    pattern(
        r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$",
        "a variable's name, such as 'OPENAI_API_KEY', or a file's, of letters, digits and '._-'",
    ),
    AfterValidator(_file_name),
]
Expanded = Annotated[str, BeforeValidator(_expanded, json_schema_input_type=str)]
Argument = Annotated[str, AfterValidator(_prompt)]
Prompt = Annotated[str, AfterValidator(_prompt)]
PromptPath = Annotated[InstanceOf[PromptFile], BeforeValidator(_prompt_file), _TEXT]
HostFolder = Annotated[Path, BeforeValidator(_host_folder), _TEXT]
GuestPath = Annotated[str, AfterValidator(_guest_path)]
MountPoint = Annotated[str, AfterValidator(_mount_point)]
Port = Annotated[int, Field(ge=1, le=65535)]
EgressRule = Annotated[InstanceOf[Rule], BeforeValidator(_rule), _TEXT]
