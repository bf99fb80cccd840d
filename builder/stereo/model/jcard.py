"""A jcard: which machine an operator wants, what it may reach, what it shares, and which agents work in it.

The models are the schema, for the parser, for editors and for docs/jcard.md alike. `parse_jcard` is the way to one:
what it returns is whole, with variables expanded, paths found, prompts read and one agent per replica.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, Strict, ValidationInfo, field_validator, model_validator

from stereo.errors import Problem, ProblemsError
from stereo.model.document import FaultsError, fault, json_schema, parse_toml, pattern, shown, validate
from stereo.model.egress import Rules
from stereo.model.jcard_agents import Agent, Fault, Table, settled
from stereo.model.jcard_guest import MOST_BYTES, guest_text
from stereo.model.jcard_values import (
    NAME_MEANING,
    NAME_PATTERN,
    WORKSPACE,
    EgressRule,
    Expanded,
    HostFolder,
    Limit,
    MountPoint,
    Name,
    Port,
    SecretName,
    Surroundings,
    WholeSize,
    between,
    host_path,
    surroundings,
)
from stereo.model.mixtape_file import SECRET_VARIABLE
from stereo.model.units import GIB, MIB

JCARD_FILE = "jcard.toml"
EVERY_KEY = "docs/jcard.md has every key"
_MOST_SHARES = 16
_MOST_FORWARDS = 64
_MOST_RULES = 1000
_MOST_SECRETS = 100
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
STORED = re.compile(r"([a-z0-9][a-z0-9._-]{0,63})(?::([A-Za-z0-9][A-Za-z0-9._+~-]{0,63}))?")
"""NAME or NAME:VERSION, in the alphabets of mixtape.toml."""


class Resources(Table):
    """What the machine has."""

    cpus: Annotated[int, Field(ge=1, le=255, description="processors")] = 2
    memory: Annotated[
        WholeSize, between(256 * MIB, 16384 * GIB), Field(description="memory", json_schema_extra={"default": "4GiB"})
    ] = 4 * GIB
    disk: Annotated[
        WholeSize, between(GIB, 65536 * GIB), Field(description="disk", json_schema_extra={"default": "20GiB"})
    ] = 20 * GIB


class NetworkMode(StrEnum):
    """How the machine is connected."""

    NAT = "nat"
    BRIDGED = "bridged"
    NONE = "none"


class Protocol(StrEnum):
    """What a forward carries."""

    TCP = "tcp"
    UDP = "udp"


class Forward(Table):
    """A port of the host's loopback that leads into the guest."""

    host: Annotated[Port, Field(description="port on 127.0.0.1 of the host")]
    guest: Annotated[Port, Field(description="port in the guest")]
    proto: Annotated[
        Protocol, Strict(False), Field(description="`tcp`, or `udp` with mode `nat` and without `egress_allow`")
    ] = Protocol.TCP


def _distinct_forwards(forwards: tuple[Forward, ...]) -> tuple[Forward, ...]:
    owners: dict[tuple[int, Protocol], int] = {}
    faults: list[Fault] = []
    for index, forward in enumerate(forwards):
        owner = owners.setdefault((forward.host, forward.proto), index)
        if owner != index:
            message = f"port {forward.host} is already taken by forwards[{owner}]"
            faults.append(((index, "host"), message, "choose another port"))
    if faults:
        raise FaultsError(faults)
    return forwards


class Network(Table):
    """What the machine is connected to."""

    mode: Annotated[
        NetworkMode,
        Strict(False),
        Field(description="`nat`; `bridged`: on a bridge of the host; `none`: no network device at all"),
    ] = NetworkMode.NAT
    bridge: Annotated[
        str | None,
        pattern(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$", "the name of a network interface, such as 'br0'"),
        Field(description="mode `bridged`: the host's bridge"),
    ] = None
    forwards: Annotated[
        tuple[Forward, ...],
        Field(max_length=_MOST_FORWARDS, description="ports of the host's loopback that lead into the guest"),
        AfterValidator(_distinct_forwards),
    ] = ()
    egress_allow: Annotated[
        tuple[EgressRule, ...] | None,
        Field(max_length=_MOST_RULES, description="all that may be reached; `[]`: nothing; default: everything"),
    ] = None

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        faults = list(self._disagreements())
        if faults:
            raise FaultsError(faults)
        return self

    def _disagreements(self) -> Iterator[Fault]:
        bridged = self.mode is NetworkMode.BRIDGED
        if self.mode is NetworkMode.NONE and self.egress_allow:
            yield ("egress_allow",), "allows what mode 'none' cannot reach", 'leave it out, or say mode = "nat"'
        if bridged and self.egress_allow is not None:
            yield ("egress_allow",), "cannot hold on a bridge, which nobody filters", 'say mode = "nat"'
        if bridged and self.bridge is None:
            yield ("bridge",), "is missing", "name the host's bridge, such as 'br0'"
        if not bridged and self.bridge is not None:
            yield ("bridge",), f"has no use with mode '{self.mode}'", 'leave it out, or say mode = "bridged"'
        if self.mode is not NetworkMode.NAT or self.egress_allow is not None:
            for index, forward in enumerate(self.forwards):
                if forward.proto is Protocol.UDP:
                    hint = "forward TCP, or use mode 'nat' without egress_allow"
                    yield ("forwards", index, "proto"), "UDP finds no way into this network", hint

    @property
    def rules(self) -> Rules | None:
        """What may be reached; None: everything."""
        return None if self.egress_allow is None else Rules(self.egress_allow)


class Share(Table):
    """A folder of the host in the guest."""

    host: Annotated[
        HostFolder, Field(description="the host's folder: `~` and `${VAR}` expanded, relative to the jcard")
    ]
    guest: Annotated[MountPoint, Field(description="where the guest finds it")]
    readonly: Annotated[bool, Field(description="whether the host refuses every change")] = False


def _apart(shared: tuple[Share, ...]) -> tuple[Share, ...]:
    faults: list[Fault] = []
    for index, share in enumerate(shared):
        for before, other in enumerate(shared[:index]):
            if share.guest == other.guest:
                faults.append(
                    ((index, "guest"), f"shared[{before}] is already at {shown(share.guest)}", "choose another")
                )
            elif f"{share.guest}/".startswith(f"{other.guest}/") or f"{other.guest}/".startswith(f"{share.guest}/"):
                message = f"{shown(share.guest)} and {shown(other.guest)} of shared[{before}] lie in each other"
                faults.append(((index, "guest"), message, "mount them side by side"))
    if faults:
        raise FaultsError(faults)
    return shared


class Timeout(Table):
    """How long the machine may live."""

    duration: Annotated[
        Limit | None, Field(description="it is shut down after so long, such as `2h`; default: never")
    ] = None


def _mixtape(text: str, info: ValidationInfo) -> str:
    if text in (".", "..", "~") or text.startswith(("/", "./", "../", "~/")):
        if not text.isprintable():
            raise ValueError("must be printable")
        return str(host_path(text, info))
    if not STORED.fullmatch(text) or ".." in text:
        hint = "NAME, NAME:VERSION, NAME:latest, or a path that begins with '/', './', '../' or '~/'"
        raise fault(f"{shown(text)} is no mixtape", hint)
    return text


def _secrets(value: object) -> object:
    if not isinstance(value, dict):  # and a message that shows the value would show a secret
        raise ValueError("must be a table of names and values")  # noqa: TRY004 - pydantic collects ValueErrors
    if len(value) > _MOST_SECRETS:
        raise ValueError(f"more than {_MOST_SECRETS} secrets")
    return value


class Jcard(Table):
    """One jcard.toml. A mixtape that is a path is whole here, and hosts' folders are resolved."""

    mixtape: Annotated[
        str,
        AfterValidator(_mixtape),
        Field(description="NAME, NAME:VERSION or NAME:latest of the local store, or the path of a dist"),
    ] = "base:latest"
    mixtape_digest: Annotated[
        str | None,
        pattern(
            r"^sha256:[0-9a-f]{64}$", "'sha256:' and the 64 digits that `sha256sum mixtape.toml` prints in the dist"
        ),
        Field(description="the SHA-256 of the dist's mixtape.toml, as `sha256:HEX`: no other dist will do"),
    ] = None
    name: Annotated[Name, Field(validate_default=True, description=f"{NAME_MEANING}; default: the jcard's folder")] = ""
    resources: Resources = Resources()
    network: Network = Network()
    shared: Annotated[
        tuple[Share, ...],
        Field(max_length=_MOST_SHARES, description="folders of the host that the guest sees"),
        AfterValidator(_apart),
    ] = ()
    secrets: Annotated[
        dict[SecretName, Expanded],
        BeforeValidator(_secrets),
        Field(
            default_factory=dict,
            repr=False,
            description='name = value, mostly `"${VAR}"`: never on a disk, only for agents that list it',
        ),
    ]
    agents: Annotated[tuple[Agent, ...], Field(description="the programs that work in it")] = ()
    timeout: Timeout = Timeout()

    @field_validator("name", mode="before")
    @classmethod
    def _named_as_its_folder(cls, value: object, info: ValidationInfo) -> object:
        if value != "":
            return value
        folder = surroundings(info).folder.name
        if not re.fullmatch(NAME_PATTERN, folder):
            raise fault(f"is missing, and the folder's name {shown(folder)} is none", 'write name = "..."')
        return folder

    @field_validator("agents", mode="after")
    @classmethod
    def _settled(cls, agents: tuple[Agent, ...], info: ValidationInfo) -> tuple[Agent, ...]:
        shared: tuple[Share, ...] = info.data.get("shared", ())
        return settled(agents, info.data.get("secrets"), shared[0].guest if shared else WORKSPACE)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is no fault, and yet perhaps not what was meant."""
        listed = {name for agent in self.agents for name in agent.secrets}
        notes = [f"no agent lists the secret {name}: nobody gets it" for name in self.secrets if name not in listed]
        notes += [f"the secret {name} is empty" for name, value in self.secrets.items() if not value]
        notes += [
            f"the secret {name} is no name for a variable: agents find it as a file"
            for name in self.secrets
            if name in listed and not _VARIABLE.fullmatch(name)
        ]
        notes += [
            f"agent {agent.name} has {name} in `env`, which is no place for a secret: [secrets] is"
            for agent in self.agents
            for name, value in agent.env.items()
            if value and SECRET_VARIABLE.search(name)
        ]
        return tuple(notes)


def parse_jcard(text: str | bytes, file: Path, variables: Mapping[str, str]) -> Jcard:
    """The jcard that stood in `file`. `variables` are the caller's environment, for ${VAR} and ~.

    Raises ProblemsError with all that is wrong with it.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    around = Surroundings(file.absolute().parent, variables)
    jcard = validate(parse_toml(data, str(file), EVERY_KEY), Jcard, str(file), EVERY_KEY, context=around)
    if len(guest_config(jcard).encode()) > MOST_BYTES:
        message = f"more than {MOST_BYTES // 1024} KiB with prompts and replicas"
        raise ProblemsError([Problem(str(file), "agents", message, "let agents read long prompts from a share")])
    return jcard


def guest_config(jcard: Jcard) -> str:
    """What the guest gets to know of `jcard`, as TOML: agents and mount points, and of secrets the names alone."""
    return guest_text(jcard.agents, [(share.guest, share.readonly) for share in jcard.shared])


def jcard_schema() -> str:
    """The JSON Schema (draft 2020-12) of a jcard, as text that ends with a newline."""
    return json_schema(Jcard, "stereo jcard")
