"""A whole lock into the store: fall-backs, offline, and one clear error for what is gone."""

from __future__ import annotations

import base64
import hashlib
import io
import os

import pytest

from stereo.inputs.fetch import UnobtainableError
from stereo.inputs.npmrc import NpmConfig
from stereo.inputs.obtain import lock_still_fetchable, missing_of, obtain
from stereo.inputs.sources import Sources
from stereo.inputs.store import Store
from stereo.model.architecture import Architecture
from stereo.model.lock import Archive, Deb, Lock, NpmPackage, Suite, UrlFile
from stereo.report import Silent
from unit.inputs.loopback import Mirror


def content(name: str) -> bytes:
    return f"content of {name}".encode() * 50


def digest(name: str) -> str:
    return hashlib.sha256(content(name)).hexdigest()


def deb(name: str, archive: Archive = "main") -> Deb:
    return Deb(
        name=name,
        version="1:1.0+b1",
        arch="amd64",
        archive=archive,
        path=f"pool/main/{name[0]}/{name}/{name}_1.0+b1_amd64.deb",
        size=len(content(name)),
        sha256=digest(name),
    )


def url_path(name: str) -> str:
    return f"/pool/main/{name[0]}/{name}/{name}_1.0%2Bb1_amd64.deb"


SUITES = (
    Suite(suite="trixie", archive="main", date="2026-01-10T08:00:00Z"),
    Suite(suite="trixie-updates", archive="main", date="2026-02-20T09:30:05Z"),
    Suite(suite="trixie-security", archive="security", date="2026-03-30T10:00:00Z"),
)


def lock(*debs: Deb, npm: tuple[NpmPackage, ...] = (), urls: tuple[UrlFile, ...] = ()) -> Lock:
    return Lock(
        name="opencode-mixtape",
        arch=Architecture.X86_64,
        epoch=1,
        suites=SUITES,
        debian={"image": debs},
        npm=npm,
        urls=urls,
    )


def test_packages_come_from_the_archive_that_they_are_locked_in(mirror: Mirror, other: Mirror, store: Store) -> None:
    mirror.files[url_path("bash")] = content("bash")
    other.files[url_path("linux")] = content("linux")
    sources = Sources(main=(mirror.url,), security=(other.url,))
    obtain(lock(deb("bash"), deb("linux", "security")), store, sources, Silent())
    assert store.has(digest("bash"))
    assert store.has(digest("linux"))


def test_npm_and_url_files_are_obtained_too(mirror: Mirror, store: Store) -> None:
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(content("tool")).digest()).decode()
    package = NpmPackage(
        path="node_modules/@a/tool",
        name="@a/tool",
        version="1.0.0",
        integrity=integrity,
        size=len(content("tool")),
        sha256=digest("tool"),
    )
    file = UrlFile(url=f"{mirror.url}rg.tar.gz", size=len(content("rg")), sha256=digest("rg"))
    mirror.files["/@a/tool/-/tool-1.0.0.tgz"] = content("tool")
    mirror.files["/rg.tar.gz"] = content("rg")
    sources = Sources(npm=NpmConfig(mirror.url, authorization={f"//127.0.0.1:{mirror.port}/": "Bearer t0p"}))
    obtain(lock(npm=(package,), urls=(file,)), store, sources, Silent())
    sent = {request.path: request.headers.get("authorization") for request in mirror.requests}
    assert sent == {"/@a/tool/-/tool-1.0.0.tgz": "Bearer t0p", "/rg.tar.gz": None}


def test_a_full_store_needs_neither_network_nor_mirrors(store: Store) -> None:
    store.add(io.BytesIO(content("bash")))
    obtain(lock(deb("bash")), store, Sources(), Silent())


def test_a_damaged_blob_is_refetched(mirror: Mirror, store: Store) -> None:
    mirror.files[url_path("bash")] = content("bash")
    store.add(io.BytesIO(content("bash")))
    os.truncate(store.path_of(digest("bash")), 10)
    obtain(lock(deb("bash")), store, Sources(main=(mirror.url,)), Silent())
    assert store.has(digest("bash"))


def test_offline_asks_nobody_and_names_all_that_is_missing(mirror: Mirror, store: Store) -> None:
    mirror.files[url_path("bash")] = content("bash")
    with pytest.raises(UnobtainableError, match="without --offline") as caught:
        obtain(lock(deb("bash"), deb("zsh")), store, Sources(main=(mirror.url,)), Silent(), offline=True)
    assert sorted(caught.value.failures) == ["bash 1:1.0+b1 (amd64)", "zsh 1:1.0+b1 (amd64)"]
    assert mirror.requests == []


def test_offline_does_not_use_a_damaged_blob(store: Store) -> None:
    store.add(io.BytesIO(content("bash")))
    os.truncate(store.path_of(digest("bash")), 10)
    with pytest.raises(UnobtainableError, match="bash"):
        obtain(lock(deb("bash")), store, Sources(), Silent(), offline=True)


def test_the_second_mirror_and_then_the_snapshot_are_asked(mirror: Mirror, other: Mirror, store: Store) -> None:
    snapshot = f"/archive/debian/20260220T093005Z{url_path('bash')}"
    other.files[snapshot] = content("bash")
    sources = Sources(main=(f"{mirror.url}first/", f"{mirror.url}second/"), snapshot=other.url.rstrip("/"))
    obtain(lock(deb("bash")), store, sources, Silent())
    assert mirror.paths == [f"/first{url_path('bash')}", f"/second{url_path('bash')}"]
    assert other.paths == [snapshot]


def test_the_snapshot_of_the_security_archive_has_its_own_name_and_date(mirror: Mirror, store: Store) -> None:
    snapshot = f"/archive/debian-security/20260331T100000Z{url_path('linux')}"
    mirror.files[snapshot] = content("linux")
    sources = Sources(security=(f"{mirror.url}gone/",), snapshot=mirror.url.rstrip("/"))
    obtain(lock(deb("linux", "security")), store, sources, Silent())
    assert mirror.paths[-2:] == [f"/archive/debian-security/20260330T100000Z{url_path('linux')}", snapshot]


def test_what_is_gone_everywhere_is_one_error_with_every_name_and_the_remedy(mirror: Mirror, store: Store) -> None:
    mirror.files[url_path("bash")] = content("bash")
    with pytest.raises(UnobtainableError) as caught:
        obtain(lock(deb("bash"), deb("zsh"), deb("mawk")), store, Sources(main=(mirror.url,)), Silent())
    text = str(caught.value)
    assert "2 locked files cannot be obtained" in text
    assert "mawk 1:1.0+b1 (amd64)" in text
    assert "zsh 1:1.0+b1 (amd64)" in text
    assert "`stereo lock opencode-mixtape`" in text
    assert "STEREO_SNAPSHOT" in text
    assert store.has(digest("bash"))


def test_without_a_network_locking_again_is_not_the_advice(store: Store) -> None:
    with pytest.raises(UnobtainableError, match="check the network") as caught:
        obtain(lock(deb("bash")), store, Sources(main=("http://127.0.0.1:1/",)), Silent())
    assert "stereo lock" not in str(caught.value)


def test_missing_of_tells_what_would_be_fetched(store: Store) -> None:
    store.add(io.BytesIO(content("bash")))
    assert missing_of(lock(deb("bash"), deb("zsh")), store) == [deb("zsh")]


def test_whether_a_lock_is_still_fetchable_is_asked_without_fetching(mirror: Mirror) -> None:
    mirror.files[url_path("bash")] = content("bash")
    mirror.files[url_path("zsh")] = b"another size"
    missing = lock_still_fetchable(lock(deb("bash"), deb("zsh"), deb("mawk")), Sources(main=(mirror.url,)))
    assert missing == ["mawk 1:1.0+b1 (amd64)", "zsh 1:1.0+b1 (amd64)"]
    assert {request.method for request in mirror.requests} == {"HEAD"}
