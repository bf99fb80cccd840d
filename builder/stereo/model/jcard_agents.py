"""[[agents]] of a jcard: the keys, and how a list with replicas and unnamed agents becomes one agent per name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, model_validator

from stereo.model.document import FaultsError, Location, fault, nearest, pattern, shown
from stereo.model.jcard_values import (
    NAME_MEANING,
    NAME_PATTERN,
    WORKSPACE,
    Argument,
    Duration,
    Expanded,
    GuestPath,
    Limit,
    Name,
    Prompt,
    PromptFile,
    PromptPath,
    SecretName,
    Size,
    Variable,
    between,
)
from stereo.model.mixtape_file import Harness
from stereo.model.units import GIB, MIB

_LONGEST_NAME = 41
_MOST_AGENTS = 64  # replicas included, as in the guest
_MOST_ITEMS = 100

Fault = tuple[Location, str, str | None]


class Table(BaseModel):
    """What all tables of a jcard have in common: nothing is guessed, nothing is ignored, nothing changes."""

    # Without the input in pydantic's own messages: it may be a secret.
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)


class AgentType(StrEnum):
    """What holds an agent: gVisor (`sandboxed`), or systemd's own means (`native`)."""

    SANDBOXED = "sandboxed"
    NATIVE = "native"


class Restart(StrEnum):
    """After which ends an agent is started again."""

    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


def _a_program(harness: Harness) -> Harness:
    if harness is Harness.NONE:
        raise fault("'none' starts nothing", "name the agent's program, or leave the agent out")
    return harness


def _no_packages(packages: tuple[Any, ...]) -> tuple[Any, ...]:
    if packages:
        raise fault("must be empty: an image never changes", "name the packages in a mixtape, and build that")
    return packages


class Agent(Table):
    """One program that works on its own."""

    # Of a parsed jcard `name` and `workdir` are set, `prompt` is what `prompt_file` held, and `replicas` is 1.

    name: Annotated[Name, Field(description=f"{NAME_MEANING}; default: the harness")] = ""
    type: Annotated[
        AgentType, Strict(False), Field(description="`sandboxed`: in gVisor; `native`: held by systemd's means")
    ] = AgentType.SANDBOXED
    harness: Annotated[
        Harness,
        Strict(False),
        AfterValidator(_a_program),
        Field(
            description="the agent's program: claude-code, opencode, gemini-cli, codex, custom",
            json_schema_extra={"not": {"const": "none"}},
        ),
    ]
    command: Annotated[
        tuple[Argument, ...],
        Field(max_length=_MOST_ITEMS, description="harness `custom`: program and arguments; default: `agent PROMPT`"),
    ] = ()
    args: Annotated[
        tuple[Argument, ...],
        Field(max_length=_MOST_ITEMS, description="arguments for the program, in front of the prompt"),
    ] = ()
    prompt: Annotated[Prompt, Field(description="the task; without one the agent waits on a terminal for `attach`")] = (
        ""
    )
    prompt_file: Annotated[
        PromptPath | None,
        Field(description="a file with the task, relative to the jcard, read on the host; wins over `prompt`"),
    ] = None
    workdir: Annotated[
        GuestPath, Field(description=f"where it works; default: the first share's `guest`, else `{WORKSPACE}`")
    ] = ""
    secrets: Annotated[
        tuple[SecretName, ...],
        Field(max_length=_MOST_ITEMS, description="names from `[secrets]` that this agent gets; it gets no others"),
    ] = ()
    env: Annotated[
        dict[Variable, Expanded],
        Field(max_length=_MOST_ITEMS, description="variables; `${VAR}` comes from the caller; wins over a secret"),
    ] = {}
    restart: Annotated[
        Restart, Strict(False), Field(description="when it is started again: `no`, `on-failure`, `always`")
    ] = Restart.NO
    max_restarts: Annotated[int, Field(ge=0, le=1_000_000, description="so many restarts at most; 0: no limit")] = 0
    timeout: Annotated[Limit | None, Field(description="it is ended after so long, such as `30m`; default: never")] = (
        None
    )
    grace_period: Annotated[
        Duration,
        Field(description="from SIGTERM to SIGKILL when it is ended", json_schema_extra={"default": "30s"}),
    ] = 30.0
    session: Annotated[
        str,
        pattern(NAME_PATTERN, NAME_MEANING),
        Field(description="native: the name of its terminal, also for one with a `command`; default: the agent's name"),
    ] = ""
    memory: Annotated[
        Annotated[Size, between(16 * MIB, 4096 * GIB)] | None,
        Field(description="its memory at most, such as `512MiB`; default: 2GiB if sandboxed"),
    ] = None
    pid_limit: Annotated[
        int | None,
        Field(ge=0, le=4_000_000, description="its processes at most; 0: the default, which is 512 if sandboxed"),
    ] = None
    replicas: Annotated[int, Field(ge=1, le=_MOST_AGENTS, description="so many of it, called NAME-0, NAME-1, ...")] = 1
    extra_packages: Annotated[
        tuple[str, ...],
        AfterValidator(_no_packages),
        Field(description="must be empty: packages are the mixtape's"),
    ] = ()

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        faults = list(self._disagreements())
        if faults:
            raise FaultsError(faults)
        return self

    def _disagreements(self) -> Iterator[Fault]:
        if self.command and self.harness is not Harness.CUSTOM:
            message = f"is for the harness 'custom', and {self.harness} has its own program"
            yield ("command",), message, "use `args` for more arguments"
        if self.command and not self.command[0]:
            yield ("command", 0), "is empty", "name the program"
        if self.type is AgentType.SANDBOXED:
            if self.session:
                yield ("session",), "is for native agents", 'leave it out, or say type = "native"'
            if not (self.prompt or self.prompt_file or self.command):
                message = "is missing, and only a native agent has a terminal to ask for a task"
                yield ("prompt",), message, 'write prompt or prompt_file, or say type = "native"'

    @property
    def interactive(self) -> bool:
        """Whether it has a terminal that people attach to."""
        return self.type is AgentType.NATIVE and not self.prompt and (not self.command or self.session != "")


@dataclass(frozen=True)
class _Place:
    """An agent after expansion, and which of the written ones it came from."""

    index: int
    agent: Agent


def _expanded(agents: Sequence[Agent]) -> Iterator[_Place]:
    """One place per process. An unnamed agent is called as its harness, with a number if there are several of it."""
    unnamed = Counter[Harness]()
    for agent in agents:
        unnamed[agent.harness] += 0 if agent.name else agent.replicas
    numbers = Counter[Harness]()
    for index, agent in enumerate(agents):
        for replica in range(agent.replicas):
            name = agent.name
            if not name:
                name = agent.harness.value
                if unnamed[agent.harness] > 1:
                    name += f"-{numbers[agent.harness]}"
                    numbers[agent.harness] += 1
            elif agent.replicas > 1:
                name += f"-{replica}"
            session = name if agent.session and agent.replicas > 1 else agent.session
            changed: dict[str, object] = {"name": name, "session": session, "replicas": 1}
            if isinstance(agent.prompt_file, PromptFile):
                changed |= {"prompt": agent.prompt_file.text, "prompt_file": None}
            yield _Place(index, agent.model_copy(update=changed))


def settled(agents: Sequence[Agent], secrets: Mapping[str, str] | None, workdir: str) -> tuple[Agent, ...]:
    """`agents` one per name, with nothing left open. Raises FaultsError.

    `secrets` are those of the jcard, None when they are themselves at fault; `workdir` is for agents without one.
    """
    faults = list(_unknown_secrets(agents, secrets))
    if sum(agent.replicas for agent in agents) > _MOST_AGENTS:
        raise FaultsError([*faults, ((), f"more than {_MOST_AGENTS} agents with their replicas", "leave some out")])
    places = list(_expanded(agents))
    owners: dict[str, int] = {}
    sessions: dict[str, str] = {}
    for place in places:
        name, session = place.agent.name, place.agent.session
        if owners.setdefault(name, place.index) != place.index:
            message = f"agents[{owners[name]}] is also called {name!r}"
            faults.append(((place.index, "name"), message, "each agent needs a name of its own"))
        elif session and sessions.setdefault(session, name) != name:
            message = f"{sessions[session]!r} also has the session {session!r}"
            faults.append(((place.index, "session"), message, "each agent needs a session of its own"))
        if len(name) > _LONGEST_NAME:
            faults.append(((place.index, "name"), f"{name!r} is too long with its number", NAME_MEANING))
    if faults:
        raise FaultsError(list(dict.fromkeys(faults)))
    return tuple(
        place.agent if place.agent.workdir else place.agent.model_copy(update={"workdir": workdir}) for place in places
    )


def _unknown_secrets(agents: Sequence[Agent], secrets: Mapping[str, str] | None) -> Iterator[Fault]:
    for index, agent in enumerate(agents):
        for position, name in enumerate(agent.secrets):
            if secrets is not None and name not in secrets:
                hint = nearest(name, sorted(secrets)) or f'write it there: {name} = "${{{name}}}"'
                yield (index, "secrets", position), f"there is no {shown(name)} in [secrets]", hint
