"""What people may type to name a published mixtape, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.errors import UsageError
from stereo.registry.reference import Reference, default_root, is_loopback, parse_reference, parse_root, split_host

DIGEST = "sha256:" + "ab" * 32
_hosts = st.sampled_from(["registry.example", "localhost:5000", "127.0.0.1:80", "[::1]:5000", "a-b.example:443"])
_names = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-)[a-z0-9]{1,8}){0,2}", fullmatch=True)
_tags = st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)
_digests = st.none() | st.just(DIGEST)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("registry.example/a/b:1", Reference("registry", "registry.example", "a/b", tag="1")),
        ("localhost:5000/base", Reference("registry", "localhost:5000", "base")),
        ("localhost/base:x", Reference("registry", "localhost", "base", tag="x")),
        (f"[::1]:5000/base:1@{DIGEST}", Reference("registry", "[::1]:5000", "base", tag="1", digest=DIGEST)),
        ("oci:/srv/base:1", Reference("layout", path="/srv/base", tag="1")),
        ("/srv/x/../base", Reference("layout", path="/srv/base")),
        (f"/srv/a:b/base@{DIGEST}", Reference("layout", path="/srv/a:b/base", digest=DIGEST)),
        ("https://h.example/a/b:1", Reference("static", "h.example", path="a/b", tag="1", scheme="https")),
        ("http://127.0.0.1:80", Reference("static", "127.0.0.1:80", scheme="http")),
        ("https://h.example/:1", Reference("static", "h.example", tag="1", scheme="https")),
    ],
)
def test_each_form_names_its_kind_of_place(text: str, found: Reference) -> None:
    assert parse_reference(text) == found


def test_a_relative_path_is_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_reference("./base:1") == Reference("layout", path=f"{tmp_path}/base", tag="1")
    assert parse_reference("oci:base") == Reference("layout", path=f"{tmp_path}/base")


def test_bare_names_are_in_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("STEREO_REGISTRY", raising=False)
    assert parse_reference("base:latest") == Reference("layout", path=f"{tmp_path}/stereo/registry/base", tag="latest")


@pytest.mark.parametrize(
    ("root", "full"),
    [
        ("registry.example", "registry.example/base:1"),
        ("registry.example/mixtapes", "registry.example/mixtapes/base:1"),
        ("oci:/srv/x", "oci:/srv/x/base:1"),
        ("https://h.example/x", "https://h.example/x/base:1"),
    ],
)
def test_or_in_the_root_that_the_environment_names(root: str, full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEREO_REGISTRY", root)
    assert parse_reference("base:1") == parse_reference(full)
    assert parse_root(None) == parse_root(root) == default_root()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " base",
        "base\n",
        "ba\x1bse",
        "Base",
        "base..x",
        "foo/bar",
        "registry.example/Base",
        "localhost:5000",
        "127.0.0.1:5000",
        "registry.example/a//b",
        "registry.example/../b",
        "registry.example/a:" + "t" * 129,
        "registry.example/a@sha256:12",
        "registry.example/a@sha512:" + "ab" * 64,
        "registry.example:99999/a",
        "registry.example:0/a",
        "registry.example:²/a",
        "localhost:²",
        "http://registry.example:²/a",
        "-registry.example/a",
        "[::g]:5000/a",
        "oci:",
        "https://h.example/../x",
        "https://h.example/a?b",
        "https://h.example/a#b",
        "https:///a",
        "ftp://h.example/a",
        "file:///etc",
        "a" * 5000,
        "a.b/" + "c" * 300,
    ],
)
def test_what_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_reference(text)


def test_a_password_in_a_reference_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference("https://me:secret@h.example/base")
    assert "secret" not in str(caught.value)


@given(_hosts, st.lists(_names, min_size=1, max_size=3), _tags, _digests)
def test_a_reference_is_read_as_it_was_written(
    host: str, names: list[str], tag: str | None, digest: str | None
) -> None:
    for one in (
        Reference("registry", host, "/".join(names), tag=tag, digest=digest),
        Reference("layout", path="/" + "/".join(names), tag=tag, digest=digest),
        Reference("static", host, path="/".join(names), tag=tag, digest=digest, scheme="https"),
    ):
        assert parse_reference(str(one)) == one


@given(st.text(max_size=200) | st.from_regex(r"[a-zA-Z0-9:/@.\[\]_-]{1,80}", fullmatch=True))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        found = parse_reference(text)
    except UsageError as error:
        said = str(error)
    else:
        said = ""
        assert parse_reference(str(found)) == found
        assert ".." not in found.repository.split("/")
        assert ".." not in found.path.split("/")
    assert said.isprintable()


@pytest.mark.timeout(10)
def test_long_hosts_take_no_time() -> None:
    for text in ("a" * 262 + "!", "a." * 131 + "!", "a-" * 131):
        with pytest.raises(UsageError):
            parse_reference(f"{text}/x")


def test_a_child_of_a_root_must_have_a_name() -> None:
    with pytest.raises(UsageError):
        parse_root("/srv").child("../x")
    with pytest.raises(UsageError):
        parse_root("registry.example").child("../x")
    assert str(parse_root("registry.example").child("a/b")) == "registry.example/a/b"


def test_a_tag_must_be_one() -> None:
    with pytest.raises(UsageError):
        parse_reference("registry.example/a").with_tag("../x")
    assert str(parse_reference("registry.example/a:1").with_tag("2")) == "registry.example/a:2"


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "LocalHost.", "127.1.2.3:80", "[::1]:80", "::1"])
def test_this_machine_is_known_by_its_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.example", "128.0.0.1", "[::2]:80", "127.0.0.1.example:80", "2130706433"])
def test_others_are_not_taken_for_it(host: str) -> None:
    assert not is_loopback(host)


def test_hosts_and_ports_come_apart() -> None:
    assert split_host("a.example:80") == ("a.example", 80)
    assert split_host("[::1]:80") == ("::1", 80)
    assert split_host("::1") == ("::1", None)
    assert split_host("a.example:²") == ("a.example:²", None)
