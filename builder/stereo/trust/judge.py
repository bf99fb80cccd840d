"""Whether a release may be believed: its statements, a policy and the time go in, and a judgement comes out.

Pure: nothing is read, and the caller says what time it is. The judge holds each statement against the release whose
digests the caller has seen for itself, so a statement about anything else counts for nothing. What does not count is
refused with its reason. A refusal that smells of tampering fails the judgement, whatever else there is; one that only
does not count (a stranger's key, an old statement beside a new one) fails it when something needed is missing then.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from stereo.errors import shown
from stereo.model.manifest import Manifest
from stereo.trust.envelope import Envelope, parse_envelope
from stereo.trust.keys import SignatureError
from stereo.trust.policy import Key, Kind, Policy, Revoked
from stereo.trust.statement import MalformedError, Statement, file_digests, release_id

MOST_STATEMENTS = 256
SKEW = timedelta(minutes=10)
"""How far the clock of who signed may be ahead of ours."""

STATEMENT_NAME = re.compile(r"(?P<kind>release|provenance|rebuild)\.(?P<keyid>[0-9a-f]{16})\.dsse\.json")
_OCI = "oci:"  # subjects that are no files of a dist, but what it is in a registry
_MOST_NAMED = 3
_GET_AGAIN = "it was altered or is damaged: get it again from where it was published"
_GET_MORE = {
    Kind.RELEASE: "get it from who published the dist, or have its owner `stereo sign` it",
    Kind.PROVENANCE: "get it from who published the dist, or have its owner `stereo sign` it",
    Kind.REBUILD: "have somebody run `stereo verify DIR --rebuild --sign-with KEY`",
}


class Reason(StrEnum):
    """Why a statement does not count."""

    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown-key"
    BAD_SIGNATURE = "bad-signature"
    REVOKED = "revoked"
    WRONG_ROLE = "wrong-role"
    REPLAYED = "replayed"
    WRONG_SUBJECT = "wrong-subject"
    NOT_YET_VALID = "not-yet-valid"
    EXPIRED = "expired"
    BUILDER = "builder"
    MISSING = "missing"


@dataclass(frozen=True)
class Release:
    """What the caller has in hand. `arch` is "x86_64-linux" or so.

    `digests` are SHA-256 by file name, mixtape.toml's among them; and perhaps those of OCI manifests, as "oci:raw".
    """

    name: str
    version: str
    arch: str
    digests: Mapping[str, str]

    @property
    def id(self) -> str:
        """What statements call it."""
        return release_id(self.name, self.version, self.arch)


def release_of(manifest: Manifest, data: bytes) -> Release:
    """What a manifest promises, whose bytes are `data`. Whether the files are so, is for the caller to check."""
    return Release(manifest.name, manifest.version, manifest.arch, file_digests(manifest, data))


@dataclass(frozen=True)
class Accepted:
    """A statement that counts. `statement` is the SHA-256 of what was signed, `signer` the policy's name for it."""

    name: str
    kind: Kind
    signer: str
    keyid: str
    statement: str
    issued: datetime
    expires: datetime | None


@dataclass(frozen=True)
class Refusal:
    """A statement that does not count, or a kind of which too few do. `fails`: the judgement cannot be good with it."""

    name: str
    reason: Reason
    message: str
    hint: str
    fails: bool


@dataclass(frozen=True)
class Judgement:
    """What counts and what does not."""

    accepted: tuple[Accepted, ...]
    refusals: tuple[Refusal, ...]

    @property
    def ok(self) -> bool:
        """Whether the policy is satisfied and nothing was tampered with."""
        return not any(row.fails for row in self.refusals)

    @property
    def text(self) -> str:
        """All of it, a line for each statement, fit for a terminal."""
        lines = [
            f"{row.name}: signed by {row.signer} ({row.keyid[:16]}), {row.issued:%Y-%m-%d}" for row in self.accepted
        ]
        for row in self.refusals:
            lines += [f"{shown(row.name, 100)}: {row.reason}: {row.message}", f"    hint: {row.hint}"]
        return "\n".join(lines)


class _RefusedError(Exception):
    """A statement does not count."""

    def __init__(self, reason: Reason, message: str, hint: str, *, fails: bool = False) -> None:
        super().__init__(message)
        self.reason, self.hint, self.fails = reason, hint, fails


def judge(release: Release, envelopes: Sequence[tuple[str, bytes]], policy: Policy, now: datetime) -> Judgement:
    """Hold the statements in `envelopes` (file name, bytes) against `release` and `policy`, at the time `now`.

    `now` must know its time zone. A file name KIND.KEYID16.dsse.json (in a folder or not) must say what is in it; other
    names are labels.
    """
    accepted: list[Accepted] = []
    refusals: list[Refusal] = []
    for name, data in envelopes[:MOST_STATEMENTS]:
        try:
            row = _judged(name, data, release, policy, now)
            _refuse_a_second(row, accepted)
        except _RefusedError as refused:
            refusals.append(Refusal(name, refused.reason, str(refused), refused.hint, refused.fails))
        else:
            accepted.append(row)
    if len(envelopes) > MOST_STATEMENTS:
        message = f"there are {len(envelopes)} statements, and no more than {MOST_STATEMENTS} are read"
        refusals.append(Refusal("(statements)", Reason.MALFORMED, message, "remove what nobody needs", fails=True))
    return Judgement(tuple(accepted), (*refusals, *_missing(policy, accepted)))


def _judged(name: str, data: bytes, release: Release, policy: Policy, now: datetime) -> Accepted:
    """The statement as one that counts. Raises _RefusedError for the first reason why it does not."""
    try:
        envelope = parse_envelope(data, name)
    except MalformedError as error:
        raise _RefusedError(Reason.MALFORMED, error.what, _GET_AGAIN, fails=True) from error
    if len(envelope.signatures) != 1:
        message = f"has {len(envelope.signatures)} signatures"
        raise _RefusedError(Reason.MALFORMED, message, "a statement for each key, in a file of its own", fails=True)
    if envelope.rendered != data:
        message = "is not written as stereo writes it, so bytes in it could change and mean the same"
        raise _RefusedError(Reason.MALFORMED, message, _GET_AGAIN, fails=True)
    key = _signer(envelope, policy)
    statement, digest = envelope.statement, hashlib.sha256(envelope.payload).hexdigest()
    if row := policy.withdrawal(digest):
        message = f"the policy revokes this statement{_because(row)}"
        raise _RefusedError(Reason.REVOKED, message, "look for a newer release, or ask who wrote the policy")
    kind = _kind(name, statement, key)
    _refuse_other_role(kind, release, key)
    if kind is Kind.REBUILD and (result := statement.predicate.get("result")) != "PASSED":
        message = f"says of the rebuild {shown(str(result), 40)}, not PASSED"
        raise _RefusedError(Reason.MALFORMED, message, "ask who signed it what differed", fails=True)
    _refuse_other_release(statement, release)
    _refuse_other_files(statement, release)
    assert statement.issued_on
    _refuse_other_time(statement.issued_on, statement.expires_on, key, policy.require.max_age, now)
    if kind is Kind.PROVENANCE:
        _refuse_other_builder(statement, policy)
    return Accepted(name, kind, key.name, key.public_key.keyid, digest, statement.issued_on, statement.expires_on)


def _signer(envelope: Envelope, policy: Policy) -> Key:
    """Whose signature it is."""
    keyid, signature = envelope.signatures[0]
    if row := policy.revocation(keyid):
        message = f"the policy revokes the key {shown(keyid[:16])}{_because(row)}"
        raise _RefusedError(Reason.REVOKED, message, "look for a release that is signed with another key")
    if key := policy.key_of(keyid):
        try:
            envelope.verify(key.public_key)
        except SignatureError as error:
            message = f"names the key of {key.name}, which did not sign these bytes"
            raise _RefusedError(Reason.BAD_SIGNATURE, message, _GET_AGAIN, fails=True) from error
        return key
    # The id of a key is a hint that nobody signed: an altered one must not make a statement a stranger's.
    unnamed = replace(envelope, signatures=(("", signature),))
    for key in policy.key:
        with suppress(SignatureError):
            unnamed.verify(key.public_key)
            message = f"was signed by {key.name}, and names another key"
            raise _RefusedError(Reason.BAD_SIGNATURE, message, _GET_AGAIN, fails=True)
    message = f"is signed with a key that the policy does not know: {shown(keyid, 16) or 'it names none'}"
    hint = "if you trust its owner, add the .pub file: with --key, or as a [[key]] of the policy"
    raise _RefusedError(Reason.UNKNOWN_KEY, message, hint)


def _kind(name: str, statement: Statement, key: Key) -> Kind:
    """Which kind of statement it is; its file name must agree, when it has the form of one."""
    kind = statement.kind
    if kind is None:
        message = f"is a statement of a type that no policy counts: {shown(statement.predicate_type, 80)}"
        raise _RefusedError(Reason.WRONG_ROLE, message, "nothing is needed: others may state what they like")
    named = STATEMENT_NAME.fullmatch(name.rpartition("/")[2])
    if named and named["kind"] != kind:
        message = f"is a {kind} statement under the name of another kind"
        raise _RefusedError(Reason.REPLAYED, message, _GET_AGAIN, fails=True)
    if named and named["keyid"] != key.public_key.short:
        message = f"is a statement of {key.name} under the name of another key"
        raise _RefusedError(Reason.REPLAYED, message, _GET_AGAIN, fails=True)
    return Kind(kind)


def _refuse_other_role(kind: Kind, release: Release, key: Key) -> None:
    if kind not in key.roles:
        message = f"{key.name} is not believed in {kind.value} statements"
        hint = f'if it should be, add "{kind.value}" to the roles of its [[key]]'
        raise _RefusedError(Reason.WRONG_ROLE, message, hint)
    if not key.speaks_of(release.name):
        message = f"{key.name} is not believed about {release.name}"
        raise _RefusedError(Reason.WRONG_ROLE, message, "if it should be, add the name to the mixtapes of its [[key]]")


def _refuse_other_release(statement: Statement, release: Release) -> None:
    if statement.release_id != release.id:
        message = f"was signed for {shown(str(statement.release_id), 120)}, and this is {release.id}"
        raise _RefusedError(
            Reason.REPLAYED, message, "somebody took it from another release: get this one's", fails=True
        )


def _refuse_other_files(statement: Statement, release: Release) -> None:
    """Every digest that is known here must be among its subjects, and no file else."""
    different = sorted(
        name for name, digest in release.digests.items() if statement.subjects.get(name, digest) != digest
    )
    absent = sorted(release.digests.keys() - statement.subjects.keys())
    others = sorted(name for name in statement.subjects.keys() - release.digests.keys() if not name.startswith(_OCI))
    for names, what in (
        (different, "was signed for other bytes of {}"),
        (absent, "does not speak of {}"),
        (others, "speaks of {}, which this dist does not have"),
    ):
        if names:
            message = what.format(_listed(names))
            hint = "the files or the statement were changed: get both again from whom you trust"
            raise _RefusedError(Reason.WRONG_SUBJECT, message, hint, fails=True)


def _refuse_other_time(
    issued: datetime, expires: datetime | None, key: Key, max_age: timedelta | None, now: datetime
) -> None:
    if issued > now + SKEW:
        message = f"was issued on {_day(issued)}, which is yet to come"
        raise _RefusedError(Reason.NOT_YET_VALID, message, "see whether this machine's clock is right")
    if key.not_before and issued < key.not_before:
        message = f"was issued on {_day(issued)}, and {key.name} is believed from {_day(key.not_before)} on"
        raise _RefusedError(Reason.NOT_YET_VALID, message, "look for a newer statement")
    if key.not_after and issued > key.not_after:
        message = f"was issued on {_day(issued)}, and {key.name} is believed until {_day(key.not_after)}"
        raise _RefusedError(Reason.EXPIRED, message, "look for one that is signed with a newer key")
    if expires and expires <= now:
        message = f"expired on {_day(expires)}"
        raise _RefusedError(Reason.EXPIRED, message, "get a newer release, or a statement that was renewed")
    if max_age and now - issued > max_age:
        message = f"was issued on {_day(issued)}, longer ago than the policy's max_age of {max_age.days} days"
        raise _RefusedError(Reason.EXPIRED, message, "get a newer release, or a statement that was renewed")


def _refuse_other_builder(statement: Statement, policy: Policy) -> None:
    allowed = policy.require.builder_ids
    builder = _inside(statement.predicate, "runDetails", "builder", "id")
    if allowed is not None and builder not in allowed:
        message = (
            f"names as its builder {shown(str(builder), 120) if builder else 'nobody'}, which the policy does not allow"
        )
        raise _RefusedError(Reason.BUILDER, message, "if it may build, add it to builder_ids of [require]")


def _refuse_a_second(row: Accepted, accepted: Sequence[Accepted]) -> None:
    for other in accepted:
        if (other.kind, other.keyid) == (row.kind, row.keyid):
            same = "the same statement as" if other.statement == row.statement else "by the same key as"
            message = f"is {same} {shown(other.name, 100)}, and counts once with it"
            raise _RefusedError(Reason.REPLAYED, message, "ask for a statement of somebody else")


def _missing(policy: Policy, accepted: Sequence[Accepted]) -> Iterator[Refusal]:
    # Who made a release proves nothing by making it again: a rebuilder is somebody else.
    makers = {row.keyid for row in accepted if row.kind is not Kind.REBUILD}
    for kind, wanted in policy.require.numbers.items():
        rows = [row for row in accepted if row.kind is kind]
        own = [row.signer for row in rows if kind is Kind.REBUILD and row.keyid in makers]
        there = len(rows) - len(own)
        if there < wanted:
            message = (
                f"{wanted} wanted by different keys, and {there or 'none'} that {'count' if there > 1 else 'counts'}"
            )
            if own:
                message += f"; {_listed(own)} signed the release itself, and is no independent rebuilder of it"
            yield Refusal(f"{kind.value} statement", Reason.MISSING, message, _GET_MORE[kind], fails=True)


def _inside(value: object, *keys: str) -> object:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _because(row: Revoked) -> str:
    return f": {shown(row.reason)}" if row.reason else ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(shown(name, 80) for name in names[:_MOST_NAMED]) + more


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
