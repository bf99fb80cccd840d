"""docs/policy.md, made from the models, and an example of a whole policy."""

from __future__ import annotations

import json

from stereo.model.key_tables import key_tables
from stereo.trust.policy import policy_schema

EXAMPLE = """\
schema = 1

# The pipeline that builds and publishes. Its key is new each year; what it signed while it was in use goes on counting.
[[key]]
name = "pipeline-2026"
public_key = "pipeline-2026.pub"
openpgp = "pipeline-2026.gpg"
roles = ["release", "provenance"]
not_before = 2026-01-01
not_after = 2026-12-31

# Two who build everything again, on machines of their own.
[[key]]
name = "university"
public_key = "university.pub"
roles = ["rebuild"]

[[key]]
name = "alice"
public_key = "alice.pub"
roles = ["rebuild"]
mixtapes = ["base", "opencode-mixtape"]

# A key that was lost: its id is the SHA-256 of the public key's DER form. Nothing of it counts, whatever the date.
[[revoked]]
key = "d14a028c2a3a2bc9476102bb288234c415a2b01f828ea62ac5b3e42f1d9e0a5b"
reason = "the laptop was stolen"

# A release that was taken back.
[[revoked]]
statement = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
reason = "2026.02.03.0 was made from the wrong branch"

[require]
release = 1
provenance = 1
rebuilders = 2
max_age = "400d"
builder_ids = ["https://ci.example.org/stereo"]
"""

_HEAD = """\
# policy.toml

A policy says whose statements are believed about which mixtapes, and how many of them a dist needs. `stereo verify` and
`stereo pull` ask it; `stereo publish` only asks one that `--policy` names. A whole one:

```toml
{example}```

`--policy FILE` names one, else `$STEREO_POLICY`, else it is `~/.config/stereo/policy.toml` if that is there.
`--key PUB` stands for a policy of that key alone, which must have signed the release. Without any of them nobody's
signature is checked, and `verify` says so.

It is read as a whole: one run tells every fault, and a key that is not known is a fault too. `stereo schema policy`
prints the JSON Schema for editors.

<!-- Made from the models: stereo schema policy --markdown > docs/policy.md -->

## Keys

"""

_FOOT = """
## What counts

A statement counts when its signature is that of a [[key]] with the role for it, it is about this release and these
very bytes, and it has not expired. Each key counts once for each kind. Everything else is refused, by name and with a
reason:

| reason | what it means | verification |
|---|---|---|
| `malformed` | no signed statement, or not written as stereo writes it | fails |
| `bad-signature` | the key that it names did not sign these bytes | fails |
| `replayed` | signed for another release, or under the name of another kind or key | fails |
| `wrong-subject` | signed for other bytes, or not for all files | fails |
| `missing` | fewer keys than `[require]` asks for have a statement that counts | fails |
| `replayed` | a second statement of one kind by one key | does not count |
| `unknown-key` | signed by somebody whom the policy does not name | does not count |
| `revoked` | the key or the statement was revoked | does not count |
| `wrong-role` | the key is not believed in this kind, or about this mixtape | does not count |
| `not-yet-valid` | issued in the future, or before the key's `not_before` | does not count |
| `expired` | over, issued after the key's `not_after`, or older than `max_age` | does not count |
| `builder` | provenance names a builder that is not among `builder_ids` | does not count |

What does not count fails the verification only when something needed is `missing` then: an old statement beside a new
one does no harm. `SHA256SUMS`, if there, must say what mixtape.toml says; its signatures must be those of keys with the
role `release`, `SHA256SUMS.gpg` of their `openpgp` if one has it. They have room for one signature each: where somebody
whom the policy does not name signed the release too, they may be his, and are not checked then.

`not_before` and `not_after` are held against the time that a statement says it was issued. Whoever has a stolen key can
say any time: put it under `[[revoked]]`. A date alone means the whole day, in UTC.
"""


def policy_page() -> str:
    """The text of docs/policy.md."""
    return _HEAD.format(example=EXAMPLE) + "\n".join(key_tables(json.loads(policy_schema()))) + "\n" + _FOOT
