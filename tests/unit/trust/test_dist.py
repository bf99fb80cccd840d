"""What lies beside a dist and vouches for it: every single altered bit of it is caught and named."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from makers.dist import make_dist
from makers.signing import NOW, new_key
from stereo.errors import ProblemsError, StereoError
from stereo.model.manifest import MANIFEST_FILE, Manifest, parse_manifest
from stereo.report import Silent
from stereo.trust import openpgp
from stereo.trust.dist import Papers, examine, read_statements
from stereo.trust.envelope import MAX_BYTES, seal
from stereo.trust.judge import MOST_STATEMENTS, Reason, judge, release_of
from stereo.trust.keys import SecretKey
from stereo.trust.packet import is_exact
from stereo.trust.policy import Policy, load_policy
from stereo.trust.rebuilt import rebuild_predicate
from stereo.trust.sign import Terms, add_statement, sign_dist
from stereo.trust.statement import lock_descriptors, parse_statement, render_statement

POLICY = """\
schema = 1
[[key]]
name = "pipeline"
public_key = "pipeline.pub"
openpgp = "pipeline.gpg"
roles = ["release", "provenance"]
[[key]]
name = "rebuilder"
public_key = "rebuilder.pub"
roles = ["rebuild"]
[require]
rebuilders = 1
"""
CHECKSUMS = ("SHA256SUMS", "SHA256SUMS.sig", "SHA256SUMS.gpg")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys, and the policy that believes them."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("pipeline", "rebuilder", "stranger"):
        new_key(folder, name)
    (folder / "policy.toml").write_text(POLICY)
    return folder


def secret(keys: Path, name: str) -> SecretKey:
    from stereo.trust.keyfiles import load_secret

    return load_secret(keys / f"{name}.key")


@pytest.fixture(scope="module")
def policy(keys: Path) -> Policy:
    return load_policy(keys / "policy.toml")


@pytest.fixture(scope="module")
def signed(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dist that is signed by the pipeline and was rebuilt by somebody else."""
    dist = tmp_path_factory.mktemp("made") / "x86_64"
    manifest = make_dist(dist)
    sign_dist(dist, manifest, secret(keys, "pipeline"), Terms(NOW), Silent())
    predicate = rebuild_predicate(manifest)
    add_statement(dist, manifest, "rebuild", predicate, secret(keys, "rebuilder"), Terms(NOW), Silent())
    return dist


@pytest.fixture
def dist(signed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed, tmp_path / "x86_64"))


def manifest_of(dist: Path) -> Manifest:
    return parse_manifest((dist / MANIFEST_FILE).read_bytes(), MANIFEST_FILE)


def examined(dist: Path, policy: Policy | None) -> Papers:
    return examine(dist, manifest_of(dist), policy, NOW)


def failed(papers: Papers) -> set[str]:
    """The names of all that fails."""
    refusals = papers.judgement.refusals if papers.judgement else ()
    return {row.artifact for row in papers.rows if not row.ok} | {row.name for row in refusals if row.fails}


def statements(dist: Path) -> dict[str, str]:
    """Paths in the dist by kind."""
    return {path.name.split(".")[0]: f"attestations/{path.name}" for path in (dist / "attestations").iterdir()}


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    good = path.read_bytes()
    path.write_bytes(good[: bit // 8] + bytes([good[bit // 8] ^ (1 << bit % 8)]) + good[bit // 8 + 1 :])
    try:
        yield
    finally:
        path.write_bytes(good)


def test_a_signed_and_rebuilt_dist_satisfies_its_policy(signed: Path, policy: Policy) -> None:
    papers = examined(signed, policy)
    assert papers.ok
    assert failed(papers) == set()
    assert papers.judgement
    assert {row.signer for row in papers.judgement.accepted} == {"pipeline", "rebuilder"}
    assert [(row.artifact, row.message.split(" (")[0]) for row in papers.rows if row.check == "signature"] == [
        ("SHA256SUMS.sig", "signed by pipeline"),
        ("SHA256SUMS.gpg", "signed by pipeline"),
    ]


def test_without_a_policy_only_what_contradicts_the_dist_fails(signed: Path, dist: Path) -> None:
    assert examined(signed, None).judgement is None
    assert examined(signed, None).ok
    shutil.rmtree(dist / "attestations")
    for name in CHECKSUMS:
        (dist / name).unlink()
    assert examined(dist, None).rows == ()


# Every bit


@pytest.mark.parametrize("name", CHECKSUMS)
def test_every_flipped_bit_of_checksums_and_their_signatures_is_named(dist: Path, policy: Policy, name: str) -> None:
    path, manifest = dist / name, manifest_of(dist)
    step = 9 if name == "SHA256SUMS" else 1  # of the large one a bit of every byte, each in turn
    shutil.rmtree(dist / "attestations")  # they are tried below, and here only cost time
    for bit in range(0, path.stat().st_size * 8, step):
        with flipped(path, bit):
            papers = examine(dist, manifest, policy, NOW)
        assert {row.artifact for row in papers.rows if not row.ok} == {name}, f"bit {bit}"


@pytest.mark.parametrize("kind", ["release", "provenance", "rebuild"])
def test_every_flipped_byte_of_a_statement_is_named(dist: Path, policy: Policy, kind: str) -> None:
    manifest, name = manifest_of(dist), statements(dist)[kind]
    release = release_of(manifest, (dist / MANIFEST_FILE).read_bytes())
    good = (dist / name).read_bytes()
    for bit in range(0, len(good) * 8, 9):
        altered = good[: bit // 8] + bytes([good[bit // 8] ^ (1 << bit % 8)]) + good[bit // 8 + 1 :]
        judgement = judge(release, [(name, altered)], policy, NOW)
        assert judgement.refusals[0].name == name, f"bit {bit}"
        assert judgement.refusals[0].fails, f"bit {bit}"
        assert not judgement.accepted
    for bit in range(0, len(good) * 8, 1009):  # and all the way from the dist
        with flipped(dist / name, bit):
            papers = examine(dist, manifest, policy, NOW)
        assert not papers.ok
        assert failed(papers) - {f"{kind} statement"} == {name}, f"bit {bit}"


def test_every_flipped_byte_of_the_manifest_is_refused_by_verify_or_contradicts_what_was_signed(
    dist: Path, policy: Policy
) -> None:
    data = (dist / MANIFEST_FILE).read_bytes()
    envelopes, _ = read_statements(dist)
    other_bytes = 0
    for bit in range(0, len(data) * 8, 9):
        altered = data[: bit // 8] + bytes([data[bit // 8] ^ (1 << bit % 8)]) + data[bit // 8 + 1 :]
        try:
            manifest = parse_manifest(altered, MANIFEST_FILE)
        except ProblemsError:
            continue
        judgement = judge(release_of(manifest, altered), envelopes, policy, NOW)
        reasons = {row.reason for row in judgement.refusals} - {Reason.MISSING}
        assert not judgement.accepted, f"bit {bit}"
        assert reasons <= {Reason.WRONG_SUBJECT, Reason.REPLAYED}
        if reasons == {Reason.WRONG_SUBJECT}:
            other_bytes += 1
            assert all("mixtape.toml" in row.message for row in judgement.refusals if row.reason != Reason.MISSING)
    assert other_bytes > 300  # the others are no manifest any more, which verify says


# Keys of the manifest that no file of the dist could contradict: now a signature does

_CLAIM = re.compile(r'^(?P<key>[a-z0-9_]+) = (?P<value>".*"|[0-9]+|true|false|\[.*\])$', re.MULTILINE)


def otherwise(value: str) -> Iterator[str]:
    """Other values that a manifest may have in this place, perhaps."""
    if value.startswith('"'):
        last = value[-2]
        yield f'{value[:-2]}{"1" if last == "0" else "0"}"'
        yield f'{value[:-2]}{"b" if last == "a" else "a"}"'
        yield from ('"dev-abc"', '"aarch64-linux"')
    elif value.isdigit():
        yield from (str(int(value) + step) for step in (1, 512, -512, 4096))
    elif value.startswith("["):
        yield '["OTHER_KEY"]'
    else:
        yield "true" if value == "false" else "false"


def test_altering_any_single_key_of_the_manifest_breaks_a_signed_verify(dist: Path, policy: Policy) -> None:
    path = dist / MANIFEST_FILE
    good = path.read_text()
    altered = set()
    for found in _CLAIM.finditer(good):
        for value in otherwise(found["value"]):
            text = good[: found.start("value")] + value + good[found.end("value") :]
            try:
                manifest = parse_manifest(text.encode(), MANIFEST_FILE)
            except ProblemsError:
                continue
            path.write_text(text)
            papers = examine(dist, manifest, policy, NOW)
            assert not papers.ok, found[0]
            assert papers.judgement
            assert not papers.judgement.accepted
            assert MANIFEST_FILE in failed(papers), found[0]
            altered.add(found["key"])
    claims = {"source_revision", "plan_key", "lock_sha256", "tools_lock_sha256", "epoch", "level", "mkosi"}
    assert claims | {"name", "version", "arch", "dev", "kernel_version", "harness", "api_keys", "size"} <= altered


# SHA256SUMS


def test_of_checksums_and_manifest_the_one_that_was_signed_is_the_true_one(dist: Path, policy: Policy) -> None:
    path = dist / MANIFEST_FILE
    path.write_text(path.read_text().replace("level = 3", "level = 4"))
    rows = {row.artifact: row.message for row in examined(dist, policy).rows if not row.ok}
    assert rows[MANIFEST_FILE].startswith("is not what SHA256SUMS says, which is signed by pipeline")
    assert set(rows) == {MANIFEST_FILE, statements(dist)["provenance"]}


def test_checksums_must_say_what_the_manifest_says_whoever_signed(dist: Path) -> None:
    text = (dist / "SHA256SUMS").read_text()
    (dist / "SHA256SUMS").write_text(text.replace("  init\n", "  init \n"))
    (row,) = [row for row in examined(dist, None).rows if not row.ok]
    assert (row.artifact, row.check) == ("SHA256SUMS", "checksums")
    assert "in line 3" in row.message


@pytest.mark.parametrize("gone", ["", "\n", "x"])
def test_checksums_that_are_cut_short_or_go_on_are_refused(dist: Path, gone: str) -> None:
    text = (dist / "SHA256SUMS").read_text()
    (dist / "SHA256SUMS").write_text(text[:-1] if not gone else text + gone)
    assert failed(examined(dist, None)) == {"SHA256SUMS"}


def test_a_signature_over_checksums_that_are_not_here_is_told(dist: Path) -> None:
    (dist / "SHA256SUMS").unlink()
    assert failed(examined(dist, None)) == {"SHA256SUMS.sig", "SHA256SUMS.gpg"}


@pytest.mark.parametrize("name", CHECKSUMS)
def test_checksums_beyond_reason_are_not_read(dist: Path, name: str) -> None:
    os.truncate(dist / name, 1 << 30)
    assert failed(examined(dist, None)) >= {name}


@pytest.mark.parametrize("role", ["provenance", "rebuild"])
def test_checksums_are_signed_by_keys_of_releases_alone(dist: Path, keys: Path, role: str) -> None:
    file = keys / f"{role}.toml"
    rows = f'[[key]]\nname = "pipeline"\npublic_key = "pipeline.pub"\nroles = ["{role}"]\n'
    count = "rebuilders" if role == "rebuild" else role
    file.write_text(
        f"schema = 1\n{rows}[require]\nrelease = 0\nprovenance = 0\n{count} = 1\n".replace(f"{count} = 0\n", "")
    )
    papers = examined(dist, load_policy(file))
    assert "SHA256SUMS.sig" in failed(papers)


def test_checksums_that_a_revoked_key_signed_are_signed_by_nobody(dist: Path, keys: Path) -> None:
    file, keyid = keys / "revoking.toml", secret(keys, "pipeline").public.keyid
    others = '[[key]]\nname = "stranger"\npublic_key = "stranger.pub"\nroles = ["release", "provenance"]\n'
    file.write_text(POLICY.replace("[require]", f'{others}[[revoked]]\nkey = "{keyid}"\n[require]'))
    papers = examined(dist, load_policy(file))
    assert {row.artifact for row in papers.rows if not row.ok} == {"SHA256SUMS.sig"}
    assert all("signed by" not in row.message for row in papers.rows)


def test_who_signed_second_is_believed_though_checksums_are_signed_by_the_first(dist: Path, keys: Path) -> None:
    manifest = parse_manifest((dist / MANIFEST_FILE).read_bytes(), MANIFEST_FILE)
    sign_dist(dist, manifest, secret(keys, "stranger"), Terms(NOW), Silent())
    file = keys / "second.toml"
    row = '[[key]]\nname = "stranger"\npublic_key = "stranger.pub"\nopenpgp = "stranger.gpg"\n'
    file.write_text(f'schema = 1\n{row}roles = ["release", "provenance"]\n')
    papers = examined(dist, load_policy(file))
    assert papers.ok
    said = {row.artifact: row.message for row in papers.rows if row.check == "signature"}
    first = secret(keys, "pipeline").public.short
    assert said == dict.fromkeys(CHECKSUMS[1:], f"not checked: by no key that the policy knows, perhaps {first}")


def test_an_openpgp_signature_is_not_checked_without_a_certificate_and_that_is_said(dist: Path, keys: Path) -> None:
    file = keys / "plain.toml"
    file.write_text(POLICY.replace('openpgp = "pipeline.gpg"\n', ""))
    (row,) = [row for row in examined(dist, load_policy(file)).rows if row.artifact == "SHA256SUMS.gpg"]
    assert row.ok
    assert row.message == "not checked: no key that the policy believes in releases has `openpgp`"


def test_bytes_behind_an_openpgp_signature_are_told(dist: Path, policy: Policy) -> None:
    path = dist / "SHA256SUMS.gpg"
    path.write_bytes(path.read_bytes() + b"\0")
    (row,) = [row for row in examined(dist, policy).rows if not row.ok]
    assert "bytes in it that pipeline did not sign" in row.message


@pytest.mark.parametrize(
    "data", [b"", b"\xc2", b"\xc2\x01\x04", b"\xc2\xff\x00", b"\x88\x05aaaaa", b"\xc2\x06\x04\x00\x00\x0a\xff\xff"]
)
def test_what_is_no_signature_packet_is_not_exact(data: bytes) -> None:
    assert not is_exact(data, b"")


def test_a_long_openpgp_signature_is_exact_too(keys: Path) -> None:
    """A packet of 192 bytes or more has its length in two bytes."""
    signer = secret(keys, "pipeline").openpgp
    assert isinstance(signer, openpgp.Signer)
    good = signer.sign(b"data")
    assert is_exact(good, b"data")
    assert not is_exact(good, b"date")


# Hostile folders


def test_a_manifest_that_is_another_by_now_is_not_judged(dist: Path, policy: Policy) -> None:
    manifest = manifest_of(dist)
    path = dist / MANIFEST_FILE
    path.write_text(path.read_text().replace("level = 3", "level = 4"))
    with pytest.raises(StereoError, match="is no longer what was verified"):
        examine(dist, manifest, policy, NOW)


@pytest.mark.parametrize("name", ["x", ".hidden", "release.dsse.json", "release.0000.dsse.json", "\x1b[2J", "a\udcff"])
def test_what_has_not_the_name_of_a_statement_is_refused_by_name(dist: Path, name: str) -> None:
    (dist / "attestations" / name).write_bytes(b"")
    _, refusals = read_statements(dist)
    assert [(row.reason, row.fails) for row in refusals] == [(Reason.MALFORMED, True)]
    assert refusals[0].name.isprintable()
    assert not examined(dist, None).ok


@pytest.mark.parametrize("what", ["link", "folder", "pipe", "large"])
def test_what_is_no_plain_small_file_is_no_statement(dist: Path, what: str) -> None:
    path = dist / statements(dist)["release"]
    good = path.read_bytes()
    path.unlink()
    if what == "link":
        (dist / "elsewhere").write_bytes(good)
        path.symlink_to(dist / "elsewhere")
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(good)
        os.truncate(path, MAX_BYTES + 1)
    found, refusals = read_statements(dist)
    assert len(found) == 2
    assert [row.name for row in refusals] == [f"attestations/{path.name}"]


@pytest.mark.parametrize("what", ["link", "file"])
def test_a_folder_of_statements_that_is_none_is_refused(dist: Path, tmp_path: Path, what: str) -> None:
    shutil.move(dist / "attestations", tmp_path / "moved")
    if what == "link":
        (dist / "attestations").symlink_to(tmp_path / "moved")
    else:
        (dist / "attestations").write_bytes(b"")
    assert read_statements(dist)[0] == []
    assert failed(examined(dist, None)) == {"attestations"}


def test_more_statements_than_anybody_needs_are_not_read(dist: Path) -> None:
    for number in range(MOST_STATEMENTS):
        (dist / "attestations" / f"release.{number:016x}.dsse.json").write_bytes(b"")
    found, refusals = read_statements(dist)
    assert found == []
    assert "more than" in refusals[0].message


# What statements say of the build


def relaid(dist: Path, keys: Path, kind: str, alter: dict[str, object]) -> str:
    """Sign a statement of the right signer that says something else in one place; returns its path."""
    name = statements(dist)[kind]
    signer = secret(keys, "rebuilder" if kind == "rebuild" else "pipeline")
    from stereo.trust.envelope import parse_envelope

    said = parse_statement(parse_envelope((dist / name).read_bytes(), name).payload, name)
    predicate = dict(said.predicate)
    for key, value in alter.items():
        inner = predicate
        *path, last = key.split(".")
        for part in path:
            inner[part] = dict(inner[part])
            inner = inner[part]
        inner[last] = value
    payload = render_statement(kind, said.subjects, predicate, NOW)
    (dist / name).write_bytes(seal(payload, signer))
    return name


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("buildDefinition.internalParameters.plan_key", "f" * 64, "another plan key"),
        ("buildDefinition.internalParameters.epoch", 1, "another epoch"),
        ("buildDefinition.externalParameters.level", 9, "another level"),
        ("buildDefinition.resolvedDependencies", [], "another source and another manifests/sample-mixtape-x86_64.lock"),
        ("buildDefinition.resolvedDependencies", None, "another source"),
        ("buildDefinition.internalParameters", "x", "another plan key"),
    ],
)
def test_provenance_must_name_what_the_manifest_names(
    dist: Path, keys: Path, policy: Policy, key: str, value: object, words: str
) -> None:
    name = relaid(dist, keys, "provenance", {key: value})
    for chosen in (policy, None):
        (row,) = [row for row in examined(dist, chosen).rows if not row.ok]
        assert (row.artifact, row.check) == (name, "build")
        assert words in row.message


def test_provenance_names_each_of_its_pins_once(dist: Path, keys: Path) -> None:
    pins = lock_descriptors(manifest_of(dist))
    other = {**pins[1], "digest": {"sha256": "f" * 64}}
    relaid(dist, keys, "provenance", {"buildDefinition.resolvedDependencies": [*pins, other]})
    (row,) = [row for row in examined(dist, None).rows if not row.ok]
    assert "another manifests/sample-mixtape-x86_64.lock than mixtape.toml" in row.message


def test_a_rebuild_must_name_what_the_manifest_names(dist: Path, keys: Path) -> None:
    name = relaid(dist, keys, "rebuild", {"configuration": []})
    assert failed(examined(dist, None)) == {name}
