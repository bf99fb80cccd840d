"""A policy: whose statements are believed, about which mixtapes, and how many of each kind a dist needs.

The models are the schema, for the parser, for editors and for docs/policy.md alike. A policy is read whole, with the
public keys that it names, and one run tells all that is wrong with it: who is believed must not hang on a guess.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    Strict,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from stereo.errors import StereoError, UsageError
from stereo.model.document import (
    MOST_BYTES,
    FaultsError,
    Location,
    fault,
    json_schema,
    parse_toml,
    pattern,
    shown,
    validate,
)
from stereo.model.units import parse_age
from stereo.trust.keyfiles import load_certificate, load_public
from stereo.trust.keys import PublicKey

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"
EVERY_KEY = "docs/policy.md has every key"
EVERYTHING = "*"
_MOST_KEYS = 256
_MOST_REVOKED = 4096
_MOST_WANTED = 16
_PEM = "-----BEGIN "
_STRING = WithJsonSchema({"type": "string"})


class Kind(StrEnum):
    """What a statement says: whose release this is, what it was made from, that it came out again bit for bit."""

    RELEASE = "release"
    PROVENANCE = "provenance"
    REBUILD = "rebuild"


class Table(BaseModel):
    """What all tables of a policy have in common: nothing is guessed, nothing is ignored, nothing changes."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


def _public_key(value: object, info: ValidationInfo) -> PublicKey:
    if isinstance(value, PublicKey):
        return value
    text = _text(value)
    hint = "name the .pub file that `stereo keygen` made, or write its lines here between '''"
    try:
        return PublicKey(text.encode(), "this text") if _PEM in text else load_public(_path(text, info))
    except StereoError as error:
        raise fault(f"{shown(error.where)} {error.what}", error.hint or hint) from error


def _certificate(value: object, info: ValidationInfo) -> bytes:
    try:
        return load_certificate(_path(_text(value), info))
    except StereoError as error:
        raise fault(
            f"{shown(error.where)} {error.what}", error.hint or "name the .gpg file that `stereo keygen` made"
        ) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text in quotes")  # noqa: TRY004 - pydantic collects ValueErrors
    return value


def _path(text: str, info: ValidationInfo) -> Path:
    """A path as seen from the policy, `~` expanded."""
    assert isinstance(info.context, Path)
    try:
        if "\0" not in text:
            return info.context / Path(text).expanduser()
    except RuntimeError:  # nobody's home
        pass
    raise ValueError(f"{shown(text)} is no path")


def _moment(value: object, *, last: bool) -> datetime:
    """A date means its whole day, so it is its first or its last moment."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise fault("does not say in which time zone", "write 2026-01-31T12:00:00Z, or the date alone")
        try:
            return value.astimezone(UTC)
        except OverflowError as error:  # at either end of the calendar
            raise fault("has no time in UTC", "write 2026-01-31T12:00:00Z, or the date alone") from error
    if isinstance(value, date):
        return datetime.combine(value, time.max if last else time.min, UTC)
    raise fault(f"must be a date, not {shown(value)}", "write 2026-01-31 or 2026-01-31T12:00:00Z, without quotes")


def _first_moment(value: object) -> datetime:
    return _moment(value, last=False)


def _last_moment(value: object) -> datetime:
    return _moment(value, last=True)


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    for value, times in Counter(values).items():
        if times > 1:
            raise fault(f"names {shown(str(value))} more than once", "once is enough")
    return values


_Name = Annotated[str, pattern(NAME_PATTERN, "letters, digits, '.', '_', '@' and '-', at most 64")]
_Mixtape = Annotated[str, pattern(r"^(\*|[a-z0-9][a-z0-9._-]{0,63})$", "the name of a mixtape, or '*' for all")]
_Number = Annotated[int, Field(ge=0, le=_MOST_WANTED)]


class Key(Table):
    """Somebody who is believed."""

    name: Annotated[_Name, Field(description="whose key it is, for messages")]
    public_key: Annotated[
        InstanceOf[PublicKey],
        BeforeValidator(_public_key),
        _STRING,
        Field(description="the `.pub` file of the key, relative to the policy, or its text"),
    ]
    openpgp: Annotated[
        bytes | None,
        BeforeValidator(_certificate),
        _STRING,
        Field(
            description="the `.gpg` file that was made with it, relative to the policy: `SHA256SUMS.gpg` is checked too"
        ),
    ] = None
    roles: Annotated[
        tuple[Annotated[Kind, Strict(False)], ...],
        Field(min_length=1, description="which statements of it count: `release`, `provenance`, `rebuild`"),
        AfterValidator(_distinct),
    ]
    mixtapes: Annotated[
        tuple[_Mixtape, ...],
        Field(min_length=1, max_length=1000, description="about which mixtapes it is believed; `*`: all"),
        AfterValidator(_distinct),
    ] = (EVERYTHING,)
    not_before: Annotated[
        datetime | None,
        BeforeValidator(_first_moment),
        _STRING,
        Field(description="a date: what it says it signed earlier does not count"),
    ] = None
    not_after: Annotated[
        datetime | None,
        BeforeValidator(_last_moment),
        _STRING,
        Field(description="a date: what it says it signed later does not count; a stolen key belongs to `revoked`"),
    ] = None

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Self:
        if self.not_before and self.not_after and self.not_after < self.not_before:
            raise FaultsError([(("not_after",), "lies before not_before", "exchange the two")])
        return self

    def speaks_of(self, mixtape: str) -> bool:
        """Whether it is believed about this mixtape."""
        return EVERYTHING in self.mixtapes or mixtape in self.mixtapes


class Revoked(Table):
    """A key that is believed no more, whatever it signed and when, or a single statement that was taken back."""

    key: Annotated[
        str | None,
        pattern(r"^[0-9a-f]{64}$", "the 64 digits of a key's id, as `stereo verify --json` shows them"),
        Field(description="the id of a key: no statement of it counts"),
    ] = None
    statement: Annotated[
        str | None,
        pattern(
            r"^sha256:[0-9a-f]{64}$", "'sha256:' and the digest of the statement, as `stereo verify --json` shows it"
        ),
        Field(description="the digest of one statement, as `sha256:HEX`: it does not count"),
    ] = None
    reason: Annotated[
        str | None,
        pattern(r"^[^\x00-\x1f\x7f-\x9f]{1,200}$", "one line of at most 200 characters"),
        Field(description="why, for messages"),
    ] = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.key is None) == (self.statement is None):
            raise fault("must have one of `key` and `statement`", "write one [[revoked]] for each that is revoked")
        return self


class Require(Table):
    """How many different keys must say so before a dist is believed."""

    release: Annotated[_Number, Field(description="keys that signed the release")] = 1
    provenance: Annotated[_Number, Field(description="keys that signed what it was made from")] = 1
    rebuilders: Annotated[_Number, Field(description="keys that rebuilt it and got the same bytes")] = 0
    max_age: Annotated[
        timedelta | None,
        BeforeValidator(parse_age),
        _STRING,
        Field(description="statements that are older do not count, such as `400d`; default: any age"),
    ] = None
    builder_ids: Annotated[
        tuple[Annotated[str, pattern(r"^[!-~]{1,512}$", "a URI")], ...] | None,
        Field(
            min_length=1, max_length=256, description="who may have built it, as provenance names it; default: anyone"
        ),
    ] = None

    @property
    def numbers(self) -> dict[Kind, int]:
        """How many keys each kind of statement needs."""
        return {Kind.RELEASE: self.release, Kind.PROVENANCE: self.provenance, Kind.REBUILD: self.rebuilders}


_COUNTED = {Kind.RELEASE: "release", Kind.PROVENANCE: "provenance", Kind.REBUILD: "rebuilders"}


class Policy(Table):
    """The whole of a policy."""

    schema_: Annotated[int, Field(alias="schema", ge=1, le=1, description="the number of this format")]
    key: Annotated[tuple[Key, ...], Field(min_length=1, max_length=_MOST_KEYS, description="who is believed")]
    revoked: Annotated[
        tuple[Revoked, ...], Field(max_length=_MOST_REVOKED, description="who and what is believed no more")
    ] = ()
    require: Annotated[Require, Field(description="what a dist needs")] = Require()

    @field_validator("key", mode="after")
    @classmethod
    def _apart(cls, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        faults = [*_repeated(keys, "name", (key.name for key in keys))]
        faults += _repeated(keys, "public_key", (key.public_key.keyid for key in keys))
        if faults:
            raise FaultsError(faults)
        return keys

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        faults = list(self._unmeetable())
        if faults:
            raise FaultsError(faults)
        return self

    def _unmeetable(self) -> Iterator[tuple[Location, str, str | None]]:
        if not any(self.require.numbers.values()):
            hint = "ask for a release at least; `--no-policy` is how to verify without signatures"
            yield ("require",), "asks for nothing, so everything would satisfy it", hint
        for kind, number in self.require.numbers.items():
            able = sum(kind in key.roles and self.revocation(key.public_key.keyid) is None for key in self.key)
            if able < number:
                message = f"asks for {number}, and keys that have the role {kind.value!r}: {able}"
                yield (
                    ("require", _COUNTED[kind]),
                    message,
                    f'add a [[key]] with roles = ["{kind.value}"], or ask for less',
                )

    def key_of(self, keyid: str) -> Key | None:
        """Who has the key with this id."""
        return next((key for key in self.key if key.public_key.keyid == keyid), None)

    def revocation(self, keyid: str) -> Revoked | None:
        """Why nothing of this key counts, if so."""
        return next((row for row in self.revoked if row.key == keyid), None)

    def withdrawal(self, statement: str) -> Revoked | None:
        """Why the statement with this SHA-256 does not count, if so."""
        return next((row for row in self.revoked if row.statement == f"sha256:{statement}"), None)


def _repeated(keys: tuple[Key, ...], what: str, values: Iterable[str]) -> Iterator[tuple[Location, str, str | None]]:
    owners: dict[str, int] = {}
    for index, value in enumerate(values):
        owner = owners.setdefault(value, index)
        if owner != index:
            message = f"key[{owner}], {keys[owner].name}, has the same"
            yield (index, what), message, "one [[key]] says all about a key, and each has a name of its own"


def parse_policy(data: bytes, file: Path) -> Policy:
    """The policy that stood in `file`, which public keys are relative to.

    Raises ProblemsError with all that is wrong with it.
    """
    return validate(
        parse_toml(data, str(file), EVERY_KEY), Policy, str(file), EVERY_KEY, context=file.absolute().parent
    )


def load_policy(file: Path) -> Policy:
    """The policy in `file`. Raises UsageError when it cannot be read, ProblemsError with all that is wrong with it."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "is no path"
        raise UsageError(f"the policy cannot be read: {reason}", where=str(file), hint=EVERY_KEY) from error
    return parse_policy(data, file)


def policy_of_keys(files: Iterable[Path]) -> Policy:
    """What `--key FILE` stands for: these keys are believed in everything, and one must have signed the release.

    Raises UsageError for what is no public key.
    """
    keys: dict[str, Key] = {}
    for number, file in enumerate(files, 1):
        public_key = load_public(file)
        fits = re.fullmatch(NAME_PATTERN, file.stem) and file.stem not in (key.name for key in keys.values())
        name = file.stem if fits else f"key-{number}"
        keys.setdefault(public_key.keyid, Key(name=name, public_key=public_key, roles=tuple(Kind)))
    return Policy.model_validate({"schema": 1, "key": tuple(keys.values()), "require": Require(provenance=0)})


def policy_schema() -> str:
    """The JSON Schema (draft 2020-12) of a policy, as text that ends with a newline."""
    return json_schema(Policy, "stereo policy")
