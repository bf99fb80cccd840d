"""What a lock file says: the exact bytes that an image is made of, and nothing about where they come from.

A lock is TOML with one package per line, sorted, so that an update is a readable diff. It holds names, versions, pool
paths, sizes and digests, never an address of a mirror or registry. This module parses hostile text and renders
canonical text; making and comparing locks is `inputs.lock`.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from stereo.errors import Problem, ProblemsError
from stereo.model.architecture import Architecture

MAX_TEXT = 16 * 1024 * 1024  # characters; a lock of a thousand packages has 300,000
MAX_BLOB = 8 * 1024**3  # bytes of a single package
_SECONDS_MAX = 1 << 36  # past the year 4000

Archive = Literal["main", "security"]

_SEGMENT = r"[A-Za-z0-9+_~%][A-Za-z0-9+._~%:-]*"  # no empty, ".", ".." or hidden part of a path
_NPM_NAME = r"(?:@[a-z0-9~-][a-z0-9._~-]*/)?[A-Za-z0-9~-][A-Za-z0-9._~-]*"


def _text(pattern: str, limit: int) -> Any:
    return StringConstraints(pattern=rf"\A(?:{pattern})\z", max_length=limit)


Sha256 = Annotated[str, _text(r"[0-9a-f]{64}", 64)]
Size = Annotated[int, Field(gt=0, le=MAX_BLOB)]
DebianName = Annotated[str, _text(r"[a-z0-9][a-z0-9+.-]+", 200)]  # Debian policy 5.6.1
DebianVersion = Annotated[str, _text(r"(?:[0-9]+:)?[0-9][A-Za-z0-9.+~-]*", 200)]  # Debian policy 5.6.12
PoolPath = Annotated[str, _text(rf"pool/(?:{_SEGMENT}/)+{_SEGMENT}\.deb", 400)]
NpmName = Annotated[str, _text(_NPM_NAME, 214)]
NpmVersion = Annotated[str, _text(r"[0-9]+\.[0-9]+\.[0-9]+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?", 200)]
NpmPath = Annotated[str, _text(rf"node_modules/{_NPM_NAME}(?:/node_modules/{_NPM_NAME})*", 1000)]
Integrity = Annotated[str, _text(r"sha512-[A-Za-z0-9+/]{86}==", 95)]
WheelName = Annotated[str, _text(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", 200)]
WheelVersion = Annotated[str, _text(r"[A-Za-z0-9.!+_]+", 200)]
WheelFile = Annotated[str, _text(r"[A-Za-z0-9][A-Za-z0-9._+!-]*\.whl", 400)]
Url = Annotated[str, _text(r"https?://[A-Za-z0-9][!#-&(-;=?-\[\]^_a-~]*", 2000)]  # no space, quote, angle, backslash
Date = Annotated[str, _text(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]Z", 20)]
PlainName = Annotated[str, _text(r"[a-z0-9][a-z0-9._-]*", 100)]
GroupName = Annotated[str, _text(r"[a-z][a-z0-9_]*", 40)]
Request = Annotated[str, _text(r"[!#-&(-\[\]^_a-~]+", 2000)]


def _no_dots(path: str) -> str:
    if any(part in (".", "..") for part in path.split("/")):
        raise ValueError("climbs out of its folder")
    return path


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Deb(_Row):
    """A Debian binary package. `path` is relative to the root of its archive; `size` is in bytes."""

    name: DebianName
    version: DebianVersion
    arch: Literal["amd64", "arm64", "all"]
    archive: Archive
    path: PoolPath
    size: Size
    sha256: Sha256

    @property
    def label(self) -> str:
        return f"{self.name} {self.version} ({self.arch})"


class NpmPackage(_Row):
    """A package of the npm registry. `path` is where npm would install it; `size` and `sha256` are the tarball's."""

    path: Annotated[NpmPath, AfterValidator(_no_dots)]
    name: Annotated[NpmName, AfterValidator(_no_dots)]
    version: NpmVersion
    integrity: Integrity
    size: Size
    sha256: Sha256

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version} (npm)"


class Wheel(_Row):
    """A wheel of the Python package index."""

    name: WheelName
    version: WheelVersion
    filename: WheelFile
    size: Size
    sha256: Sha256

    @property
    def label(self) -> str:
        return f"{self.name} {self.version} (wheel)"


class UrlFile(_Row):
    """A file whose address and digest the mixtape states itself."""

    url: Url
    size: Size
    sha256: Sha256

    @property
    def label(self) -> str:
        return self.url


class Suite(_Row):
    """A suite of the archive as its signed InRelease file described itself."""

    suite: PlainName
    archive: Archive
    date: Date


Item = Deb | NpmPackage | Wheel | UrlFile
_KINDS: Mapping[str, type[_Row]] = {"npm": NpmPackage, "wheels": Wheel, "urls": UrlFile}


class Lock(_Row):
    """A parsed lock.

    `epoch` is the newest date of the suites in seconds since 1970. `debian` holds .debs by group ("image", "initrd",
    "tools"), each group closed under dependencies. `requested` is what was asked for, by group and kind, so that a
    build can tell whether the lock still answers the mixtape.
    """

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    name: PlainName
    arch: Annotated[Architecture, Field(strict=False)]
    epoch: Annotated[int, Field(ge=0, le=_SECONDS_MAX)]
    requested: Mapping[GroupName, Annotated[tuple[Request, ...], Field(strict=False)]] = {}
    suites: Annotated[tuple[Suite, ...], Field(strict=False)] = ()
    debian: Mapping[GroupName, Annotated[tuple[Deb, ...], Field(strict=False)]] = {}
    npm: Annotated[tuple[NpmPackage, ...], Field(strict=False)] = ()
    wheels: Annotated[tuple[Wheel, ...], Field(strict=False)] = ()
    urls: Annotated[tuple[UrlFile, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _one_row_each(self) -> Lock:
        for group, debs in self.debian.items():
            _refuse_repeats(f"debian.{group}", (deb.name for deb in debs))
        _refuse_repeats("npm", (package.path for package in self.npm))
        _refuse_repeats("wheels", (wheel.filename for wheel in self.wheels))
        _refuse_repeats("urls", (file.url for file in self.urls))
        _refuse_repeats("suites", (suite.suite for suite in self.suites))
        return self

    @property
    def image(self) -> tuple[Deb, ...]:
        return self.group("image")

    @property
    def initrd(self) -> tuple[Deb, ...]:
        return self.group("initrd")

    @property
    def tools(self) -> tuple[Deb, ...]:
        return self.group("tools")

    def group(self, name: str) -> tuple[Deb, ...]:
        """The .debs of one group; empty if the lock has no such group."""
        return self.debian.get(name, ())

    def items(self) -> Iterator[Item]:
        """Everything to be had, each content once."""
        seen: set[str] = set()
        rows: Iterable[Item] = (
            *(deb for group in sorted(self.debian) for deb in self.debian[group]),
            *self.npm,
            *self.wheels,
            *self.urls,
        )
        for row in rows:
            if row.sha256 not in seen:
                seen.add(row.sha256)
                yield row

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical text, in hexadecimal."""
        return hashlib.sha256(render_lock(self).encode()).hexdigest()


def _refuse_repeats(key: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{key}: {name} is there twice")
        seen.add(name)


def parse_lock(text: str, file: str) -> Lock:
    """Read a lock; `file` is its name for messages. Raises ProblemsError with everything that is wrong."""
    hint = "locks are made by `stereo lock`, not by hand"
    if len(text) > MAX_TEXT:
        raise ProblemsError([Problem(file, "(whole file)", f"is larger than {MAX_TEXT} characters", hint)])
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProblemsError([Problem(file, "(whole file)", f"is not TOML: {_short(error)}", hint)]) from error
    if data.get("schema") != 1 or isinstance(data.get("schema"), bool):
        message = f"is {_short(data.get('schema'))}, this version of stereo reads 1"
        raise ProblemsError([Problem(file, "schema", message, "lock again, or use the version that wrote it")])
    try:
        return Lock.model_validate(data)
    except ValidationError as error:
        problems = [
            Problem(file, ".".join(map(str, fault["loc"])) or "(whole file)", _short(fault["msg"]), hint)
            for fault in error.errors(include_url=False, include_context=False, include_input=False)[:100]
        ]
        raise ProblemsError(problems) from error


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "…"


def render_lock(lock: Lock) -> str:
    """The canonical text: sorted, one package per line. `parse_lock(render_lock(x))` equals `sorted_lock(x)`."""
    lock = sorted_lock(lock)
    lines = [
        f"# The exact packages of {lock.name} for {lock.arch}.",
        f"# Made by `stereo lock {lock.name}`: review it, commit it, do not edit it.",
        "schema = 1",
        f'name = "{lock.name}"',
        f'arch = "{lock.arch}"',
        f"epoch = {lock.epoch}",
    ]
    lines += _array("suites", lock.suites)
    for key in _KINDS:
        lines += _array(key, getattr(lock, key))
    if lock.requested:
        lines += ["", "[requested]"]
        for group, wanted in lock.requested.items():
            lines += [f"{group} = [", *(f'  "{one}",' for one in wanted), "]"]
    if lock.debian:
        lines += ["", "[debian]"]
        for group, debs in lock.debian.items():
            lines += _array(group, debs, always=True)
    return "\n".join(lines) + "\n"


def _array(key: str, rows: Sequence[_Row], *, always: bool = False) -> list[str]:
    if not rows and not always:
        return []
    # Every string is held by its pattern to characters that TOML needs no escape for.
    lines = [
        "  { " + ", ".join(f"{k} = {v}" if isinstance(v, int) else f'{k} = "{v}"' for k, v in row) + " },"
        for row in rows
    ]
    return [f"{key} = [", *lines, "]"]


def sorted_lock(lock: Lock) -> Lock:
    """The same lock with groups and rows in canonical order."""
    return lock.model_copy(
        update={
            "requested": {group: tuple(sorted(set(lock.requested[group]))) for group in sorted(lock.requested)},
            "suites": tuple(sorted(lock.suites, key=lambda row: row.suite)),
            "debian": {
                group: tuple(sorted(lock.debian[group], key=lambda row: (row.name, row.arch)))
                for group in sorted(lock.debian)
            },
            "npm": tuple(sorted(lock.npm, key=lambda row: row.path)),
            "wheels": tuple(sorted(lock.wheels, key=lambda row: row.filename)),
            "urls": tuple(sorted(lock.urls, key=lambda row: row.url)),
        }
    )


def requested_as(
    groups: Mapping[str, Sequence[str]], npm: Sequence[str], pypi: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """What is asked for, in the form that a lock records as `requested`."""
    wanted = {**groups, "npm": npm, "pypi": pypi}
    return {key: tuple(sorted(set(names))) for key, names in sorted(wanted.items()) if names or key in groups}


def unanswered(
    lock: Lock,
    groups: Mapping[str, Sequence[str]],
    npm: Sequence[str] = (),
    pypi: Sequence[str] = (),
    urls: Sequence[tuple[str, str]] = (),
) -> list[str]:
    """In which ways a lock no longer answers a request, in words. Empty if it still does."""
    now, then = requested_as(groups, npm, pypi), lock.requested
    words = []
    for key in sorted({*now, *then}):
        wanted, had = set(now.get(key, ())), set(then.get(key, ()))
        words += [f"{key}: {name} is asked for, but not locked" for name in sorted(wanted - had)]
        words += [f"{key}: {name} is locked, but no longer asked for" for name in sorted(had - wanted)]
    wanted_files, had_files = set(urls), {(row.url, row.sha256) for row in lock.urls}
    words += [f"urls: {url} is asked for, but not locked" for url, _ in sorted(wanted_files - had_files)]
    words += [f"urls: {url} is locked, but no longer asked for" for url, _ in sorted(had_files - wanted_files)]
    return words
