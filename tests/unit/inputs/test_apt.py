"""Resolution of Debian packages, against a tiny archive signed with a key of the test's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from stereo.errors import ProblemsError, StereoError
from stereo.inputs import apt
from stereo.inputs.lock import make_lock
from stereo.inputs.sources import Sources
from stereo.model.architecture import Architecture
from stereo.model.lock import Deb, Lock, render_lock
from stereo.report import Silent
from unit.inputs import signed_archive
from unit.inputs.signed_archive import DATE, Package, Signer, publish

pytestmark = pytest.mark.skipif(not signed_archive.HAS_TOOLS, reason="needs apt-get, gpg and gpgv")

MAIN = (
    Package("base-files", fields={"Essential": "yes"}),
    Package("bash", fields={"Essential": "yes", "Pre-Depends": "libc6"}),
    Package("libc6", "2:2.41-12+deb13u1"),
    Package("linux", "6.12.107-1"),
    Package("agent", fields={"Depends": "data, virtual", "Recommends": "extra"}),
    Package("data", arch="all"),
    Package("extra"),
    Package("provider", fields={"Provides": "virtual"}),
    Package("apt"),
    Package("broken", fields={"Depends": "nowhere"}),
    Package("base-files", arch="arm64", fields={"Essential": "yes"}),
    Package("agent", "1.0-arm", arch="arm64"),
)
UPDATES = (Package("data", "1.1", arch="all"),)
SECURITY = (Package("linux", "6.12.117-1"), Package("data", "1.0.5", arch="all"))


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    made = Signer(tmp_path_factory.mktemp("g") / "home")
    yield made
    made.close()


def archive(folder: Path, signer: Signer, *, later: timedelta = timedelta(0)) -> Sources:
    publish(folder / "debian", "trixie", MAIN, signer)
    publish(folder / "debian", "trixie-updates", UPDATES, signer, date=DATE + timedelta(days=1))
    publish(folder / "security", "trixie-security", SECURITY, signer, date=DATE + timedelta(days=2) + later)
    return served(folder, signer)


def served(folder: Path, signer: Signer) -> Sources:
    return Sources(main=(f"file://{folder}/debian/",), security=(f"file://{folder}/security/",), keyring=signer.keyring)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> Path:
    folder = tmp_path_factory.mktemp("published")
    archive(folder, signer)
    return folder


@pytest.fixture
def sources(tmp_path: Path, published: Path, signer: Signer) -> Sources:
    """The archive in `tmp_path`, for the test to change as it likes."""
    shutil.copytree(published, tmp_path, dirs_exist_ok=True)
    return served(tmp_path, signer)


def resolved(sources: Sources, *packages: str, arch: Architecture = Architecture.X86_64) -> dict[str, Deb]:
    with apt.opened(arch, sources) as resolver:
        return {deb.name: deb for deb in resolver.resolve(packages)}


def made(sources: Sources, *packages: str, previous: Lock | None = None) -> Lock:
    return make_lock(
        "mix", Architecture.X86_64, {"image": packages}, sources=sources, report=Silent(), previous=previous
    )


def test_dependencies_and_essential_packages_are_taken_and_recommendations_are_not(sources: Sources) -> None:
    assert sorted(resolved(sources, "agent")) == ["agent", "base-files", "bash", "data", "libc6", "provider"]


def test_a_row_holds_what_the_verified_index_says(sources: Sources) -> None:
    package = MAIN[2]
    assert resolved(sources)["libc6"] == Deb(
        name="libc6",
        version="2:2.41-12+deb13u1",
        arch="amd64",
        archive="main",
        path="pool/main/l/libc6/libc6_2.41-12+deb13u1_amd64.deb",
        size=len(package.content),
        sha256=package.stanza().partition("SHA256: ")[2].strip(),
    )


def test_the_newest_version_of_the_three_suites_is_taken(sources: Sources) -> None:
    found = resolved(sources, "linux", "data")
    assert (found["linux"].version, found["linux"].archive) == ("6.12.117-1", "security")
    assert (found["data"].version, found["data"].archive) == ("1.1", "main")


def test_another_architecture_is_resolved_as_its_own(sources: Sources) -> None:
    found = resolved(sources, "agent", arch=Architecture.AARCH64)
    assert {name: deb.arch for name, deb in found.items()} == {"agent": "arm64", "base-files": "arm64"}


def test_the_suites_are_recorded_with_their_signed_dates(sources: Sources) -> None:
    lock = made(sources, "agent")
    assert [(row.suite, row.archive, row.date) for row in lock.suites] == [
        ("trixie", "main", "2026-03-01T12:00:00Z"),
        ("trixie-security", "security", "2026-03-03T12:00:00Z"),
        ("trixie-updates", "main", "2026-03-02T12:00:00Z"),
    ]
    assert lock.epoch == int((DATE + timedelta(days=2)).timestamp())


def test_locking_twice_changes_nothing(sources: Sources) -> None:
    first = made(sources, "agent")
    assert render_lock(made(sources, "agent", previous=first)) == render_lock(first)
    assert render_lock(made(sources, "agent")) == render_lock(first)


def test_the_same_packages_signed_anew_change_nothing(tmp_path: Path, signer: Signer, sources: Sources) -> None:
    first = made(sources, "agent")
    archive(tmp_path, signer, later=timedelta(days=5))
    assert made(sources, "agent", previous=first) is first
    assert made(sources, "agent").epoch > first.epoch


def test_a_new_package_brings_the_new_date(tmp_path: Path, signer: Signer, sources: Sources) -> None:
    first = made(sources, "agent")
    archive(tmp_path, signer, later=timedelta(days=5))
    assert made(sources, "agent", "extra", previous=first).epoch > first.epoch


def test_the_mirrors_address_does_not_change_the_lock(tmp_path: Path, signer: Signer, sources: Sources) -> None:
    elsewhere = archive(tmp_path / "quite/another place".replace(" ", "_"), signer)
    assert made(elsewhere, "agent", "linux") == made(sources, "agent", "linux")


def test_all_packages_that_do_not_exist_are_named(sources: Sources) -> None:
    with pytest.raises(ProblemsError) as caught:
        resolved(sources, "agent", "nonesuch", "nowhere")
    assert [problem.key for problem in caught.value.problems] == ["nonesuch", "nowhere"]


def test_packages_that_cannot_be_installed_say_what_apt_says(sources: Sources) -> None:
    with pytest.raises(StereoError, match="broken : Depends: nowhere"):
        resolved(sources, "broken")


@pytest.mark.parametrize("name", ["-oDir=/", "--yes", "a b", "../x.deb", "./x.deb", "agent=1.0;x", "Agent", ""])
def test_what_is_no_package_name_never_reaches_apt(sources: Sources, name: str) -> None:
    with pytest.raises(ProblemsError, match="is not a Debian package name"):
        resolved(sources, name)


def test_an_index_signed_by_another_key_is_refused(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, sources: Sources
) -> None:
    stranger = Signer(tmp_path_factory.mktemp("s") / "home")
    publish(tmp_path / "debian", "trixie", MAIN, stranger)
    stranger.close()
    with pytest.raises(StereoError, match="could not obtain verified indexes"):
        resolved(sources, "agent")


def test_an_unsigned_index_is_refused(tmp_path: Path, sources: Sources) -> None:
    publish(tmp_path / "security", "trixie-security", SECURITY, None)
    with pytest.raises(StereoError, match="could not obtain verified indexes"):
        resolved(sources, "agent")


def test_an_index_that_differs_from_what_was_signed_is_refused(tmp_path: Path, sources: Sources) -> None:
    index = tmp_path / "debian/dists/trixie/main/binary-amd64/Packages.gz"
    index.write_bytes(index.read_bytes()[:-1] + b"\1")
    with pytest.raises(StereoError, match="could not obtain verified indexes"):
        resolved(sources, "agent")


def test_another_release_under_the_name_of_ours_is_refused(tmp_path: Path, signer: Signer, sources: Sources) -> None:
    publish(tmp_path / "debian", "trixie", MAIN, signer, codename="sid")
    with pytest.raises(StereoError):
        made(sources, "agent")


def test_a_mirror_that_fails_is_passed_over(tmp_path: Path, sources: Sources) -> None:
    first = Sources(
        main=(f"file://{tmp_path}/none/", *sources.main),
        security=(f"file://{tmp_path}/none/", *sources.security),
        keyring=sources.keyring,
    )
    assert "agent" in resolved(first, "agent")


def test_a_missing_keyring_names_the_package_that_has_it(tmp_path: Path, sources: Sources) -> None:
    with pytest.raises(StereoError, match="apt install debian-archive-keyring"):
        resolved(Sources(sources.main, sources.security, tmp_path / "none.gpg"), "agent")


def test_a_setting_of_the_host_that_could_break_out_is_not_passed_on(sources: Sources) -> None:
    hostile = Sources(
        sources.main, sources.security, sources.keyring, apt_acquire=(("Acquire::http::Proxy", 'x"; Dir "/'),)
    )
    with pytest.raises(StereoError, match="cannot be passed on"):
        resolved(hostile, "agent")


def test_a_virtual_package_is_refused_by_name_since_nobody_could_find_it_in_the_lock(sources: Sources) -> None:
    with pytest.raises(ProblemsError) as caught:
        resolved(sources, "virtual")
    (problem,) = caught.value.problems
    assert (problem.key, problem.message) == ("virtual", "is a virtual package")
