"""A small set of packages, really locked and fetched from the host's own mirrors and registries."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from stereo.errors import ProblemsError, StereoError
from stereo.inputs.fetch import UnobtainableError
from stereo.inputs.lock import diff_locks, make_lock
from stereo.inputs.obtain import lock_still_fetchable, missing_of, obtain
from stereo.inputs.sources import Sources
from stereo.inputs.store import Store
from stereo.model.architecture import Architecture
from stereo.model.lock import Lock, parse_lock, render_lock, sorted_lock
from stereo.report import Silent

PACKAGES = {"image": ["busybox-static", "linux-image-cloud-amd64"], "tools": ["erofs-utils"]}


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources.from_host()


@pytest.fixture(scope="module")
def locked(sources: Sources) -> Lock:
    return make_lock("try", Architecture.X86_64, PACKAGES, sources=sources, report=Silent())


def test_a_second_lock_is_the_same_text(sources: Sources, locked: Lock) -> None:
    again = make_lock("try", Architecture.X86_64, PACKAGES, sources=sources, report=Silent(), previous=locked)
    assert render_lock(again) == render_lock(locked)
    assert diff_locks(locked, again) == []


def test_the_lock_survives_its_text_and_names_no_address(locked: Lock) -> None:
    text = render_lock(locked)
    assert parse_lock(text, "try.lock") == sorted_lock(locked)
    assert "://" not in text


def test_the_lock_is_a_whole_system_of_trixie(locked: Lock) -> None:
    names = {deb.name for deb in locked.image}
    assert {"base-files", "bash", "libc6", "dpkg", "busybox-static"} <= names
    assert "apt" not in names
    assert [suite.suite for suite in locked.suites] == ["trixie", "trixie-security", "trixie-updates"]
    assert "erofs-utils" in {deb.name for deb in locked.tools}


def test_another_architecture_is_locked_from_here(sources: Sources) -> None:
    lock = make_lock("try", Architecture.AARCH64, {"image": ["bash"]}, sources=sources, report=Silent())
    assert {deb.arch for deb in lock.image} == {"arm64", "all"}


def test_all_unknown_packages_are_named(sources: Sources) -> None:
    groups = {"image": ["bash", "no-such-package", "nor-this-one"]}
    with pytest.raises(ProblemsError) as caught:
        make_lock("try", Architecture.X86_64, groups, sources=sources, report=Silent())
    assert [problem.key for problem in caught.value.problems] == ["no-such-package", "nor-this-one"]


def test_what_is_locked_can_be_fetched_and_is_then_there_offline(
    sources: Sources, locked: Lock, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    assert lock_still_fetchable(locked, sources) == []
    with pytest.raises(UnobtainableError):
        obtain(locked, store, sources, Silent(), offline=True)
    obtain(locked, store, sources, Silent())
    obtain(locked, store, Sources(), Silent(), offline=True)
    assert missing_of(locked, store) == []
    (busybox,) = (deb for deb in locked.image if deb.name == "busybox-static")
    told = subprocess.run(
        ["dpkg-deb", "--field", str(store.path_of(busybox.sha256)), "Package", "Version"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert told == f"Package: busybox-static\nVersion: {busybox.version}\n"


def test_an_npm_package_and_a_wheel_are_locked_and_fetched(sources: Sources, tmp_path: Path) -> None:
    first, second = Store(tmp_path / "first"), Store(tmp_path / "second")
    lock = make_lock(
        "try",
        Architecture.X86_64,
        {},
        sources=sources,
        report=Silent(),
        store=first,
        npm=["opencode-linux-x64-baseline@1.18.33"],
        pypi=["click"],
    )
    assert [(row.name, row.version) for row in lock.npm] == [("opencode-linux-x64-baseline", "1.18.33")]
    assert [row.name for row in lock.wheels] == ["click"]
    obtain(lock, first, Sources(), Silent(), offline=True)
    obtain(lock, second, sources, Silent())
    assert missing_of(lock, second) == []


def test_a_closure_of_npm_packages_is_resolved_by_npm(sources: Sources, tmp_path: Path) -> None:
    lock = make_lock(
        "try",
        Architecture.X86_64,
        {},
        sources=sources,
        report=Silent(),
        store=Store(tmp_path),
        npm=["wrap-ansi@7.0.0"],
    )
    paths = [row.path for row in lock.npm]
    assert "node_modules/wrap-ansi" in paths
    assert "node_modules/ansi-styles" in paths
    assert lock.requested == {"npm": ("wrap-ansi@7.0.0",)}


def test_a_mirror_with_another_key_is_refused(sources: Sources, tmp_path: Path) -> None:
    empty = tmp_path / "empty.gpg"
    empty.touch()
    strict = Sources(main=sources.main, security=sources.security, keyring=empty)
    with pytest.raises(StereoError, match="could not obtain verified indexes"):
        make_lock("try", Architecture.X86_64, {"image": ["bash"]}, sources=strict, report=Silent())
