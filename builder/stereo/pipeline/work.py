"""What each job of a release does, in pieces: which verbs are run, and which digests stand for what they are given."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stereo.assemble.dist import is_current, read_manifest_with_digest
from stereo.build import sandbox
from stereo.distribution.retention import retire
from stereo.errors import StereoError, UsageError
from stereo.paths import Cache
from stereo.pipeline import jobs
from stereo.pipeline.jobs import Job
from stereo.pipeline.login import added, logged_in
from stereo.pipeline.release import Piece, Release, Work
from stereo.pipeline.targets import Target
from stereo.pipeline.verbs import Verbs
from stereo.pipeline.workflows import differences
from stereo.process import run
from stereo.registry.reference import parse_reference, parse_root
from stereo.registry.remote import open_remote

FORMS = ("raw", "qcow2", "kernel")
"""The ways to boot a dist."""
_LINTERS = ("tests/unit/test_linters.py", "tests/unit/test_architecture.py", "tests/unit/test_documents.py")


@dataclass(frozen=True)
class Pieces:
    """The work of every job. `verbs` runs the commands; `cache` is that of the builds."""

    verbs: Verbs
    cache: Cache

    def all(self) -> list[tuple[Job, Work]]:
        """Each job with its work, in order."""
        return [(job, getattr(self, job.name)) for job in jobs.JOBS]

    def check(self, release: Release) -> list[Piece]:
        def do() -> Mapping[str, Any]:
            if release.revision.endswith("-dirty") and not release.allow_dirty:
                hint = "commit or remove what has changed, or say --allow-dirty to try the pipeline out"
                raise StereoError("nobody could build again what differs from every commit", where="git", hint=hint)
            plans = {str(target): release.plans(target).key for target in release.targets}
            if drifted := differences(release.checkout):
                raise StereoError("is not what `stereo ci` writes", where=drifted[0].path, hint="stereo ci")
            if release.lint:
                pytest = [sys.executable, "-P", "-s", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
                self.verbs.program([*pytest, *_LINTERS], cwd=release.checkout)
            return {"plans": plans}

        inputs = {
            "checkout": checkout_digest(release.checkout),
            "revision": release.revision,
            "version": release.version,
            "targets": " ".join(map(str, release.targets)),
            "asked": f"lint={release.lint} dirty={release.allow_dirty} level={release.level} locks={release.locks}",
        }
        return [Piece("check", jobs.CHECK.doing, do, inputs)]

    def build(self, release: Release) -> list[Piece]:
        if release.workers:
            self._build_by_many(release)
        return [self._build(release, target) for target in release.targets]

    def _build(self, release: Release, target: Target) -> Piece:
        dist, plan = release.dist(target), release.plans(target)

        def do() -> Mapping[str, Any]:
            # A dist of this number that was not published is ours to replace; one that was, publishing will not.
            again = ["--force"] if dist.exists() and not is_current(dist, plan.key) else []
            words = ["build", target.mixtape, "--arch", target.arch, "--version", release.version, *again]
            self.verbs(*words, "--level", str(release.level), "--output-dir", release.dists, *_locks(release))
            return {"dist": str(dist), "manifest": manifest_digest(dist)}

        inputs = {"plan": plan.key, "revision": release.revision}
        return Piece(_name("build", target), f"Build {target}", do, inputs, lambda: is_current(dist, plan.key))

    def _build_by_many(self, release: Release) -> None:
        for arch in sorted({target.arch for target in release.targets}):
            lacking = [
                target.mixtape
                for target in release.targets
                if target.arch == arch and not is_current(release.dist(target), release.plans(target).key)
            ]
            if lacking:
                words = ["--workers", str(release.workers), "--arch", arch, "--version", release.version]
                where = ["--level", str(release.level), "--output-dir", release.dists, *_locks(release)]
                self.verbs.script(release.checkout / "ci" / "matrix", *lacking, *words, *where)

    def reproduce(self, release: Release) -> list[Piece]:
        return [self._reproduce(release, target) for target in release.targets]

    def _reproduce(self, release: Release, target: Target) -> Piece:
        dist, second = release.dist(target), release.work / "second"

        def do() -> Mapping[str, Any]:
            sandbox.remove(second)
            second.mkdir(parents=True)
            try:
                # All that a second builder gets from the first are downloads, which are checked by digest when read.
                self.cache.store.mkdir(parents=True, exist_ok=True)
                (second / "store").symlink_to(self.cache.store)
                words: list[str | Path] = ["rebuild", dist]
                secret = None
                if release.rebuilder_key:
                    secret = _secret(release, release.rebuilder_key, jobs.REBUILDER_KEY)
                    words = ["verify", dist, "--no-policy", "--rebuild", "--sign-with", release.rebuilder_key]
                surroundings = {"STEREO_CACHE": str(second), **_passphrase(release)}
                self.verbs(*words, *_locks(release), env=surroundings, secret=secret)
            finally:
                sandbox.remove(second)
            return {"identical": True}

        inputs = {"manifest": manifest_digest(dist), "rebuilder": release.rebuilder_key or ""}
        return Piece(_name("reproduce", target), f"Build {target} again from nothing", do, inputs)

    def boot(self, release: Release) -> list[Piece]:
        return [self._boot(release, target, form) for target in release.targets for form in FORMS]

    def _boot(self, release: Release, target: Target, form: str) -> Piece:
        dist = release.dist(target)

        def do() -> Mapping[str, Any]:
            limit = ["--timeout", str(release.boot_limit)]
            self.verbs("boot", dist, "--with", form, "--until", "ready", *limit)
            return {"form": form}

        return Piece(
            f"{_name('boot', target)}-{form}",
            f"Boot {target} by {form}",
            do,
            {"manifest": manifest_digest(dist), "form": form},
        )

    def sign(self, release: Release) -> list[Piece]:
        """Done each time: signing again with the same key changes nothing."""
        if not release.key:
            raise UsageError("no key to sign with", where="--key", hint="stereo keygen NAME makes one")
        return [self._sign(release, release.key, target) for target in release.targets]

    def _sign(self, release: Release, key: str, target: Target) -> Piece:
        def do() -> Mapping[str, Any]:
            manifest_digest(release.dist(target))
            secret = _secret(release, key, jobs.SIGNING_KEY)
            self.verbs("sign", release.dist(target), "--key", key, env=_passphrase(release), secret=secret)
            return {}

        return Piece(_name("sign", target), f"Sign {target}", do)

    def publish(self, release: Release) -> list[Piece]:
        """Done each time, and each time only what is not there yet."""
        return [self._publish(release, mixtape) for mixtape in release.mixtapes]

    def _publish(self, release: Release, mixtape: str) -> Piece:
        place = place_of(release, mixtape)

        def do() -> Mapping[str, Any]:
            dists = [release.dist(target) for target in release.targets if target.mixtape == mixtape]
            for dist in dists:
                manifest_digest(dist)
            tags = [word for tag in release.tags for word in ("--tag", tag)]
            policy: list[str | Path] = ["--policy", release.policy] if release.policy else []
            with logged_in(release.to or "", release.secrets) as login:
                self.verbs("publish", *dists, "--to", place, *tags, *policy, env=login)
            return {"to": f"{place}:{release.version}"}

        return Piece(f"publish-{mixtape}", f"Publish {mixtape} {release.version}", do)

    def retention(self, release: Release) -> list[Piece]:
        """Done each time: what there is to remove, the registry knows."""
        return [self._retention(release, mixtape) for mixtape in release.mixtapes]

    def _retention(self, release: Release, mixtape: str) -> Piece:
        place = place_of(release, mixtape)

        def do() -> Mapping[str, Any]:
            with logged_in(release.to or "", release.secrets) as login, added(login):
                done = retire(open_remote(parse_reference(place)), release.keep, report=self.verbs.report)
            return {"removed": list(done.versions), "freed": done.freed}

        return Piece(f"retention-{mixtape}", f"Remove old versions of {mixtape}", do)


def place_of(release: Release, mixtape: str) -> str:
    """The reference, without tag, of a mixtape in the root that is published to. Raises UsageError."""
    if not release.to:
        raise UsageError("nowhere to publish to", where="--to", hint="a folder, or HOST/PREFIX of a registry")
    return str(parse_root(release.to).child(mixtape))


def manifest_digest(dist: Path) -> str:
    """What stands for all files of a dist. Raises StereoError when there is none, with the job that makes it."""
    try:
        return read_manifest_with_digest(dist)[1]
    except OSError as error:
        hint = "ci/build makes it"
        raise StereoError(f"there is no dist: {error.strerror}", where=str(dist), hint=hint) from error


def checkout_digest(root: Path) -> str:
    """SHA-256 over the names and contents of all files that git does not ignore. Raises StereoError."""
    git: list[str | Path] = ["git", "-C", root, "-c", f"safe.directory={root}", "-c", "core.fsmonitor=false"]
    try:
        listed = run([*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], timeout=60).stdout
    except StereoError as error:
        hint = "a release names the revision that it is made from"
        raise StereoError("is no git checkout", where=str(root), hint=hint) from error
    digest = hashlib.sha256()
    for name in sorted(set(filter(None, listed.split("\0")))):
        path = root / name
        if path.is_symlink():
            data = os.fsencode(path.readlink())
        elif path.is_file():
            data = path.read_bytes()
        else:  # removed, but still in the index
            continue
        digest.update(f"{name}\0{len(data)}\0".encode(errors="replace") + data)
    return digest.hexdigest()


def _name(job: str, target: Target) -> str:
    return f"{job}-{target.mixtape}-{target.arch}"


def _locks(release: Release) -> list[str | Path]:
    return ["--locks", release.locks] if release.locks else []


def _secret(release: Release, key: str, variable: str) -> str | None:
    """What goes to stdin for the key "-". Raises UsageError when the variable is empty."""
    if key != "-":
        return None
    if not (secret := release.secrets.get(variable)):
        raise UsageError("is empty, and should hold a private key in PEM", where=variable, hint="or name a key file")
    return secret


def _passphrase(release: Release) -> dict[str, str]:
    """What opens the keys, for the verbs that use them."""
    return {name: value for name, value in release.secrets.items() if name == jobs.PASSPHRASE}
