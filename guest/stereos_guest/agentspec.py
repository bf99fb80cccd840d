"""What a jcard says about agents: the tables `[[agents]]`, checked as a whole, each with its defaults filled in.

Every fault of a file is found before any is told, and one invalid agent refuses the file. Pure: text in, values out.
"""

from __future__ import annotations

import re
import tomllib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

NATIVE, SANDBOXED = "native", "sandboxed"
NO, ON_FAILURE, ALWAYS = "no", "on-failure", "always"
CUSTOM = "custom"

WORKDIR = "/home/agent/workspace"
GRACE_SECONDS = 30.0
SANDBOX_MEMORY = 2 << 30  # bytes
SANDBOX_PIDS = 512

MAX_CONFIG = 1 << 20  # bytes
MAX_AGENTS = 64  # replicas included
# Bytes that the kernel takes as one argument or variable (MAX_ARG_STRLEN), less a variable's name or an option's.
MAX_ARGUMENT = 127 * 1024
MAX_COMMAND = 200 * 1024  # bytes of all arguments; escaped, they must fit into a line of a unit file (1 MiB)
_MAX_SECONDS = 366 * 86400.0
_MAX_COUNT = 1 << 22  # what the kernel has process numbers for
_MAX_MEMORY = 1 << 60
_MAX_LIST = 256

# Per harness: its program, what makes it finish its task and exit, what goes before the prompt, which may begin with a
# hyphen while an option before it may take any number of values.
_HARNESSES = {
    "claude-code": ("claude", ["-p"], ["--", ""]),
    "opencode": ("opencode", ["run"], ["--", ""]),
    "gemini-cli": ("gemini", [], ["--prompt="]),
    "codex": ("codex", ["exec"], ["--", ""]),
    CUSTOM: ("agent", [], [""]),
}

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_SECRET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DURATION = re.compile(r"(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+|0", re.ASCII)
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(kib|mib|gib|kb|mb|gb|)", re.ASCII)
_BYTES = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


class SpecError(Exception):
    """The file cannot be used. `problems` has every reason, each naming its place."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class AgentSpec:
    """One agent to run; replicas are agents of their own.

    `timeout` and `grace_period` are seconds, `memory` is bytes; None stands for no limit. `argv` is what runs, with the
    prompt in it. While `prompt_file` is set, the prompt is still to be read from there: `with_prompt` puts it in.
    `interactive`: it runs in a terminal that people attach to.
    """

    __slots__ = (
        *("argv", "command", "env", "extra_packages", "args", "grace_period", "harness", "interactive", "max_restarts"),
        *("memory", "name", "pid_limit", "prompt", "prompt_file", "restart", "secrets", "session", "timeout", "type"),
        *("in_terminal", "workdir"),
    )

    def __init__(self) -> None:
        self.name = ""
        self.type = SANDBOXED
        self.harness = ""
        self.command: list[str] = []
        self.args: list[str] = []
        self.prompt = ""
        self.prompt_file = ""
        self.workdir = WORKDIR
        self.restart = NO
        self.max_restarts = 0
        self.timeout: float | None = None
        self.grace_period = GRACE_SECONDS
        self.session = ""
        self.in_terminal = False
        self.memory: int | None = None
        self.pid_limit: int | None = None
        self.extra_packages: list[str] = []
        self.env: dict[str, str] = {}
        self.secrets: list[str] = []
        self.argv: list[str] = []
        self.interactive = False

    def copy(self) -> AgentSpec:
        """An agent of the same values; lists and tables are shared, since nobody changes them."""
        other = AgentSpec()
        for slot in self.__slots__:
            setattr(other, slot, getattr(self, slot))
        return other

    def with_prompt(self, prompt: str) -> AgentSpec:
        """The same agent, told to do this. Raises SpecError if it cannot be."""
        other = self.copy()
        other.prompt, other.prompt_file = prompt, ""
        problems = [*_text_problems("prompt", prompt), *_task_problems(other)]
        if problems:
            raise SpecError([f"{self.name}: {problem}" for problem in problems])
        _resolve(other)
        return other


class Config:
    """What agentd needs of a jcard: the agents, sorted by name, and where shares will be: (guest path, read-only)."""

    __slots__ = ("agents", "shares")

    def __init__(self, agents: list[AgentSpec], shares: list[tuple[str, bool]]) -> None:
        self.agents = agents
        self.shares = shares


def parse(text: str) -> Config:
    """The agents of a jcard. Raises SpecError with every fault."""
    if len(text) > MAX_CONFIG:
        raise SpecError([f"is longer than {MAX_CONFIG} bytes"])
    try:
        card = tomllib.loads(text)
    except RecursionError:
        raise SpecError(["is nested too deep"]) from None
    except ValueError as error:  # what a TOMLDecodeError is, and what a number too long to convert raises
        raise SpecError([f"is not TOML: {error}"]) from None
    problems: list[str] = []
    groups = []
    for number, table in enumerate(_tables(card, "agents", problems)):
        reader = _Reader(table, f"agents[{number}]", problems)
        groups.append((reader, *_read_agent(reader)))
    shares = []
    for number, table in enumerate(_tables(card, "shared", problems)):
        guest, read_only = table.get("guest"), table.get("readonly", False)
        if not isinstance(guest, str) or not guest.startswith("/") or not isinstance(read_only, bool):
            problems.append(f"shared[{number}]: needs `guest`, an absolute path, and `readonly`, true or false")
        else:
            shares.append((guest.rstrip("/") or "/", read_only))
    agents = _expand(groups, problems)
    if problems:
        raise SpecError(problems)
    for agent in agents:
        _resolve(agent)
    return Config(sorted(agents, key=lambda agent: agent.name), shares)


def seconds(text: str) -> float:
    """A duration as Go writes it (time.ParseDuration), not negative: 90s, 1h30m, 1.5h. Raises ValueError."""
    if not _DURATION.fullmatch(text):
        raise ValueError("is not a duration such as 30s, 10m or 1h30m")
    total = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
    if total > _MAX_SECONDS:
        raise ValueError("is longer than a year")
    return total


def size(text: str) -> int:
    """Bytes of a size such as 512MiB, 1.5GB or 1048576; units in any case. Raises ValueError."""
    found = _SIZE.fullmatch(text.strip().lower())
    if not found or len(text) > 40:
        raise ValueError("is not a size such as 512MiB, 1.5GB or a number of bytes")
    return int(float(found[1]) * _BYTES[found[2]]) if "." in found[1] else int(found[1]) * _BYTES[found[2]]


def is_variable(name: str) -> bool:
    """Whether it can be the name of an environment variable."""
    return bool(_VARIABLE.fullmatch(name))


def _tables(card: Mapping[str, Any], key: str, problems: list[str]) -> list[dict[str, Any]]:
    found = card.get(key, [])
    if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
        problems.append(f"{key}: is not a list of tables: write [[{key}]]")
        return []
    if len(found) > MAX_AGENTS:
        problems.append(f"{key}: are more than {MAX_AGENTS}")
        return []
    return found


class _Reader:
    """Takes one table apart. Text that is empty stands for a key that is absent: the original writes it so."""

    def __init__(self, table: dict[str, Any], place: str, problems: list[str]) -> None:
        self.table, self.place, self._problems = table, place, problems
        if isinstance(name := table.get("name"), str) and name:
            self.place = f"{place} {name[:60]!r}"

    def complain(self, what: str) -> None:
        self._problems.append(f"{self.place}: {what}")

    def text(self, key: str, default: str = "") -> str:
        value = self.table.get(key, "")
        if not isinstance(value, str):
            self.complain(f"{key}: is not text")
            return default
        for problem in _text_problems(key, value):
            self.complain(problem)
        return value or default

    def choice(self, key: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.text(key, default)
        if value not in allowed:
            self.complain(
                f"{key}: is {value[:60]!r}, not one of {', '.join(allowed)}" if value else f"{key}: is needed"
            )
        return value

    def count(self, key: str) -> int:
        value = self.table.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_COUNT:
            self.complain(f"{key}: is not a whole number from 0 to {_MAX_COUNT}")
            return 0
        return value

    def converted(self, key: str, convert: Callable[[str], Any]) -> Any:
        value = self.text(key)
        try:
            return convert(value) if value else None
        except ValueError as error:
            self.complain(f"{key}: {value[:60]!r} {error}")
            return None

    def memory(self) -> int | None:
        value = self.table.get("memory", "")
        if isinstance(value, int) and not isinstance(value, bool):
            found: int | None = value
        else:
            found = self.converted("memory", size)
        if found is not None and not 0 <= found <= _MAX_MEMORY:
            self.complain("memory: is out of range")
            return None
        return found or None  # 0, as absent, is the default

    def texts(self, key: str) -> list[str]:
        value = self.table.get(key, [])
        if not isinstance(value, list) or len(value) > _MAX_LIST or not all(isinstance(item, str) for item in value):
            self.complain(f"{key}: is not a list of at most {_MAX_LIST} texts")
            return []
        for item in value:
            for problem in _text_problems(key, item):
                self.complain(problem)
        return value

    def variables(self, key: str) -> dict[str, str]:
        value = self.table.get(key, {})
        if not isinstance(value, dict) or len(value) > _MAX_LIST:
            self.complain(f"{key}: is not a table of at most {_MAX_LIST} texts")
            return {}
        for name, item in value.items():
            if not _VARIABLE.fullmatch(name) or not isinstance(item, str):
                self.complain(f"{key}: {name[:60]!r} is not the name of a variable with a text")
            else:
                for problem in _text_problems(f"{key}.{name}", item):
                    self.complain(problem)
        return {name: item for name, item in value.items() if isinstance(item, str)}


_KEYS = frozenset(
    (
        *("name", "type", "harness", "prompt", "prompt_file", "workdir", "restart", "max_restarts", "timeout", "env"),
        *("grace_period", "session", "memory", "pid_limit", "extra_packages", "replicas", "secrets", "command", "args"),
    )
)


def _read_agent(reader: _Reader) -> tuple[AgentSpec, int]:
    """The agent as it is written, and how many of it are wanted."""
    agent = AgentSpec()
    for key in sorted(reader.table.keys() - _KEYS):
        reader.complain(f"{key[:60]}: there is no such key")
    agent.name = reader.text("name")
    agent.type = reader.choice("type", SANDBOXED, (SANDBOXED, NATIVE))
    agent.harness = reader.choice("harness", "", tuple(_HARNESSES))
    agent.prompt, agent.prompt_file = reader.text("prompt"), reader.text("prompt_file")
    agent.workdir = reader.text("workdir", WORKDIR)
    agent.restart = reader.choice("restart", NO, (NO, ON_FAILURE, ALWAYS))
    agent.max_restarts = reader.count("max_restarts")
    agent.timeout = reader.converted("timeout", seconds) or None
    grace = reader.converted("grace_period", seconds)
    agent.grace_period = GRACE_SECONDS if grace is None else grace
    agent.session = reader.text("session")
    agent.memory, agent.pid_limit = reader.memory(), reader.count("pid_limit") or None
    agent.command, agent.args = reader.texts("command"), reader.texts("args")
    agent.env, agent.secrets = reader.variables("env"), list(dict.fromkeys(reader.texts("secrets")))
    agent.extra_packages = reader.texts("extra_packages")
    if agent.type == SANDBOXED:
        agent.memory, agent.pid_limit = agent.memory or SANDBOX_MEMORY, agent.pid_limit or SANDBOX_PIDS

    for key in ("workdir", "prompt_file"):
        value = getattr(agent, key)
        if value and not value.startswith("/"):
            reader.complain(f"{key}: {value[:60]!r} is not an absolute path")
    if agent.extra_packages:
        reader.complain("extra_packages: the image is fixed; build a mixtape that has them")
    if agent.session and (agent.type != NATIVE or not NAME.fullmatch(agent.session)):
        reader.complain("session: is for native agents, and made of lower-case letters, digits and hyphens")
    if agent.command and agent.harness != CUSTOM:
        reader.complain("command: is for the harness custom")
    if agent.command and not agent.command[0]:
        reader.complain("command: names no program")
    for secret in agent.secrets:
        if not _SECRET.fullmatch(secret) or ".." in secret:
            reader.complain(f"secrets: {secret[:60]!r} cannot be the name of a secret")
    for problem in _task_problems(agent):
        reader.complain(problem)
    replicas = reader.table.get("replicas", 1)
    if isinstance(replicas, bool) or not isinstance(replicas, int):
        reader.complain("replicas: is not a whole number")
        replicas = 1
    agent.in_terminal = bool(agent.session)
    return agent, max(1, replicas)


def _expand(groups: list[tuple[_Reader, AgentSpec, int]], problems: list[str]) -> list[AgentSpec]:
    """One agent per replica, all of them named.

    A single one keeps its name, more are counted from 0. Agents without a name are called as their harness, and counted
    over all of them where there is more than one.
    """
    unnamed: dict[str, int] = {}
    for _, agent, replicas in groups:
        if not agent.name:
            unnamed[agent.harness] = unnamed.get(agent.harness, 0) + replicas
    if sum(replicas for _, _, replicas in groups) > MAX_AGENTS:
        problems.append(f"agents: with their replicas they are more than {MAX_AGENTS}")
        return []
    agents: list[AgentSpec] = []
    counted: dict[str, int] = {}
    seen: set[str] = set()
    for reader, agent, replicas in groups:
        for number in range(replicas):
            one = agent.copy()
            if agent.name:
                one.name = f"{agent.name}-{number}" if replicas > 1 else agent.name
            else:
                place = counted.get(agent.harness, 0)
                counted[agent.harness] = place + 1
                one.name = f"{agent.harness}-{place}" if unnamed[agent.harness] > 1 else agent.harness
            one.session = one.name if replicas > 1 or not agent.session else agent.session
            if not NAME.fullmatch(one.name):
                reader.complain(
                    f"name: {one.name[:60]!r} is not 1 to 41 lower-case letters, digits and hyphens, a hyphen not first"
                )
                break
            if one.name in seen:
                reader.complain(f"name: there is another agent called {one.name}")
            seen.add(one.name)
            agents.append(one)
    return agents


def _task_problems(agent: AgentSpec) -> list[str]:
    if agent.type == SANDBOXED and not (agent.prompt or agent.prompt_file or agent.command):
        return ["prompt: is needed, since only a native agent has a terminal to ask for one"]
    words = (*agent.command, *agent.args, agent.prompt)
    if sum(len(word.encode(errors="surrogatepass")) + 1 for word in words) > MAX_COMMAND:
        return [f"command, args and prompt: are longer than {MAX_COMMAND} bytes together"]
    return []


def _text_problems(key: str, text: str) -> list[str]:
    problems = []
    if "\0" in text:
        problems.append(f"{key}: has a null character in it")
    if len(text.encode(errors="surrogatepass")) > MAX_ARGUMENT:
        problems.append(f"{key}: is longer than {MAX_ARGUMENT} bytes")
    return problems


def _resolve(agent: AgentSpec) -> None:
    """Fill in what follows from the rest: the command line, and whether it wants a terminal."""
    program, finishing, before_prompt = _HARNESSES[agent.harness]
    start = agent.command or [program]
    if agent.prompt:
        agent.argv = [*start, *finishing, *agent.args, *before_prompt[:-1], before_prompt[-1] + agent.prompt]
    else:
        agent.argv = [*start, *agent.args]
    # A command of its own is complete without a prompt: it gets a terminal only where a session is asked for.
    without_task = not agent.prompt and not agent.prompt_file and (not agent.command or agent.in_terminal)
    agent.interactive = agent.type == NATIVE and without_task
