"""What the tests of policies and of their judgement share: keys, statements about one release, and policies."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stereo.trust.envelope import seal
from stereo.trust.judge import Judgement, Release, judge
from stereo.trust.keys import SecretKey
from stereo.trust.policy import Policy, parse_policy
from stereo.trust.statement import render_statement

NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
BUILDER = "https://ci.example.org/stereo"
DIGESTS = {"stereos.img": "1" * 64, "mixtape.toml": "2" * 64}
RELEASE = Release("base", "2026.01.31.0", "x86_64-linux", DIGESTS)
SUBJECTS = {**DIGESTS, "oci:raw": "3" * 64}
EVERY_ROLE = ("release", "provenance", "rebuild")


def predicate(kind: str, name: str = "base", version: str = "2026.01.31.0") -> dict[str, Any]:
    """As much of a predicate as its judge reads."""
    of = {"mixtape": name, "version": version, "arch": "x86_64-linux"}
    release = {"releaseId": f"{name}@{version}/x86_64-linux"}
    predicates: dict[str, dict[str, Any]] = {
        "release": release,
        "provenance": {
            "buildDefinition": {"externalParameters": of},
            "runDetails": {"builder": {"id": BUILDER}},
        },
        "rebuild": {"result": "PASSED", **release},
    }
    return predicates[kind]


def payload(
    kind: str,
    *,
    content: Mapping[str, Any] | None = None,
    subjects: Mapping[str, str] = SUBJECTS,
    issued: datetime = NOW,
    expires: datetime | None = None,
) -> bytes:
    """A statement, not signed."""
    return render_statement(kind, subjects, predicate(kind) if content is None else content, issued, expires)


def named(kind: str, key: SecretKey) -> str:
    """The file name of a statement."""
    return f"{kind}.{key.public.short}.dsse.json"


def statement(kind: str, key: SecretKey, **other: Any) -> tuple[str, bytes]:
    """A signed statement about `RELEASE`, with its file name; `other` is as for `payload`."""
    return named(kind, key), seal(payload(kind, **other), key)


def believing(*keys: tuple[SecretKey, tuple[str, ...]], more: str = "", **require: Any) -> Policy:
    """A policy in which these keys have these roles, with `more` lines of TOML behind, and `require` as given."""
    lines = ["schema = 1"]
    for number, (key, roles) in enumerate(keys):
        pem = key.public.pem.decode()
        lines += ["[[key]]", f'name = "key-{number}"', f"public_key = '''{pem}'''", f"roles = {list(roles)!r}"]
    lines.append(more)
    wanted = {"release": 1, "provenance": 0, **require}
    lines += ["[require]", *(f"{key} = {value!r}" for key, value in wanted.items())]
    return parse_policy("\n".join(lines).encode(), Path("policy.toml"))


def judged(policy: Policy, *envelopes: tuple[str, bytes], later: timedelta = timedelta()) -> Judgement:
    """The judgement on `RELEASE`, now or later."""
    return judge(RELEASE, envelopes, policy, NOW + later)
