"""The judge: what counts, every reason why something does not, and that each has its own words."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from makers.signing import new_key
from stereo.registry.strict import canonical
from stereo.trust.envelope import parse_envelope, seal
from stereo.trust.judge import MOST_STATEMENTS, SKEW, Judgement, Reason, Refusal, judge
from stereo.trust.keys import SecretKey
from stereo.trust.policy import Kind, Policy
from unit.trust.support import (
    BUILDER,
    DIGESTS,
    EVERY_ROLE,
    NOW,
    RELEASE,
    SUBJECTS,
    believing,
    judged,
    named,
    payload,
    predicate,
    statement,
)

DAY = timedelta(days=1)


@cache
def key(name: str) -> SecretKey:
    with TemporaryDirectory() as folder:
        return new_key(Path(folder), name, "ecdsa-p256" if name == "ecdsa" else "ed25519")


def owner() -> Policy:
    """The usual case: one key that may say everything, and must have signed the release."""
    return believing((key("owner"), EVERY_ROLE))


def refusal(judgement: Judgement, reason: Reason) -> Refusal:
    """The one refusal besides what is missing because of it."""
    (found,) = [row for row in judgement.refusals if row.reason is not Reason.MISSING]
    assert (found.reason, judgement.ok) == (reason, False)
    assert found.hint
    assert found.message in judgement.text
    return found


# What counts


@pytest.mark.parametrize("name", ["owner", "ecdsa"])
def test_a_statement_of_a_believed_key_counts(name: str) -> None:
    judgement = judged(believing((key(name), EVERY_ROLE)), statement("release", key(name), expires=NOW + DAY))
    (row,) = judgement.accepted
    assert judgement.ok
    assert (row.kind, row.signer, row.keyid) == (Kind.RELEASE, "key-0", key(name).public.keyid)
    assert (row.issued, row.expires) == (NOW, NOW + DAY)
    assert "signed by key-0" in judgement.text


def test_every_kind_is_counted_by_itself() -> None:
    policy = believing((key("owner"), EVERY_ROLE), (key("other"), EVERY_ROLE), provenance=1, rebuilders=1)
    rows = [statement(kind, key("other" if kind == "rebuild" else "owner")) for kind in EVERY_ROLE]
    assert judged(policy, *rows).ok
    for left_out in range(3):
        judgement = judged(policy, *rows[:left_out], *rows[left_out + 1 :])
        (missing,) = judgement.refusals
        assert (missing.reason, missing.name) == (Reason.MISSING, f"{EVERY_ROLE[left_out]} statement")


def test_the_digest_of_what_was_signed_is_what_a_policy_can_revoke() -> None:
    judgement = judged(owner(), statement("release", key("owner")))
    more = f'[[revoked]]\nstatement = "sha256:{judgement.accepted[0].statement}"'
    assert not judged(believing((key("owner"), EVERY_ROLE), more=more), statement("release", key("owner"))).ok


def test_a_label_that_is_no_file_name_says_nothing() -> None:
    _, data = statement("release", key("owner"))
    assert judged(owner(), ("sha256:0000", data)).ok
    assert judged(owner(), (f"attestations/{named('release', key('owner'))}", data)).ok


# Missing


def test_nothing_at_all_is_missing() -> None:
    judgement = judged(owner())
    (row,) = judgement.refusals
    assert (row.reason, row.fails, judgement.ok) == (Reason.MISSING, True, False)
    assert row.message == "1 wanted by different keys, and none that counts"


@pytest.mark.parametrize(("signers", "satisfied"), [(1, False), (2, True), (3, True)])
def test_rebuilders_are_counted_by_their_keys(signers: int, satisfied: bool) -> None:
    rebuilders = [key(f"rebuilder-{number}") for number in range(3)]
    policy = believing((key("owner"), ("release",)), *((one, ("rebuild",)) for one in rebuilders), rebuilders=2)
    rows = [statement("rebuild", one) for one in rebuilders[:signers]]
    assert judged(policy, statement("release", key("owner")), *rows).ok is satisfied


def test_who_signed_the_release_is_no_rebuilder_of_it() -> None:
    policy = believing((key("owner"), EVERY_ROLE), rebuilders=1)
    judgement = judged(policy, statement("rebuild", key("owner")), statement("release", key("owner")))
    (row,) = judgement.refusals
    assert (row.reason, judgement.ok) == (Reason.MISSING, False)
    assert "key-0 signed the release itself, and is no independent rebuilder of it" in row.message


# Refused


def test_bytes_that_are_no_envelope_are_malformed() -> None:
    row = refusal(judged(owner(), ("release.json", b"{}")), Reason.MALFORMED)
    assert row.fails


def test_an_envelope_that_is_written_otherwise_is_malformed() -> None:
    name, data = statement("release", key("owner"))
    row = refusal(judged(owner(), (name, json.dumps(json.loads(data), indent=1).encode())), Reason.MALFORMED)
    assert "not written as stereo writes it" in row.message


def test_two_signatures_in_one_envelope_are_malformed() -> None:
    name, data = statement("release", key("owner"))
    table, other = json.loads(data), json.loads(statement("release", key("other"))[1])
    table["signatures"] += other["signatures"]
    row = refusal(judged(owner(), (name, canonical(table) + b"\n")), Reason.MALFORMED)
    assert row.message == "has 2 signatures"


def test_a_rebuild_that_did_not_pass_is_malformed() -> None:
    row = statement("rebuild", key("owner"), content={**predicate("rebuild"), "result": "FAILED"})
    found = refusal(judged(owner(), statement("release", key("owner")), row), Reason.MALFORMED)
    assert found.message == "says of the rebuild FAILED, not PASSED"


def test_too_many_statements_are_not_read() -> None:
    rows = [statement("release", key("owner")), *[("x", b"")] * MOST_STATEMENTS]
    assert f"no more than {MOST_STATEMENTS}" in judged(owner(), *rows).refusals[-1].message


def test_a_stranger_is_an_unknown_key_and_does_no_harm() -> None:
    stranger = statement("release", key("stranger"))
    row = refusal(judged(owner(), stranger), Reason.UNKNOWN_KEY)
    assert key("stranger").public.short in row.message
    assert not row.fails
    assert judged(owner(), stranger, statement("release", key("owner"))).ok


def test_a_statement_that_somebody_else_signed_has_a_bad_signature() -> None:
    name, data = statement("release", key("owner"))
    table = json.loads(data)
    table["signatures"][0]["sig"] = json.loads(statement("release", key("other"))[1])["signatures"][0]["sig"]
    row = refusal(judged(owner(), (name, canonical(table) + b"\n")), Reason.BAD_SIGNATURE)
    assert row.message == "names the key of key-0, which did not sign these bytes"
    assert row.fails


@pytest.mark.parametrize("keyid", ["", "0" * 64])
def test_a_statement_that_names_another_key_than_its_signers_is_no_strangers(keyid: str) -> None:
    name, data = statement("release", key("owner"))
    table = json.loads(data)
    table["signatures"][0]["keyid"] = keyid
    row = refusal(judged(owner(), (name, canonical(table) + b"\n")), Reason.BAD_SIGNATURE)
    assert row.message == "was signed by key-0, and names another key"


def test_a_revoked_key_counts_no_more_whatever_it_signed() -> None:
    more = f'[[revoked]]\nkey = "{key("lost").public.keyid}"\nreason = "lost in a train"'
    policy = believing((key("owner"), EVERY_ROLE), (key("lost"), EVERY_ROLE), more=more)
    row = refusal(judged(policy, statement("release", key("lost"))), Reason.REVOKED)
    assert row.message == f"the policy revokes the key {key('lost').public.short}: lost in a train"


def test_a_key_that_is_only_revoked_is_told_as_revoked() -> None:
    more = f'[[revoked]]\nkey = "{key("lost").public.keyid}"'
    policy = believing((key("owner"), EVERY_ROLE), more=more)
    refusal(judged(policy, statement("release", key("lost"))), Reason.REVOKED)


def test_a_revoked_statement_does_not_count_and_others_of_the_key_do() -> None:
    digest = judged(owner(), statement("release", key("owner"))).accepted[0].statement
    more = f'[[revoked]]\nstatement = "sha256:{digest}"\nreason = "wrong branch"'
    policy = believing((key("owner"), EVERY_ROLE), more=more)
    row = refusal(judged(policy, statement("release", key("owner"))), Reason.REVOKED)
    assert row.message == "the policy revokes this statement: wrong branch"
    assert judged(policy, statement("release", key("owner"), issued=NOW - DAY)).ok


def test_a_key_is_believed_in_its_roles_alone() -> None:
    policy = believing((key("owner"), ("release",)), (key("other"), ("rebuild",)))
    row = refusal(judged(policy, statement("release", key("other"))), Reason.WRONG_ROLE)
    assert row.message == "key-1 is not believed in release statements"
    assert "roles" in row.hint


def test_a_key_is_believed_about_its_mixtapes_alone() -> None:
    policy = believing((key("owner"), EVERY_ROLE))
    policy = policy.model_copy(update={"key": (policy.key[0].model_copy(update={"mixtapes": ("coder",)}),)})
    row = refusal(judged(policy, statement("release", key("owner"))), Reason.WRONG_ROLE)
    assert row.message == "key-0 is not believed about base"


def test_a_statement_of_another_type_counts_for_nothing_and_does_no_harm() -> None:
    table = json.loads(payload("release"))
    table["predicateType"] = "https://cosign.sigstore.dev/attestation/vuln/v1"
    scan = ("scan.json", seal(canonical(table), key("owner")))
    row = refusal(judged(owner(), scan), Reason.WRONG_ROLE)
    assert "type that no policy counts" in row.message
    assert judged(owner(), scan, statement("release", key("owner"))).ok


@pytest.mark.parametrize("kind", EVERY_ROLE)
@pytest.mark.parametrize(("name", "version"), [("base", "2026.01.30.0"), ("coder", "2026.01.31.0")])
def test_a_statement_about_another_release_is_replayed(kind: str, name: str, version: str) -> None:
    rows = [statement(kind, key("owner"), content=predicate(kind, name, version))]
    if kind != "release":
        rows.append(statement("release", key("owner")))
    row = refusal(judged(owner(), *rows), Reason.REPLAYED)
    assert row.message == f"was signed for {name}@{version}/x86_64-linux, and this is {RELEASE.id}"


def test_a_statement_about_another_architecture_is_replayed() -> None:
    other = replace(RELEASE, arch="aarch64-linux")
    judgement = judge(other, [statement("release", key("owner"))], owner(), NOW)
    assert "and this is base@2026.01.31.0/aarch64-linux" in refusal(judgement, Reason.REPLAYED).message


def test_a_statement_under_the_name_of_another_kind_is_replayed() -> None:
    _, data = statement("release", key("owner"))
    policy = believing((key("owner"), EVERY_ROLE), release=0, rebuilders=1)
    row = refusal(judged(policy, (named("rebuild", key("owner")), data)), Reason.REPLAYED)
    assert row.message == "is a release statement under the name of another kind"
    assert row.fails


def test_a_statement_under_the_name_of_another_key_is_replayed() -> None:
    _, data = statement("release", key("owner"))
    row = refusal(judged(owner(), (named("release", key("other")), data)), Reason.REPLAYED)
    assert row.message == "is a statement of key-0 under the name of another key"


def test_the_same_statement_twice_counts_once() -> None:
    policy = believing((key("owner"), EVERY_ROLE), (key("other"), EVERY_ROLE), rebuilders=2)
    _, data = statement("rebuild", key("owner"))
    judgement = judged(policy, statement("release", key("owner")), ("one", data), ("two", data))
    row = refusal(judgement, Reason.REPLAYED)
    assert row.message == "is the same statement as one, and counts once with it"


def test_two_statements_of_one_key_count_once() -> None:
    policy = believing((key("owner"), EVERY_ROLE), (key("other"), EVERY_ROLE), rebuilders=2)
    rows = [(label, statement("rebuild", key("owner"), issued=NOW - DAY * n)[1]) for n, label in enumerate("ab")]
    row = refusal(judged(policy, statement("release", key("owner")), *rows), Reason.REPLAYED)
    assert row.message == "is by the same key as a, and counts once with it"


def test_an_old_statement_beside_a_renewed_one_does_no_harm() -> None:
    old = ("old", statement("release", key("owner"), issued=NOW - DAY * 9, expires=NOW - DAY)[1])
    also = ("also", statement("release", key("owner"), issued=NOW - DAY)[1])
    assert judged(owner(), old, also, statement("release", key("owner"))).ok


@pytest.mark.parametrize(
    ("subjects", "words"),
    [
        ({**SUBJECTS, "stereos.img": "f" * 64}, "was signed for other bytes of stereos.img"),
        ({"mixtape.toml": DIGESTS["mixtape.toml"]}, "does not speak of stereos.img"),
        ({**SUBJECTS, "extra.bin": "f" * 64}, "speaks of extra.bin, which this dist does not have"),
    ],
)
@pytest.mark.parametrize("kind", EVERY_ROLE)
def test_a_statement_about_other_files_has_the_wrong_subject(kind: str, subjects: dict[str, str], words: str) -> None:
    rows = [statement(kind, key("owner"), subjects=subjects)]
    if kind != "release":
        rows.append(statement("release", key("owner")))
    row = refusal(judged(owner(), *rows), Reason.WRONG_SUBJECT)
    assert row.message == words
    assert row.fails


def test_what_a_registry_has_is_a_subject_too_when_it_is_known() -> None:
    rows = [statement("release", key("owner"))]
    for digest, ok in (("3" * 64, True), ("4" * 64, False)):
        release = replace(RELEASE, digests={**DIGESTS, "oci:raw": digest})
        assert judge(release, rows, owner(), NOW).ok is ok


def test_a_statement_from_the_future_is_not_yet_valid() -> None:
    row = refusal(judged(owner(), statement("release", key("owner"), issued=NOW + DAY)), Reason.NOT_YET_VALID)
    assert row.message == "was issued on 2026-02-02, which is yet to come"
    assert judged(owner(), statement("release", key("owner"), issued=NOW + SKEW)).ok


def dated(line: str) -> Policy:
    """A policy whose key has a date. The line goes into the [[key]] that was written last."""
    return believing((key("owner"), EVERY_ROLE), more=line)


def test_a_statement_from_before_its_keys_time_is_not_yet_valid() -> None:
    policy = dated("not_before = 2026-02-02")
    row = refusal(judged(policy, statement("release", key("owner"))), Reason.NOT_YET_VALID)
    assert row.message == "was issued on 2026-02-01, and key-0 is believed from 2026-02-02 on"


def test_a_statement_from_after_its_keys_time_is_expired() -> None:
    policy = dated("not_after = 2026-01-31")
    row = refusal(judged(policy, statement("release", key("owner"))), Reason.EXPIRED)
    assert row.message == "was issued on 2026-02-01, and key-0 is believed until 2026-01-31"


def test_a_date_means_its_whole_day() -> None:
    assert judged(dated("not_before = 2026-02-01"), statement("release", key("owner"))).ok
    assert judged(dated("not_after = 2026-02-01"), statement("release", key("owner"))).ok
    assert not judged(dated("not_after = 2026-02-01T11:59:59Z"), statement("release", key("owner"))).ok


@pytest.mark.parametrize(("later", "ok"), [(DAY - timedelta(seconds=1), True), (DAY, False)])
def test_a_statement_expires_at_its_moment(later: timedelta, ok: bool) -> None:
    judgement = judged(owner(), statement("release", key("owner"), expires=NOW + DAY), later=later)
    assert judgement.ok is ok
    if not ok:
        assert refusal(judgement, Reason.EXPIRED).message == "expired on 2026-02-02"


def test_a_statement_that_is_older_than_the_policy_takes_is_expired() -> None:
    policy = believing((key("owner"), EVERY_ROLE), max_age="30d")
    assert judged(policy, statement("release", key("owner")), later=DAY * 30).ok
    row = refusal(judged(policy, statement("release", key("owner")), later=DAY * 31), Reason.EXPIRED)
    assert row.message == "was issued on 2026-02-01, longer ago than the policy's max_age of 30 days"


@pytest.mark.parametrize("builder", [BUILDER, "https://elsewhere.example.org", None])
def test_provenance_counts_of_allowed_builders_alone(builder: str | None) -> None:
    content = {**predicate("provenance"), "runDetails": {"builder": {"id": builder}} if builder else {}}
    policy = believing((key("owner"), EVERY_ROLE), provenance=1, builder_ids=[BUILDER])
    rows = [statement("release", key("owner")), statement("provenance", key("owner"), content=content)]
    if builder == BUILDER:
        assert judged(policy, *rows).ok
    else:
        row = refusal(judged(policy, *rows), Reason.BUILDER)
        assert (builder or "nobody") in row.message


def test_every_reason_has_a_test_here() -> None:
    text = Path(__file__).read_text()
    assert [reason for reason in Reason if f"Reason.{reason.name}" not in text] == []


# Nothing altered counts


@cache
def sealed() -> bytes:
    return statement("release", key("owner"))[1]


def test_every_flipped_bit_of_an_envelope_is_refused_and_fails() -> None:
    """Also where base64 has bits to spare, and in the id of the key, which nobody signs."""
    name, policy = named("release", key("owner")), owner()
    good = statement("release", key("owner"))
    data = sealed()
    for at in range(len(data) * 8):
        altered = bytearray(data)
        altered[at // 8] ^= 1 << at % 8
        judgement = judged(policy, (name, bytes(altered)), ("good", good[1]))
        assert not judgement.ok, f"bit {at}"
        assert judgement.refusals[0].name == name


@settings(max_examples=200)
@given(st.data())
def test_no_other_bytes_are_accepted_as_a_statement(data: st.DataObject) -> None:
    good = sealed()
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 40)))
    bytes_ = good[:start] + data.draw(st.binary(max_size=40)) + good[end:]
    judgement = judged(owner(), (named("release", key("owner")), bytes_))
    assert judgement.ok is (bytes_ == good)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3)
)


@settings(max_examples=200)
@given(st.data())
def test_no_other_statement_is_accepted_under_the_same_signature(data: st.DataObject) -> None:
    table = json.loads(sealed())
    said: dict[str, Any] = json.loads(parse_envelope(sealed(), "x").payload)
    where: Any = said if data.draw(st.booleans()) else said["predicate"]
    where[data.draw(st.sampled_from([*where, "more"]))] = data.draw(_VALUES)
    table["payload"] = base64.b64encode(canonical(said)).decode()
    altered = canonical(table) + b"\n"
    judgement = judged(owner(), (named("release", key("owner")), altered))
    assert judgement.ok is (altered == sealed())


@given(st.binary(max_size=200))
def test_any_bytes_are_judged_without_a_traceback(data: bytes) -> None:
    assert not judged(owner(), ("x", data)).ok
