"""Signs a dist: lays SHA256SUMS, its signatures and signed statements beside the files that builds compare.

Nothing that a build made is touched, and each new file appears by one rename. Signing again with the same key writes
only what is missing, expired, or says something else by now; asked for an end, also what has none or a later one, or of
whose time more than half has gone. SHA256SUMS.sig and .gpg hold one key's signature, that of
the first signer: a second key adds its statements alone.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from stereo.assemble.files import open_plain, settle_folder
from stereo.assemble.place import staging
from stereo.errors import StereoError, UsageError
from stereo.model.manifest import (
    ATTESTATIONS,
    CYCLONEDX_FILE,
    MANIFEST_FILE,
    MAX_BYTES,
    SIGNATURE_FILES,
    Manifest,
    is_release,
    parse_manifest,
)
from stereo.report import Report
from stereo.trust import envelope, openpgp, provenance, statement, sums
from stereo.trust.keys import PublicKey, SecretKey, SignatureError
from stereo.trust.packet import is_exact

_SUMS, _SIG, _GPG = SIGNATURE_FILES
_MAX_SIGNATURE = 64 << 10
_MAX_SUMS = 64 << 10

State = Literal["written", "kept", "another key's"]


@dataclass(frozen=True)
class Laid:
    """A file of a signature, and whether this run wrote it."""

    file: str
    state: State


@dataclass(frozen=True)
class Terms:
    """How a statement is made: `now` is when, `expires_after` for how long it holds (None: without end)."""

    now: datetime
    expires_after: timedelta | None = None

    @property
    def expires_on(self) -> datetime | None:
        """When it ends."""
        return self.now + self.expires_after if self.expires_after else None


def attestation_file(kind: str, key: PublicKey) -> str:
    """Where in a dist the statement of `kind` by `key` lies."""
    return f"{ATTESTATIONS}/{kind}.{key.short}.dsse.json"


def default_builder(key: PublicKey) -> str:
    """The builder's id where none is given: whoever has the key."""
    return f"urn:stereo:key:{key.keyid}"


def refuse_what_is_no_release(dist: Path, manifest: Manifest) -> None:
    """Raises UsageError for a dist that must never be published, and for one of which only a part is here."""
    if manifest.dev or not is_release(manifest.version):
        what = "a dev profile" if manifest.dev else f"the version {manifest.version}"
        hint = "build a release: `stereo build MIXTAPE --version YYYY.MM.DD.N`"
        raise UsageError(f"{what} is not signed: it must never be published", where=str(dist), hint=hint)
    for name, _, _ in manifest.files():
        if not (dist / name).is_file():
            hint = "pull it with `--format all`"
            raise UsageError(f"{name} is not here, and only a whole dist is signed", where=str(dist), hint=hint)


def sign_dist(
    dist: Path, manifest: Manifest, key: SecretKey, terms: Terms, report: Report, *, builder_id: str | None = None
) -> list[Laid]:
    """Sign a dist that `check.verify` has just found unaltered, and which says `manifest`.

    Raises UsageError for what is no release, StereoError, OSError.
    """
    refuse_what_is_no_release(dist, manifest)
    if manifest.build.source_revision.endswith("-dirty"):
        what = "was built from a checkout with changes that no commit has"
        report.warn(f"{manifest.name} {manifest.version} {what}: nobody else can build it again")
    with report.step(f"Signing {manifest.name} {manifest.version}"), staging(dist.resolve(), report) as folder:
        signing = _Signing(dist.resolve(), manifest, key, terms, folder)
        built = provenance.provenance_predicate(manifest, signing.sbom(), builder_id or default_builder(key.public))
        return [
            *signing.lay_sums(),
            signing.lay_statement("release", statement.release_predicate(manifest)),
            signing.lay_statement("provenance", built),
        ]


def add_statement(
    dist: Path,
    manifest: Manifest,
    kind: str,
    predicate: Mapping[str, Any],
    key: SecretKey,
    terms: Terms,
    report: Report,
) -> Laid:
    """Lay one signed statement of `kind` into a dist that says `manifest`. Raises StereoError, OSError."""
    with staging(dist.resolve(), report) as folder:
        return _Signing(dist.resolve(), manifest, key, terms, folder).lay_statement(kind, predicate)


class _Signing:
    """One dist that nobody builds anew meanwhile, and a folder beside it in which files come to be."""

    def __init__(self, dist: Path, manifest: Manifest, key: SecretKey, terms: Terms, folder: Path) -> None:
        self._dist, self._folder, self._key, self._terms = dist, folder, key, terms
        data = self._read(MANIFEST_FILE, MAX_BYTES)
        if data is None or parse_manifest(data, MANIFEST_FILE) != manifest:
            raise StereoError("is no longer what was verified", where=MANIFEST_FILE, hint="run again")
        self._files = statement.file_digests(manifest, data)
        self._subjects = statement.subjects_of(manifest, data)

    def sbom(self) -> bytes:
        """The dist's sbom.cdx.json, which must be the one that the manifest names."""
        data = self._read(CYCLONEDX_FILE, provenance.MAX_SBOM) or b""
        if hashlib.sha256(data).hexdigest() != self._files[CYCLONEDX_FILE]:
            raise StereoError("is no longer what was verified", where=CYCLONEDX_FILE, hint="run again")
        return data

    def lay_sums(self) -> list[Laid]:
        text = sums.render_sums(self._files)
        laid = []
        if self._read(_SUMS, _MAX_SUMS) == text:
            laid.append(Laid(_SUMS, "kept"))
        else:
            for name in (_SIG, _GPG):  # they sign something else
                with suppress(FileNotFoundError):
                    (self._dist / name).unlink()
            laid.append(self._lay(_SUMS, text))
        signature = self._read(_SIG, _MAX_SIGNATURE)
        if signature is not None and not self._is_ours(text, signature):
            return [*laid, Laid(_SIG, "another key's")]
        if signature is None:
            laid.append(self._lay(_SIG, sums.sign_sums(text, self._key)))
        else:
            laid.append(Laid(_SIG, "kept"))
        if self._key.openpgp is not None:
            laid.append(self._lay_openpgp(text, self._key.openpgp))
        return laid

    def lay_statement(self, kind: str, predicate: Mapping[str, Any]) -> Laid:
        file = attestation_file(kind, self._key.public)
        payload = statement.render_statement(kind, self._subjects, predicate, self._terms.now, self._terms.expires_on)
        place = self._dist / ATTESTATIONS
        with suppress(FileExistsError):
            place.mkdir()
            place.chmod(0o755)  # not what the umask leaves of it
        if not stat.S_ISDIR(place.lstat().st_mode):
            raise StereoError("is no folder", where=str(place), hint="remove it")
        existing = self._read(file, envelope.MAX_BYTES)
        if existing is not None and self._still_says(existing, payload):
            return Laid(file, "kept")
        return self._lay(file, envelope.seal(payload, self._key))

    def _read(self, name: str, limit: int) -> bytes | None:
        """A small file of the dist, cut off after `limit` bytes; None if there is none."""
        try:
            with open_plain(self._dist / name) as file:
                return file.read(limit + 1)
        except FileNotFoundError:
            return None

    def _is_ours(self, text: bytes, signature: bytes) -> bool:
        try:
            sums.check_sums(text, signature, self._key.public)
        except SignatureError:
            return False
        return True

    def _lay_openpgp(self, text: bytes, signer: openpgp.Signer) -> Laid:
        existing = self._read(_GPG, _MAX_SIGNATURE)
        if existing is not None and is_exact(existing, text):
            with suppress(SignatureError):
                openpgp.verify(text, existing, signer.certificate)
                return Laid(_GPG, "kept")
        return self._lay(_GPG, signer.sign(text))

    def _still_says(self, existing: bytes, payload: bytes) -> bool:
        """Whether the statement that is there is this key's, holds now, and differs in its times alone."""
        wanted = statement.parse_statement(payload, "(new)")
        try:
            found = envelope.parse_envelope(existing, "(existing)")
            found.verify(self._key.public)
        except (statement.MalformedError, SignatureError):
            return False
        said, now = found.statement, self._terms.now
        holds = (
            said.issued_on is not None and said.issued_on <= now and (said.expires_on is None or now < said.expires_on)
        )
        same = found.rendered == existing and _without_times(said) == _without_times(wanted)
        return holds and same and self._lasts(said.expires_on)

    def _lasts(self, until: datetime | None) -> bool:
        """Whether what ends then need not be renewed: half of the time that is asked for now is left, and no more."""
        asked = self._terms.expires_after
        return asked is None or (until is not None and asked / 2 <= until - self._terms.now <= asked)

    def _lay(self, name: str, data: bytes) -> Laid:
        fresh, target = self._folder / "fresh", self._dist / name
        with fresh.open("xb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)
        settle_folder(target.parent)
        return Laid(name, "written")


def _without_times(one: statement.Statement) -> tuple[Any, ...]:
    predicate = {key: value for key, value in one.predicate.items() if key not in ("issuedOn", "expiresOn")}
    return one.subjects, one.predicate_type, predicate
