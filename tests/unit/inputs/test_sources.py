"""What the host's configuration and its overrides amount to."""

from __future__ import annotations

from pathlib import Path

import pytest

from stereo import process
from stereo.errors import StereoError, UsageError
from stereo.inputs.sources import Overrides, Sources, archives_of_host, redacted

MAIN = "http://mirror.invalid/debian/"
SECURITY = "http://mirror.invalid/debian-security/"


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    for folder in ("sources.list.d", "apt.conf.d", "preferences.d"):
        (tmp_path / folder).mkdir()
    return tmp_path


def archives(etc: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    state = etc / "state"
    state.mkdir(exist_ok=True)
    return archives_of_host(["-o", f"Dir::Etc={etc}", "-o", f"Dir::State={state}"])


def test_one_line_sources_are_read(etc: Path) -> None:
    (etc / "sources.list").write_text(
        f"deb {MAIN} bookworm main contrib\n"
        f"deb [arch=amd64] {MAIN} bookworm-updates main\n"
        f"# deb http://off.invalid/debian bookworm main\n"
        f"deb {SECURITY} bookworm-security main\n"
    )
    assert archives(etc) == ((MAIN,), (SECURITY,))


def test_deb822_sources_are_read(etc: Path) -> None:
    (etc / "sources.list.d/debian.sources").write_text(
        f"Types: deb\n# a comment\nURIs: {MAIN.rstrip('/')}\nSuites: bookworm bookworm-updates\nComponents: main\n\n"
        f"Types: deb\nURIs: {SECURITY}\nSuites: bookworm-security\nComponents: main\n\n"
        f"Types: deb\nEnabled: no\nURIs: http://off.invalid/debian\nSuites: bookworm\nComponents: main\n"
    )
    assert archives(etc) == ((MAIN,), (SECURITY,))


def test_several_mirrors_are_fall_backs_in_their_order(etc: Path) -> None:
    second = "http://second.invalid/debian/"
    (etc / "sources.list.d/debian.sources").write_text(
        f"Types: deb\nURIs: {MAIN} {second}\nSuites: trixie trixie-updates\nComponents: main\n"
    )
    assert archives(etc) == ((MAIN, second), ())


def test_debians_own_archive_comes_before_a_vendors(etc: Path) -> None:
    (etc / "sources.list").write_text(
        f"deb http://vendor.invalid/apt bookworm main\ndeb {MAIN} bookworm main\ndeb {MAIN} bookworm-updates main\n"
    )
    assert archives(etc)[0] == (MAIN, "http://vendor.invalid/apt/")


def test_other_suites_and_components_are_no_mirror_of_debian(etc: Path) -> None:
    (etc / "sources.list").write_text(
        "deb http://a.invalid/apt bookworm stable\ndeb http://b.invalid/apt bookworm-pgdg main\n"
        "deb-src http://c.invalid/debian bookworm main\ndeb http://d.invalid/flat ./\n"
    )
    assert archives(etc) == ((), ())


def test_a_mirror_list_in_a_file_stands_for_its_mirrors(etc: Path) -> None:
    mirrors = etc / "mirrors.list"
    mirrors.write_text(f"{MAIN}\tpriority:1\n# http://off.invalid/\nhttp://second.invalid/debian\nnonsense\n\n")
    (etc / "sources.list").write_text(f"deb mirror+file:{mirrors} bookworm main\n")
    assert archives(etc)[0] == (MAIN, "http://second.invalid/debian/")


def test_options_stand_above_the_environment_and_it_above_the_host() -> None:
    env = {"STEREO_MIRROR": "http://e1.invalid/d http://e2.invalid/d/", "STEREO_SECURITY_MIRROR": "http://es.invalid"}
    by_environment = Sources.from_host(env=env)
    assert by_environment.main == ("http://e1.invalid/d/", "http://e2.invalid/d/")
    assert by_environment.security == ("http://es.invalid/",)
    by_option = Sources.from_host(Overrides(mirror=(MAIN,)), env=env)
    assert (by_option.main, by_option.security) == ((MAIN,), ("http://es.invalid/",))


def test_a_snapshot_archive_may_be_named() -> None:
    env = {"STEREO_MIRROR": MAIN, "STEREO_SECURITY_MIRROR": SECURITY, "STEREO_SNAPSHOT": "http://snap.invalid/"}
    assert Sources.from_host(env=env).snapshot == "http://snap.invalid"
    assert Sources.from_host(env=env | {"STEREO_SNAPSHOT": ""}).snapshot is None


@pytest.mark.parametrize("address", ["mirror.invalid/debian", "ftp://mirror.invalid", "http://", "http://[x", "-o x"])
def test_an_address_that_is_none_is_wrong_usage(address: str) -> None:
    with pytest.raises(UsageError, match="not the address of a mirror"):
        Sources.from_host(Overrides(mirror=(address,), security_mirror=(SECURITY,)), env={})


def test_a_missing_archive_is_named_with_the_option_that_names_it() -> None:
    with pytest.raises(StereoError, match="STEREO_SECURITY_MIRROR"):
        Sources(main=(MAIN,)).archive("security")
    with pytest.raises(StereoError, match="STEREO_MIRROR"):
        Sources().archive("main")


def test_how_to_reach_servers_is_taken_from_apt_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    dump = (
        "Acquire::http::Proxy\thttp://proxy.invalid:3128\n"
        "Acquire::http::Proxy::mirror.invalid\tDIRECT\n"
        "Acquire::Check-Valid-Until\tfalse\n"
        "Acquire::IndexTargets::deb::Packages::MetaKey\tx\n"
        "APT::Update::Post-Invoke::\trm -rf /\n"
        "APT::Get::AllowUnauthenticated\ttrue\n"
        "Acquire::AllowInsecureRepositories\ttrue\n"
    )
    finished = process.Finished(("apt-config",), dump, "", 0.0)
    monkeypatch.setattr(process, "run", lambda *_words, **_more: finished)
    found = Sources.from_host(Overrides(mirror=(MAIN,), security_mirror=(SECURITY,)), env={"NPM_CONFIG_REGISTRY": MAIN})
    assert [key for key, _ in found.apt_acquire] == [
        "Acquire::http::Proxy",
        "Acquire::http::Proxy::mirror.invalid",
        "Acquire::Check-Valid-Until",
    ]
    assert found.debian_proxies == {"http": "http://proxy.invalid:3128"}


def test_messages_hold_no_credentials() -> None:
    assert redacted("https://me:pw@host.invalid:1/path?token=x#y") == "https://…@host.invalid:1/path"
    assert redacted("http://[broken") == "an address that is none"
