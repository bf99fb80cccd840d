"""The job of a supervisor: everything that it must know to start a sandbox, secrets included.

It is made by the command line, handed over on a socket that both inherit, and lives in memory alone. A jcard that
changed is told from the running one by comparing jobs; what a running sandbox can take on is known here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple


class Forward(NamedTuple):
    """A port of this host's loopback that leads to one of the guest."""

    host: int
    guest: int
    proto: str


class Shared(NamedTuple):
    """A folder of this host, and where the guest has it."""

    host: str
    guest: str
    readonly: bool


class Change(NamedTuple):
    """Something in which two jobs differ: the key of the jcard, and whether a running sandbox can take it on."""

    what: str
    live: bool


@dataclass(frozen=True)
class Job:
    """What to run. `memory` is in MiB, `disk` in bytes, `lifetime` in seconds; `config` is what the guest gets to read.

    `backend` is the name of what runs it; see `stereo.vm.backends`.
    `tools` is the folder of the tools tree whose QEMU runs it (None: the host's own). `agents` are the names of those
    in `config`, replicas included. `grace` is what they and the guest get to end in. `root` is the folder of all
    sandboxes, `scratch` that for files of a running machine. `wired` are the ports of the host that a running machine
    has sockets for, also those that no rule names any more.
    """

    name: str
    jcard: str
    mixtape: str
    dist: str
    manifest: str
    arch: str
    cpus: int
    memory: int
    disk: int
    mode: str
    config: str
    agents: tuple[str, ...]
    bridge: str | None = None
    forwards: tuple[Forward, ...] = ()
    egress: tuple[str, ...] | None = None
    shares: tuple[Shared, ...] = ()
    lifetime: float | None = None
    grace: float = 30.0
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    root: str = ""
    scratch: str = ""
    tools: str | None = None
    backend: str = "qemu"
    accelerator: str = ""
    keep: bool = False
    wired: tuple[int, ...] = ()

    def encode(self) -> dict[str, Any]:
        """As JSON can say it. Not for a disk: the secrets are in it."""
        return asdict(self)

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Job:
        """What `encode` made. Raises TypeError or KeyError for anything else."""
        rest = dict(data)
        rest["forwards"] = tuple(Forward(*each) for each in data["forwards"])
        rest["shares"] = tuple(Shared(*each) for each in data["shares"])
        rest["agents"] = tuple(data["agents"])
        rest["wired"] = tuple(data["wired"])
        rest["egress"] = None if data["egress"] is None else tuple(data["egress"])
        return cls(**rest)

    def digest(self) -> str:
        """SHA-256 of what was asked for; of secrets it knows the names alone."""
        plain = {**self.encode(), "secrets": sorted(self.secrets)}
        for ours in ("tools", "backend", "accelerator", "keep", "root", "scratch", "wired"):
            del plain[ours]
        return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def redact(self, text: str) -> str:
        """`text` without the values of secrets, fit for a file: a guest may say anything, such as what it was given."""
        for name, value in self.secrets.items():
            if len(value) >= 4:
                text = text.replace(value, f"[secret {name}]")
        return text


def differences(old: Job, new: Job) -> list[Change]:
    """What `new` would change in a sandbox that runs `old`."""
    return list(_differences(old, new))


def _differences(old: Job, new: Job) -> Iterator[Change]:
    start: dict[str, Callable[[Job], object]] = {
        "backend": lambda job: job.backend,
        "architecture": lambda job: job.arch,
        "mixtape": lambda job: job.manifest,
        "resources.cpus": lambda job: job.cpus,
        "resources.memory": lambda job: job.memory,
        "resources.disk": lambda job: job.disk,
        "network.mode": lambda job: (job.mode, job.bridge),
        "network.forwards": lambda job: job.forwards,
        "shared": lambda job: job.shares,
        "timeout.duration": lambda job: job.lifetime,
    }
    yield from (Change(key, False) for key, value in start.items() if value(old) != value(new))
    if old.egress != new.egress:
        # The wire that leads to the filter, and its sockets for ports of the host, are part of the machine.
        same_wire = (old.egress is None) == (new.egress is None)
        yield Change("network.egress_allow", same_wire and {*host_ports(new)} <= {*host_ports(old), *old.wired})
    for name in sorted({*old.secrets, *new.secrets}):
        if old.secrets.get(name) != new.secrets.get(name):
            yield Change(f"secrets.{name}", True)
    if old.config != new.config and old.shares == new.shares:
        yield Change("agents", True)


def host_ports(job: Job) -> tuple[int, ...]:
    """The ports of this host's loopback that the job's rules name."""
    if not job.egress:
        return ()
    from stereo.model.egress import Rules

    return Rules.parse(job.egress).host_ports
