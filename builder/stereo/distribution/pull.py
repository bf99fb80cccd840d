"""Pull a published mixtape: `pull` reads top to bottom as what happens.

Nothing is visible before all of it is right: the statements are judged before the first disk byte is fetched, every
byte is hashed as it comes, and the dist gets its name by one rename at the end. Whatever ends the pull before that
leaves what came, and the next pull of the same goes on from there.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from stereo import dists
from stereo.distribution.arrival import Target, arrive, complete, lay, refuse_another, refuse_older, workplace
from stereo.distribution.blobs import fetch
from stereo.distribution.offer import Offer, Said, read_offer, read_said
from stereo.distribution.partial import Patience, Traffic
from stereo.distribution.stock import Stock
from stereo.dists.use import Users
from stereo.errors import StereoError, shown
from stereo.model.architecture import Architecture
from stereo.model.manifest import ATTESTATIONS, SIGNATURE_FILES, Manifest
from stereo.model.pulled import Format
from stereo.registry.errors import DigestMismatch
from stereo.registry.reference import Reference
from stereo.registry.remote import Remote
from stereo.report import Report
from stereo.trust.sums import render_sums

if TYPE_CHECKING:
    from stereo.trust.judge import Judgement
    from stereo.trust.policy import Policy


class PolicyError(StereoError):
    """The policy does not believe what is offered."""


@dataclass(frozen=True)
class Options:
    """How to pull. `folder` is where the dist is to be (default: the local store), `jobs` blobs at a time.

    `force` replaces another dist, `allow_older` follows a floating tag back to an older release.
    """

    formats: tuple[Format, ...] = ("raw",)
    arch: Architecture = Architecture.X86_64
    folder: Path | None = None
    jobs: int = 4
    force: bool = False
    allow_older: bool = False
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True)
class Pulled:
    """What a pull did. Bytes: `size` of the blobs, `fetched` from the remote, `reused` from here.

    `signers` signed what the policy asks for; it is None without a policy.
    """

    path: Path
    manifest: Manifest
    digest: str
    was_there: bool
    size: int = 0
    fetched: int = 0
    reused: int = 0
    signers: tuple[str, ...] | None = None


def pull(
    reference: Reference,
    remote: Remote,
    options: Options,
    *,
    policy: Policy | None,
    now: datetime,
    users: Callable[[], Users] = dict,
    report: Report,
) -> Pulled:
    """Have what `reference` names as a dist on this machine. `users` tells who uses dists, as `dists.use` has it;
    it is asked when one is to be replaced.

    Raises RegistryError, PolicyError, StereoError; UsageError for what can never work. Then everything visible is as
    it was.
    """
    store = dists.store_folder()
    with report.step(f"Asking {remote.reference}"):
        offer = read_offer(remote, reference.version, options.arch, options.formats)
        said = read_said(remote, offer)
        judgement = _judged(offer, said, policy, now)
    refuse_another(offer, reference, store)
    refuse_older(offer, reference, store, allow=options.allow_older)
    signers = tuple(row.signer for row in judgement.accepted) if judgement else None
    attestations = {f"{ATTESTATIONS}/{name}": data for name, data in _attestations(said, judgement, report)}
    beside = {**_signatures(said, offer, policy, report), **attestations}
    offer = _with_formats_there(remote, offer, options, store)
    target = Target.of(offer, options.folder, store)
    if target.holds(offer):
        lay(target, offer, _counted(attestations, judgement), report)
        return Pulled(target.path, offer.manifest, offer.digest, was_there=True, signers=signers)
    target.refuse_to_replace(offer, force=options.force, users=users)
    with workplace(target, offer, report) as folder:
        if target.holds(offer):  # somebody else pulled it while we waited
            shutil.rmtree(folder)
            return Pulled(target.path, offer.manifest, offer.digest, was_there=True, signers=signers)
        traffic = _fetched(remote, offer, said, folder, options, store, report)
        complete(folder, offer, reference, beside)
        with report.step("Moving the dist into place"):
            arrive(folder, target, offer, force=options.force, users=users, report=report)
    return Pulled(
        target.path, offer.manifest, offer.digest, False, offer.size, traffic.fetched, traffic.reused, signers
    )


def _with_formats_there(remote: Remote, offer: Offer, options: Options, store: Path) -> Offer:
    """The offer with the formats, too, that an earlier pull of the same dist brought: it loses none of them."""
    there = Target.of(offer, options.folder, store).formats(offer)
    formats = tuple(name for name in get_args(Format) if name in offer.formats or name in there)
    return offer if {*formats} == {*offer.formats} else read_offer(remote, offer.digest, options.arch, formats)


def _judged(offer: Offer, said: Said, policy: Policy | None, now: datetime) -> Judgement | None:
    """Raises PolicyError unless the policy believes it."""
    if policy is None:
        return None
    from stereo.trust.judge import Release, judge

    manifest = offer.manifest
    release = Release(manifest.name, manifest.version, manifest.arch, offer.digests)
    judgement = judge(release, said.statements, policy, now)
    if not judgement.ok:
        what = f"the policy does not believe {manifest.name} {manifest.version}:\n{judgement.text}"
        raise PolicyError(what, hint="nothing was pulled; see docs/policy.md")
    return judgement


def _attestations(said: Said, judgement: Judgement | None, report: Report) -> Sequence[tuple[str, bytes]]:
    """The statements under the names that they must have; what has none is left behind.

    Of two that would have one name, such as an expired statement and its renewal, the one that counted, or the newer.
    """
    if not said.statements:
        return ()
    from stereo.trust.envelope import parse_envelope
    from stereo.trust.statement import MalformedError

    counted = {row.statement for row in judgement.accepted} if judgement else set()
    found: dict[str, tuple[tuple[bool, float], bytes]] = {}
    for name, data in said.statements:
        try:
            envelope = parse_envelope(data, name)
        except MalformedError as error:
            report.warn(f"{shown(name, 100)} is no statement, and was left behind: {error.what}")
            continue
        keyid = envelope.signatures[0][0][:16] if envelope.signatures else ""
        issued = envelope.statement.issued_on
        if issued is None or len(keyid) != 16 or not set(keyid) <= set("0123456789abcdef"):
            continue  # others may state what they like: it has no place in a dist
        place = f"{envelope.statement.kind}.{keyid}.dsse.json"
        rank = (hashlib.sha256(envelope.payload).hexdigest() in counted, issued.timestamp())
        if place not in found or found[place][0] < rank:
            found[place] = rank, data
    return tuple((place, data) for place, (_, data) in found.items())


def _counted(attestations: Mapping[str, bytes], judgement: Judgement | None) -> Mapping[str, bytes]:
    """Those that the policy counts: what nobody believes is no reason to touch a dist that is there."""
    rows = judgement.accepted if judgement else ()
    names = {f"{ATTESTATIONS}/{row.kind.value}.{row.keyid[:16]}.dsse.json" for row in rows}
    return {name: data for name, data in attestations.items() if name in names}


def _signatures(said: Said, offer: Offer, policy: Policy | None, report: Report) -> Mapping[str, bytes]:
    """The signature files that `verify` will take; a signature that it would not is left behind.

    Raises `DigestMismatch` when there are checksums, and none are of these files.
    """
    if not said.signatures:
        return {}
    from stereo.trust.dist import examine_sums

    expected = render_sums(offer.digests)
    fitting = [files for files in reversed(said.signatures) if files.get(SIGNATURE_FILES[0]) == expected]
    if not fitting:
        raise DigestMismatch("is not that of the files", where=SIGNATURE_FILES[0])
    found: list[tuple[Mapping[str, bytes], dict[str, str]]] = []
    for files in fitting:
        rows = examine_sums(files, expected, offer.manifest, policy)
        found.append((files, {row.artifact: row.message for row in rows if not row.ok}))
    files, bad = min(found, key=lambda each: len(each[1]))
    for name, message in bad.items():
        report.warn(f"{name} {message}; it was left behind")
    return {name: data for name, data in files.items() if name not in bad}


def _fetched(
    remote: Remote, offer: Offer, said: Said, folder: Path, options: Options, store: Path, report: Report
) -> Traffic:
    here = [entry for entry in dists.entries(store) if entry.name == offer.manifest.name and entry.there]
    here.sort(key=lambda entry: entry.arch != options.arch)  # of other machines' disks hardly a frame is the same
    places = [entry.place for entry in here]
    if options.folder is not None and options.folder.is_dir():
        places.insert(0, options.folder)
    doing = f"Pulling {offer.manifest.name} {offer.manifest.version}"
    with report.progress(doing, offer.size) as progress:
        traffic = Traffic(progress.advance)
        try:
            fetch(remote, offer, said, folder, Stock(places), traffic, options.jobs, options.patience)
        except KeyboardInterrupt:
            report.note("stopped; what came is kept, and the next pull of the same goes on from there")
            raise
    return traffic
