"""Dists to publish, remotes that record or end what is done to them, and a reader that misses nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from makers.dist import OS_RELEASE, make_dist
from makers.node import SAMPLE, file
from stereo.model.architecture import Architecture
from stereo.model.manifest import parse_manifest
from stereo.registry import media
from stereo.registry.documents import Descriptor
from stereo.registry.layout import LayoutRemote
from stereo.registry.parse import parse_artifact, parse_index
from stereo.registry.reference import Reference
from stereo.registry.remote import Advance, Remote, checked_blob
from stereo.report import Silent
from stereo.trust.keyfiles import load_secret, make_key
from stereo.trust.sign import Terms, sign_dist

NAME, VERSION = "sample-mixtape", "2026.01.02.0"
NOW = datetime(2026, 2, 1, tzinfo=UTC)


def release(
    folder: Path,
    version: str = VERSION,
    kernel: bytes = b"kernel" * 2000,
    content: bytes = b"content",
    name: str = NAME,
    arch: Architecture = Architecture.X86_64,
) -> Path:
    """A dist of that mixtape in that version, with `content` in its root."""
    said = file(OS_RELEASE.replace(VERSION.encode(), version.encode()).replace(NAME.encode(), name.encode()))
    root = {**SAMPLE, "/usr/lib/os-release": said, "/usr/content": file(content)}
    make_dist(folder, root=root, kernel=kernel, arch=arch)
    manifest = folder / "mixtape.toml"
    manifest.write_text(manifest.read_text().replace(VERSION, version).replace(NAME, name))
    return folder


def signed(dist: Path, keys: Path, name: str = "release") -> Path:
    """The dist, signed by a new key; returns the public key."""
    made = make_key(name, "ed25519", keys)
    manifest = parse_manifest((dist / "mixtape.toml").read_bytes(), "mixtape.toml")
    sign_dist(dist, manifest, load_secret(keys / f"{name}.key"), Terms(NOW), Silent())
    assert made
    return keys / f"{name}.pub"


def layout(folder: Path) -> LayoutRemote:
    return LayoutRemote(Reference("layout", path=str(folder)))


class Killed(BaseException):
    """As if the process had ended here."""


class Recorder(LayoutRemote):
    """A layout that writes down what changes it, tells `after` of each change, and dies before change number `last`."""

    def __init__(self, folder: Path, last: int | None = None, after: Callable[[str], object] = lambda _: None) -> None:
        super().__init__(Reference("layout", path=str(folder)))
        self.changes: list[str] = []
        self._last, self._after = last, after

    def put_blob(self, blob: Descriptor, content: Path | bytes, advance: Advance = lambda _: None) -> bool:
        if blob.media_type in (media.IMAGE_MANIFEST, media.IMAGE_INDEX):  # a layout's way to store documents
            return super().put_blob(blob, content, advance)
        self._before()
        done = super().put_blob(blob, content, advance)
        self._done(f"blob {blob.title or blob.media_type}")
        return done

    def put_manifest(self, document: bytes, media_type: str, tag: str | None = None) -> Descriptor:
        self._before()
        done = super().put_manifest(document, media_type, tag)
        if media_type == media.IMAGE_INDEX:
            what = "index"
        else:
            artifact = parse_artifact(document)
            what = f"{'referrer' if artifact.subject else 'manifest'} {artifact.artifact_type}"
        self._done(f"tag {'cosign' if tag.endswith('.att') else tag}" if tag else what)
        return done

    def _before(self) -> None:
        if self._last is not None and len(self.changes) >= self._last:
            raise Killed

    def _done(self, what: str) -> None:
        self.changes.append(what)
        self._after(what)


def everything(remote: Remote) -> dict[str, str]:
    """What each tag names. Fails if anything that can be reached from there is missing or damaged."""
    named = {}
    for tag in remote.tags():
        described, document = remote.get_manifest(tag)
        named[tag] = described.digest
        if described.media_type != media.IMAGE_INDEX:
            _follow(remote, document)
            continue
        for entry in parse_index(document).entries:
            _follow(remote, remote.get_manifest(entry.digest)[1])
            for one in remote.referrers(entry.digest):
                _follow(remote, remote.get_manifest(one.digest)[1])
    return named


def _follow(remote: Remote, document: bytes) -> None:
    artifact = parse_artifact(document)
    for blob in (artifact.config, *artifact.layers):
        for _ in checked_blob(remote, blob):
            pass
