"""docs/jcard.md, made from the models, and the jcard.toml that a beginner starts from."""

from __future__ import annotations

import json

from stereo.model.jcard import jcard_schema
from stereo.model.key_tables import key_tables

_TEMPLATE = """\
# A sandbox for agents: `stereo up` starts it. docs/jcard.md of stereo has every key.

mixtape = "opencode-mixtape"        # a dist of the local store, NAME or NAME:VERSION: `stereo build NAME` makes one
{name}

[resources]
cpus = 2
memory = "4GiB"
disk = "20GiB"

[network]
mode = "nat"                        # or "none": no network device at all
# Without this line everything can be reached, with it nothing but what it names.
# egress_allow = ["api.openai.com:443", "*.example.com", "10.0.0.0/8", "host.stereo.internal:8080"]

# Ports of this machine's loopback that lead into the guest.
# [[network.forwards]]
# host = 8080
# guest = 80

# The agents work in the first folder that is shared.
[[shared]]
host = "."
guest = "/home/agent/workspace"
readonly = false

# Secrets come from your environment. They are never on a disk, and only agents that list them get them.
# [secrets]
# OPENAI_API_KEY = "${{OPENAI_API_KEY}}"

[[agents]]
harness = "opencode"                # claude-code, opencode, gemini-cli, codex, custom
type = "native"                     # or "sandboxed": in gVisor
# secrets = ["OPENAI_API_KEY"]
# prompt = "Make the tests pass."   # without a task it waits for you: `stereo attach`
# restart = "on-failure"
# timeout = "30m"

# [timeout]
# duration = "2h"                   # of the whole sandbox
"""

_HEAD = """\
# jcard.toml

A jcard says what a sandbox is made of: the machine, what it may reach, what it shares, and which agents work in it.
`stereo init` writes one to begin with:

```toml
{template}```

It is read as a whole: one run tells every fault, with its key and what to do about it, and a key that is not known is a
fault too. `stereo schema jcard > jcard.schema.json`, and `#:schema ./jcard.schema.json` as its first line, makes
editors that know TOML complete and check it.

<!-- Made from the models: stereo schema jcard --markdown > docs/jcard.md -->

## Keys

"""

_FOOT = """
## Values

**Sizes** are numbers of bytes, or numbers with a unit: `KiB`, `MiB`, `GiB`, `TiB` count by 1024, `KB`, `MB`, `GB`, `TB`
by 1000. Memory and disk are rounded up to whole MiB. **Durations** are as in Go: `30s`, `10m`, `1h30m`, `250ms`.

**`${VAR}`** is a variable of whoever runs `stereo`, in the values of `secrets` and of `agents.env`, in `shared.host`,
`agents.prompt_file` and a `mixtape` that is a path. One that is not set is a fault. `$${` stands for `${`. Paths of the
host may begin with `~/`, and are relative to the jcard's folder.

**`mixtape`** is a name of the local store, which knows what `stereo build` made and `stereo pull` got (`stereo dists`
lists it), or a path that begins with `/`, `./`, `../` or `~/`. `NAME` and `NAME:latest` are the highest release there
is for this machine's architecture, or else what was built last. `stereo up --arch aarch64` takes that of another, and a
path leads to whatever is there: what is not this machine's own is emulated, many times slower.

## Network

Without `egress_allow` the guest reaches whatever the host reaches, the host's own addresses too, but not its loopback.
With it, the guest reaches what a rule allows, by a proxy on the host that also answers DNS, and nothing else: `[]`
allows nothing at all.

| rule | allows |
|---|---|
| `example.com` | this name, on every port |
| `example.com:443`, `example.com:8000-8100` | on this port, on these ports |
| `*.example.com` | every name below it, at any depth, but not `example.com` |
| `10.0.0.0/8`, `10.0.0.1:8080` | connections to addresses; `[2001:db8::/32]:443` is how IPv6 has a port |
| `host.stereo.internal:8080` | this port of the host's loopback; one at a time, and by this name alone |

A rule for a name says nothing of addresses, nor the other way. Names are compared without regard to case; other scripts
may be written as they are or in `xn--` form. No rule for addresses, however wide, has loopback, multicast or broadcast
ones in it, and none but a rule for link-local addresses has those: clouds keep their metadata there.

Ports are forwarded from 127.0.0.1 of the host only, TCP in every mode, `none` too.

## Secrets

A secret is given to the agents that list it in `agents.secrets`, as a variable if its name is one, and to nobody else.
It is held in memory, and neither the jcard inside nor anything that we write to a disk has its value. `agents.env` is
no place for one. [security.md](security.md) says what is tested, and what is not promised.

## Agents

An agent without a name is called as its harness, with `-0`, `-1`, ... where several are of the same. With `replicas`
there are `NAME-0`, `NAME-1` and so on. A harness runs its program so that it does the task and exits; a `native` agent
without a task runs in a terminal that `stereo attach NAME` joins.
"""


def jcard_page() -> str:
    """The text of docs/jcard.md."""
    schema = json.loads(jcard_schema())
    return _HEAD.format(template=jcard_template()) + "\n".join(key_tables(schema)) + "\n" + _FOOT


def jcard_template(name: str | None = None) -> str:
    """A jcard.toml to begin with; `name` for a folder whose own name is none."""
    line = (
        '# name = "my-sandbox"              # default: the name of this folder' if name is None else f'name = "{name}"'
    )
    return _TEMPLATE.format(name=line)
