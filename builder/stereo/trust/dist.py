"""What lies beside the files of a dist and vouches for them: read hostile-safe, and judged.

SHA256SUMS must say what the manifest says, whoever signed it. Who did is asked only with a policy, and then every
signature that is there must be one that the policy knows: an altered file is named, needed or not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path

from stereo.assemble.files import open_plain
from stereo.errors import StereoError, shown
from stereo.model.manifest import (
    ATTESTATIONS,
    MANIFEST_FILE,
    MAX_BYTES,
    SIGNATURE_FILES,
    Manifest,
    parse_manifest,
)
from stereo.trust import envelope, openpgp
from stereo.trust.judge import (
    MOST_STATEMENTS,
    STATEMENT_NAME,
    Judgement,
    Reason,
    Refusal,
    judge,
    release_of,
)
from stereo.trust.keys import SignatureError
from stereo.trust.packet import is_exact
from stereo.trust.policy import Key, Kind, Policy
from stereo.trust.rebuilt import contradictions
from stereo.trust.statement import MalformedError, file_digests
from stereo.trust.sums import check_sums, render_sums

_SUMS, _SIG, _GPG = SIGNATURE_FILES
_MOST_SUMS = 64 << 10
_MOST_TOGETHER = 64 << 20
_AGAIN = "get it again, or have it signed again with `stereo sign`"


@dataclass(frozen=True)
class Row:
    """One check of one file. `message` explains a failure, or says what was found to hold."""

    artifact: str
    check: str
    ok: bool
    message: str


@dataclass(frozen=True)
class Papers:
    """What was found. `judgement` is None without a policy: then nobody's signature was checked."""

    rows: tuple[Row, ...]
    judgement: Judgement | None

    @property
    def consistent(self) -> bool:
        """Whether nothing contradicts the dist."""
        return all(row.ok for row in self.rows)

    @property
    def ok(self) -> bool:
        """Whether nothing contradicts the dist, and the policy, if there is one, is satisfied."""
        return self.consistent and (self.judgement is None or self.judgement.ok)


def examine(dist: Path, manifest: Manifest, policy: Policy | None, now: datetime) -> Papers:
    """Judge what vouches for `dist`, which check.verify has just found to be what `manifest` says.

    Raises StereoError when the manifest is another by now, and OSError.
    """
    data = _small(dist / MANIFEST_FILE, MAX_BYTES)
    if data is None or parse_manifest(data, MANIFEST_FILE) != manifest:
        raise StereoError("is no longer what was verified", where=str(dist / MANIFEST_FILE), hint="run again")
    statements, refusals = read_statements(dist)
    rows = list(_sums(dist, render_sums(file_digests(manifest, data)), manifest, policy, statements))
    rows += _contradictions(statements, manifest)
    if policy is None:
        rows += [Row(row.name, row.reason, False, row.message) for row in refusals]
        return Papers(tuple(rows), None)
    judgement = judge(release_of(manifest, data), statements, policy, now)
    return Papers(tuple(rows), Judgement(judgement.accepted, (*refusals, *judgement.refusals)))


def _contradictions(statements: list[tuple[str, bytes]], manifest: Manifest) -> Iterator[Row]:
    """Whether what statements say of the build is what the manifest says, whoever signed them."""
    for name, data in statements:
        try:
            said = envelope.parse_envelope(data, name).statement
        except MalformedError as error:
            yield Row(name, "statement", False, error.what)
            continue
        found = list(contradictions(said, manifest))
        message = f"names {' and '.join(found)} than mixtape.toml" if found else "names what mixtape.toml names"
        if found or said.kind != "release":
            yield Row(name, "build", not found, message)


def read_statements(dist: Path) -> tuple[list[tuple[str, bytes]], list[Refusal]]:
    """The statements in attestations/ (path in the dist, bytes), sorted, and what there is none. Raises OSError."""
    statements: list[tuple[str, bytes]] = []
    refusals: list[Refusal] = []
    room = _MOST_TOGETHER
    for name in _names(dist / ATTESTATIONS, refusals):
        try:
            if not STATEMENT_NAME.fullmatch(name):
                raise StereoError("has not the name of a statement, KIND.KEYID16.dsse.json")
            data = _small(dist / ATTESTATIONS / name, envelope.MAX_BYTES) or b""
            room -= len(data)
            if room < 0:
                raise StereoError(f"is too much: all statements together have more than {_MOST_TOGETHER >> 20} MiB")
        except StereoError as error:
            refusals.append(_malformed(f"{ATTESTATIONS}/{name}", error.what))
        else:
            statements.append((f"{ATTESTATIONS}/{name}", data))
    return statements, refusals


def _names(folder: Path, refusals: list[Refusal]) -> list[str]:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    except OSError as error:  # a link, or no folder
        refusals.append(_malformed(ATTESTATIONS, f"cannot be read: {error.strerror}"))
        return []
    try:
        with os.scandir(fd) as listed:
            names = [item.name for _, item in zip(range(MOST_STATEMENTS + 1), listed, strict=False)]
    finally:
        os.close(fd)
    if len(names) > MOST_STATEMENTS:
        refusals.append(_malformed(ATTESTATIONS, f"holds more than {MOST_STATEMENTS} names"))
        return []
    return sorted(names)


def _malformed(name: str, message: str) -> Refusal:
    printable = shown(os.fsencode(name).decode("utf-8", "replace"), 100)
    return Refusal(printable, Reason.MALFORMED, message, "remove it, or get the dist again", fails=True)


def _small(path: Path, limit: int) -> bytes | None:
    """A file that has at most `limit` bytes; None if there is none. Raises StereoError, OSError."""
    try:
        with open_plain(path) as file:
            data = file.read(limit + 1) or b""
    except FileNotFoundError:
        return None
    if len(data) > limit:
        raise StereoError(f"is larger than {limit} bytes", where=str(path))
    return data


def _sums(
    dist: Path, expected: bytes, manifest: Manifest, policy: Policy | None, statements: Sequence[tuple[str, bytes]]
) -> Iterator[Row]:
    """Whether SHA256SUMS says what the manifest says, and who signed it."""
    found: dict[str, bytes] = {}
    for name in SIGNATURE_FILES:
        try:
            if (data := _small(dist / name, _MOST_SUMS)) is not None:
                found[name] = data
        except StereoError as error:
            yield Row(name, "checksums", False, error.what)
    yield from examine_sums(found, expected, manifest, policy, statements)


def examine_sums(
    files: Mapping[str, bytes],
    expected: bytes,
    manifest: Manifest,
    policy: Policy | None,
    statements: Sequence[tuple[str, bytes]] = (),
) -> Iterator[Row]:
    """Whether the signature files `files` (contents by name) say what is `expected`, and who signed it.

    They have room for one signature: it may be that of a stranger, if `statements` say that one signed the release.
    """
    found = dict(files)
    text = found.pop(_SUMS, None)
    if text is None:
        for name in found:
            yield Row(name, "checksums", False, f"signs a {_SUMS} that is not here; {_AGAIN}")
        return
    keys = [key for key in policy.key if _may_sign(key, manifest, policy)] if policy else []
    texts = tuple(dict.fromkeys((text, expected)))
    signature = _signature(found[_SIG], texts, keys) if policy and _SIG in found else None
    if text == expected:
        yield Row(_SUMS, "checksums", True, "says what mixtape.toml says")
    elif signature and signature.over == text:
        yield Row(MANIFEST_FILE, "checksums", False, f"is not what {_SUMS} says, which is {signature.by}")
    else:
        yield Row(_SUMS, "checksums", False, _difference(text, expected))
    strangers = [keyid for keyid in _release_signers(statements) if policy and _is_stranger(keyid, policy)]
    unknown = f"not checked: by no key that the policy knows, perhaps {shown(strangers[0][:16])}" if strangers else None
    if signature:
        ok = signature.over is not None
        yield Row(_SIG, "signature", ok or bool(unknown), signature.by if ok or not unknown else unknown)
    if policy and _GPG in found:
        yield _openpgp_signed(found[_GPG], texts, keys, unknown)


@dataclass(frozen=True)
class _Signature:
    """What was signed, None if it is no signature, and by whom in words."""

    over: bytes | None
    by: str


def _difference(text: bytes, expected: bytes) -> str:
    lines, wanted = text.split(b"\n"), expected.split(b"\n")
    number = next(
        (n for n, (one, other) in enumerate(zip(lines, wanted, strict=False), 1) if one != other), len(wanted)
    )
    return f"says in line {number} something else than mixtape.toml; {_AGAIN}"


def _may_sign(key: Key, manifest: Manifest, policy: Policy) -> bool:
    revoked = policy.revocation(key.public_key.keyid)
    return Kind.RELEASE in key.roles and key.speaks_of(manifest.name) and revoked is None


def _release_signers(statements: Iterable[tuple[str, bytes]]) -> Iterator[str]:
    """Ids of the keys that say they signed the release."""
    for name, data in statements:
        with suppress(MalformedError):
            found = envelope.parse_envelope(data, name)
            if found.statement.kind == "release":
                yield from (keyid for keyid, _ in found.signatures)


def _is_stranger(keyid: str, policy: Policy) -> bool:
    return policy.key_of(keyid) is None and policy.revocation(keyid) is None


def _signature(signature: bytes, texts: Iterable[bytes], keys: Sequence[Key]) -> _Signature:
    """Which of `texts` was signed by which of `keys`: of two that differ, the signed one is the true one."""
    for text, key in product(texts, keys):
        with suppress(SignatureError):
            check_sums(text, signature, key.public_key)
            return _Signature(text, f"signed by {key.name} ({key.public_key.short})")
    return _Signature(None, f"is no signature over {_SUMS} by a key that the policy believes in releases; {_AGAIN}")


def _openpgp_signed(signature: bytes, texts: Iterable[bytes], keys: Sequence[Key], unknown: str | None) -> Row:
    """Which of `keys` made the OpenPGP signature; `unknown` is what to say if it may be somebody else's."""
    known = [(key, key.openpgp) for key in keys if key.openpgp is not None]
    if not known:
        return Row(_GPG, "signature", True, "not checked: no key that the policy believes in releases has `openpgp`")
    for text, (key, certificate) in product(texts, known):
        with suppress(SignatureError):
            openpgp.verify(text, signature, certificate)
            if is_exact(signature, text):
                return Row(_GPG, "signature", True, f"signed by {key.name}")
            return Row(_GPG, "signature", False, f"has bytes in it that {key.name} did not sign; {_AGAIN}")
    if unknown:
        return Row(_GPG, "signature", True, unknown)
    message = f"is no signature over {_SUMS} by an OpenPGP key that the policy believes in releases; {_AGAIN}"
    return Row(_GPG, "signature", False, message)
