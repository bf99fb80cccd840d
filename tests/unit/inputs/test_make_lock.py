"""What stays and what changes when a lock is made again, and how the change is told."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from stereo.errors import StereoError
from stereo.inputs import apt
from stereo.inputs.lock import diff_locks, make_lock
from stereo.inputs.sources import Sources
from stereo.inputs.store import Store
from stereo.model.architecture import Architecture
from stereo.model.lock import Archive, Deb, Lock, Suite, UrlFile
from stereo.report import Silent
from unit.inputs.loopback import Mirror


def deb(name: str, version: str = "1.0", *, archive: Archive = "main", sha256: str = "ab" * 32) -> Deb:
    path = f"pool/main/{name[0]}/{name}/{name}_{version}_amd64.deb"
    return Deb(name=name, version=version, arch="amd64", archive=archive, path=path, size=1, sha256=sha256)


def lock(*debs: Deb, urls: tuple[UrlFile, ...] = ()) -> Lock:
    return Lock(name="mix", arch=Architecture.X86_64, epoch=1, debian={"image": debs}, urls=urls)


class _Apt:
    def suites(self) -> tuple[Suite, ...]:
        return tuple(Suite(suite=suite, archive=kind, date="2026-01-01T00:00:00Z") for suite, kind in apt.SUITES)

    def resolve(self, packages: Sequence[str]) -> tuple[Deb, ...]:
        return tuple(deb(name) for name in packages)


@pytest.fixture
def _no_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def opened(*_: object) -> Iterator[_Apt]:
        yield _Apt()

    monkeypatch.setattr(apt, "opened", opened)


def made(store: Store, *urls: tuple[str, str], previous: Lock | None = None) -> Lock:
    return make_lock(
        "mix",
        Architecture.X86_64,
        {"image": ["bash"]},
        sources=Sources(),
        report=Silent(),
        store=store,
        urls=urls,
        previous=previous,
    )


@pytest.mark.usefixtures("_no_apt")
def test_a_file_is_locked_with_the_size_that_was_found(mirror: Mirror, store: Store) -> None:
    mirror.files["/rg"] = b"binary"
    digest = hashlib.sha256(b"binary").hexdigest()
    found = made(store, (f"{mirror.url}rg", digest))
    assert found.urls == (UrlFile(url=f"{mirror.url}rg", size=6, sha256=digest),)
    assert store.has(digest)


@pytest.mark.usefixtures("_no_apt")
def test_a_file_that_an_earlier_lock_knows_is_not_fetched_again(mirror: Mirror, store: Store) -> None:
    mirror.files["/rg"] = b"binary"
    pair = (f"{mirror.url}rg", hashlib.sha256(b"binary").hexdigest())
    first = made(store, pair)
    assert made(store, pair, previous=first) is first
    assert len(mirror.requests) == 1


@pytest.mark.usefixtures("_no_apt")
def test_a_file_of_another_digest_is_refused(mirror: Mirror, store: Store) -> None:
    mirror.files["/rg"] = b"evil"
    with pytest.raises(StereoError, match="has changed, or the mixtape has the wrong digest"):
        made(store, (f"{mirror.url}rg", "ab" * 32))


@pytest.mark.usefixtures("_no_apt")
def test_an_address_that_a_lock_cannot_hold_is_an_error_not_a_crash(mirror: Mirror, store: Store) -> None:
    mirror.files["/a'b"] = b"x"
    with pytest.raises(StereoError, match="cannot be locked"):
        made(store, (f"{mirror.url}a'b", hashlib.sha256(b"x").hexdigest()))


@pytest.mark.usefixtures("_no_apt")
def test_a_file_that_is_gone_is_named(mirror: Mirror, store: Store) -> None:
    with pytest.raises(StereoError, match="rg answers 404"):
        made(store, (f"{mirror.url}rg", "ab" * 32))


def test_equal_locks_do_not_differ() -> None:
    assert diff_locks(lock(deb("bash")), lock(deb("bash"))) == []


def test_each_change_is_told_in_words() -> None:
    old = lock(
        deb("gone"), deb("kernel", "6.12.107-1"), deb("lib", "1.10"), deb("same"), deb("swapped"), deb("plain", "1.9")
    )
    new = lock(
        deb("kernel", "6.12.117-1", archive="security"),
        deb("lib", "1.9"),
        deb("new"),
        deb("plain", "1.10"),
        deb("same"),
        deb("swapped", sha256="cd" * 32),
    )
    assert diff_locks(old, new) == [
        "image: gone 1.0 is no longer needed",
        "image: kernel 6.12.107-1 → 6.12.117-1 (security)",
        "image: lib 1.10 → 1.9 (a downgrade)",
        "image: new 1.0 is new",
        "image: plain 1.9 → 1.10",
        "image: swapped 1.0 has other content under the same version",
    ]


def test_a_file_with_a_new_digest_is_told() -> None:
    old, new = (UrlFile(url="https://a.invalid/x", size=1, sha256=digit * 64) for digit in "ab")
    assert diff_locks(lock(urls=(old,)), lock(urls=(new,))) == [
        f"urls: https://a.invalid/x {'a' * 12} → {'b' * 12}",
    ]
