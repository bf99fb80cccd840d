"""Policies: what a person may write, every fault of it at once and in words, and which one is asked."""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from makers.signing import new_key
from stereo.errors import ProblemsError, UsageError
from stereo.model.document import MOST_BYTES
from stereo.paths import Checkout, default_policy
from stereo.trust.policy import Kind, Policy, load_policy, parse_policy, policy_of_keys, policy_schema
from stereo.trust.policy_page import EXAMPLE, policy_page

DOCS = Checkout.containing_this_package().root / "docs"
GOOD = """
schema = 1
[[key]]
name = "pipeline"
public_key = "release.pub"
roles = ["release", "provenance"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys, where policies may name them."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("release", "other", "pipeline-2026", "university", "alice"):
        new_key(folder, name)
    return folder


def read(folder: Path, text: str) -> Policy:
    return parse_policy(text.encode(), folder / "policy.toml")


def faults(folder: Path, text: str) -> dict[str, str]:
    """What is wrong, by key; each with a hint."""
    with pytest.raises(ProblemsError) as caught:
        read(folder, text)
    assert all(problem.hint for problem in caught.value.problems), caught.value
    assert len({problem.key for problem in caught.value.problems}) == len(caught.value.problems)
    return {problem.key: problem.message for problem in caught.value.problems}


def hints(folder: Path, text: str) -> str:
    with pytest.raises(ProblemsError) as caught:
        read(folder, text)
    return " ".join(str(problem.hint) for problem in caught.value.problems)


def test_a_policy_of_few_words(folder: Path) -> None:
    policy = read(folder, GOOD)
    (key,) = policy.key
    assert key.public_key.pem == (folder / "release.pub").read_bytes()
    assert (key.roles, key.mixtapes) == ((Kind.RELEASE, Kind.PROVENANCE), ("*",))
    assert policy.require.numbers == {Kind.RELEASE: 1, Kind.PROVENANCE: 1, Kind.REBUILD: 0}
    assert policy.key_of(key.public_key.keyid) is key
    assert policy.key_of("0" * 64) is None


def test_the_example_is_a_policy(folder: Path) -> None:
    policy = read(folder, EXAMPLE)
    assert [key.name for key in policy.key] == ["pipeline-2026", "university", "alice"]
    assert policy.key[0].openpgp == (folder / "pipeline-2026.gpg").read_bytes()
    assert policy.key[0].not_after == datetime(2026, 12, 31, 23, 59, 59, 999999, UTC)
    assert policy.key[2].speaks_of("base")
    assert not policy.key[2].speaks_of("coder")
    assert policy.require.max_age == timedelta(days=400)
    assert policy.revocation(policy.revoked[0].key or "") is policy.revoked[0]
    assert policy.withdrawal((policy.revoked[1].statement or "").removeprefix("sha256:")) is policy.revoked[1]


def test_a_public_key_may_stand_in_the_policy_itself(folder: Path) -> None:
    text = (folder / "release.pub").read_text()
    policy = read(folder, GOOD.replace('"release.pub"', f"'''{text}'''"))
    assert policy.key[0].public_key == read(folder, GOOD).key[0].public_key


def test_all_faults_are_told_at_once(folder: Path) -> None:
    text = """
schema = 2
key_ = 1
[[key]]
name = "a b"
public_key = "nowhere.pub"
roles = ["releas", "release"]
mixtapes = []
not_before = 2026-01-01T00:00:00
[[key]]
roles = []
public_key = 7
[[revoked]]
key = "abc"
[require]
release = -1
rebuilders = "two"
max_age = "a year"
builder_ids = [""]
rebuilder = 1
"""
    found = faults(folder, text)
    assert set(found) == {
        "schema",
        "key_",
        "key[0].name",
        "key[0].public_key",
        "key[0].roles[0]",
        "key[0].mixtapes",
        "key[0].not_before",
        "key[1].name",
        "key[1].roles",
        "key[1].public_key",
        "revoked[0].key",
        "require.release",
        "require.rebuilders",
        "require.max_age",
        "require.builder_ids[0]",
        "require.rebuilder",
    }
    assert found["key[1].name"] == "is missing"
    told = hints(folder, text)
    assert "did you mean 'rebuilders'?" in told
    assert "did you mean 'release'?" in told


@pytest.mark.parametrize(
    ("lines", "key", "words"),
    [
        ("[require]\nprovenance = 2", "require.provenance", "asks for 2, and keys that have the role 'provenance': 1"),
        ("[require]\nrebuilders = 1", "require.rebuilders", "asks for 1, and keys that have the role 'rebuild': 0"),
        ("[require]\nrelease = 0\nprovenance = 0", "require", "asks for nothing, so everything would satisfy it"),
        ("[require]\nrelease = 17", "require.release", "less than or equal to 16"),
        ("[require]\nrelease = true", "require.release", "valid integer"),
        ("[[revoked]]\nreason = 'x'", "revoked[0]", "must have one of `key` and `statement`"),
        (f"[[revoked]]\nkey = '{'0' * 64}'\nstatement = 'sha256:{'0' * 64}'", "revoked[0]", "must have one of"),
        (f"[[revoked]]\nkey = '{'0' * 64}'\nreason = '\\u001b'", "revoked[0].reason", "is not accepted"),
    ],
)
def test_what_cannot_be_meant_is_told(folder: Path, lines: str, key: str, words: str) -> None:
    found = faults(folder, GOOD + lines.replace("'\\u001b'", '"\\u001b"'))
    assert list(found) == [key]
    assert words in found[key]


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [
        ("not_before = 2026-02-02\nnot_after = 2026-02-01", "key[0].not_after", "lies before not_before"),
        ('not_after = "2026-02-01"', "key[0].not_after", "must be a date"),
        ("not_after = 9999-12-31T23:59:59-12:00", "key[0].not_after", "has no time in UTC"),
        ("not_after = 12:00:00", "key[0].not_after", "must be a date"),
        ('mixtapes = ["base", "base"]', "key[0].mixtapes", "'base' more than once"),
        ('mixtapes = ["../x"]', "key[0].mixtapes[0]", "is not accepted"),
        ('openpgp = "release.pub"', "key[0].openpgp", "is no OpenPGP certificate"),
        ('openpgp = "release.gpg.not"', "key[0].openpgp", "cannot be read"),
        ("openpgp = 1", "key[0].openpgp", "must be a text"),
    ],
)
def test_a_key_says_what_fits_together(folder: Path, line: str, key: str, words: str) -> None:
    found = faults(folder, GOOD + line)
    assert list(found) == [key]
    assert words in found[key]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("nowhere.pub", "cannot be read: No such file"),
        ("release.key", ""),
        ("release.gpg", ""),
        (".", ""),
        ("/dev/zero", ""),
        ("~nobody-is-called-so/x", "is no path"),
        ("a\\u0000b", "is no path"),
        ("-----BEGIN PUBLIC KEY-----\\nAAAA\\n-----END PUBLIC KEY-----", "cannot be read"),
        ("-----BEGIN PUBLIC KEY-----\\ud7ff", ""),
    ],
)
def test_what_is_no_public_key_is_refused(folder: Path, value: str, words: str) -> None:
    found = faults(folder, GOOD.replace("release.pub", value))
    assert list(found) == ["key[0].public_key"]
    assert words in found["key[0].public_key"]


def test_the_number_of_the_format_is_called_as_the_file_has_it(folder: Path) -> None:
    told = hints(folder, GOOD.replace("schema =", "shema ="))
    assert "did you mean 'schema'?" in told
    assert "schema_" not in hints(folder, GOOD + "[x]\n")


def test_a_role_stands_once_and_is_told_by_its_name(folder: Path) -> None:
    found = faults(folder, GOOD.replace('"provenance"', '"release"') + "[require]\nprovenance = 0\n")
    assert "names 'release' more than once" in found["key[0].roles"]


def test_one_key_stands_in_one_row_and_has_one_name(folder: Path) -> None:
    row = GOOD.split("[[key]]")[1]
    assert set(faults(folder, f"{GOOD}[[key]]{row}")) == {"key[1].name", "key[1].public_key"}
    other = row.replace("release.pub", "other.pub")
    assert set(faults(folder, f"{GOOD}[[key]]{other}")) == {"key[1].name"}


def test_a_revoked_key_is_none_that_could_meet_what_is_asked(folder: Path) -> None:
    keyid = read(folder, GOOD).key[0].public_key.keyid
    found = faults(folder, f'{GOOD}[[revoked]]\nkey = "{keyid}"')
    assert set(found) == {"require.release", "require.provenance"}


@pytest.mark.parametrize("data", [b"\xff", b"= 1", b"a = " + b"[" * 5000, b"#" * (MOST_BYTES + 1), b"x = 1e9999\nx=1"])
def test_what_is_no_toml_is_refused_without_a_traceback(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ProblemsError):
        parse_policy(data, tmp_path / "policy.toml")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_altered_policy_believes_somebody_else(folder: Path, data: st.DataObject) -> None:
    """A typing error may make it stricter, or be refused; it never adds a key or a role, or asks for less."""
    good = GOOD.encode() + b"[require]\nrelease = 1\nprovenance = 1\n"
    at = data.draw(st.integers(0, len(good) - 1))
    altered = bytearray(good)
    altered[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        policy = parse_policy(bytes(altered), folder / "policy.toml")
    except ProblemsError:
        return
    was = parse_policy(good, folder / "policy.toml")
    assert {key.public_key for key in policy.key} <= {key.public_key for key in was.key}
    assert set(policy.key[0].roles) <= set(was.key[0].roles)
    assert sum(policy.require.numbers.values()) >= 1


# Which policy


def test_a_policy_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    for path in (tmp_path / "policy.toml", tmp_path, tmp_path / "a\0b"):
        with pytest.raises(UsageError, match="the policy cannot be read"):
            load_policy(path)


def test_keys_are_relative_to_the_policy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "policy.toml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    assert load_policy(folder / "policy.toml").key[0].name == "pipeline"


def test_the_policy_of_the_environment_comes_before_the_usual_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("STEREO_POLICY", raising=False)
    assert default_policy() is None
    usual = tmp_path / "stereo" / "policy.toml"
    usual.parent.mkdir()
    usual.symlink_to(tmp_path / "gone")  # a fault, and not as if there were none
    assert default_policy() == usual
    monkeypatch.setenv("STEREO_POLICY", "/other")
    assert default_policy() == Path("/other")


def test_keys_of_the_command_line_may_say_everything_and_one_must_have_signed(folder: Path, tmp_path: Path) -> None:
    same_name = tmp_path / "release.pub"
    same_name.write_bytes((folder / "other.pub").read_bytes())
    policy = policy_of_keys([folder / "release.pub", folder / "release.pub", same_name])
    assert [key.name for key in policy.key] == ["release", "key-3"]
    assert all(key.roles == tuple(Kind) for key in policy.key)
    assert policy.require.numbers == {Kind.RELEASE: 1, Kind.PROVENANCE: 0, Kind.REBUILD: 0}


@pytest.mark.parametrize("name", ["nowhere.pub", "release.key", "release.gpg"])
def test_what_is_no_key_on_the_command_line_is_wrong_usage(folder: Path, name: str) -> None:
    with pytest.raises(UsageError):
        policy_of_keys([folder / name])


# The page and the schema


def test_the_committed_page_is_what_the_models_say() -> None:
    committed = DOCS.joinpath("policy.md").read_text()
    assert committed == policy_page(), "run: ./stereo schema policy --markdown > docs/policy.md"


def test_the_committed_schema_is_what_the_models_say() -> None:
    committed = DOCS.joinpath("policy.schema.json").read_text()
    assert committed == policy_schema(), "run: ./stereo schema policy > docs/policy.schema.json"


def as_json(text: str) -> Any:
    return json.loads(json.dumps(tomllib.loads(text), default=str))


@pytest.mark.parametrize(("text", "fits"), [(GOOD, True), (EXAMPLE, True), (GOOD + "[require]\nreleas = 1", False)])
def test_the_schema_takes_what_the_models_take(text: str, fits: bool) -> None:
    assert jsonschema.Draft202012Validator(json.loads(policy_schema())).is_valid(as_json(text)) is fits
