"""The unit of each agent: what systemd is told to run, watch, limit and start again. Pure: values in, text out.

Settings: systemd.service(5), systemd.exec(5), systemd.resource-control(5) of systemd 257.
"""

from __future__ import annotations

from stereos_guest import agentspec
from stereos_guest.agentspec import NATIVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stereos_guest.agentspec import AgentSpec

PREFIX, SUFFIX = "stereos-agent-", ".service"
AGENTS = "/run/stereos/agents"  # a folder for each agent: what it was started with, how it ended
SECRETS = "/run/stereos/secrets"
TERMINALS = "/run/agentd"  # NAME/tmux in it is the socket of an agent's terminal
_LIBRARY = "/usr/lib/stereos"
_ENVIRONMENT = f"{_LIBRARY}/agent/environment"
_NETWORK_ENVIRONMENT = "/run/stereos/agent.env"

# An agent starts again after 1 s, then ever later, up to a minute (RestartSteps= interpolates exponentially).
_BACKOFF = ["RestartSec=1s", "RestartSteps=6", "RestartMaxDelaySec=60s"]
_STOP_MARGIN = 30  # seconds that everything but the grace period may take; emulated machines are slow
_START_SECONDS = 120

_NATIVE = """\
User=agent
Group=agent
CapabilityBoundingSet=
AmbientCapabilities=
NoNewPrivileges=yes
PrivatePIDs=yes
PrivateDevices=yes
PrivateIPC=yes
PrivateTmp=disconnected
ProtectSystem=strict
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
InaccessiblePaths=-/run/stereos -/run/systemd/private -/home/admin
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=~@clock @cpu-emulation @module @mount @obsolete @raw-io @reboot @swap bpf perf_event_open userfaultfd
SystemCallErrorNumber=EPERM
KeyringMode=private
UMask=0022
"""


def unit_name(agent: str) -> str:
    """The unit of the agent called so."""
    return f"{PREFIX}{agent}{SUFFIX}"


def native(spec: AgentSpec, shares: Iterable[tuple[str, bool]]) -> tuple[list[str], list[str], dict[str, str]]:
    """An agent that systemd alone confines: its command line, lines for [Service], files by path with their content."""
    argv = list(spec.argv)
    environment = f"{AGENTS}/{spec.name}/environment"
    settings = [*_NATIVE.splitlines(), f"OpenFile={environment}:environment:read-only"]
    # Before writable paths come what everybody may see of terminals: nothing but the own one.
    settings += ["TemporaryFileSystem=" + TERMINALS, f"RuntimeDirectory=agentd/{spec.name}"]
    settings += ["RuntimeDirectoryMode=0700", f"BindPaths={TERMINALS}/{spec.name}"]
    writable = ["/home/agent", *(path for path, read_only in shares if not read_only)]
    settings += ["ReadWritePaths=" + " ".join(quote("-" + path) for path in dict.fromkeys(writable))]
    if spec.interactive:
        argv = [f"{_LIBRARY}/agent-terminal", f"{TERMINALS}/{spec.name}/tmux", spec.session, *argv]
    return argv, settings, {environment: "".join(f"{name}={value}\0" for name, value in sorted(spec.env.items()))}


def unit(spec: AgentSpec, argv: Sequence[str], settings: Iterable[str]) -> str:
    """The unit file of an agent that runs `argv`, with these settings beside those that all agents have."""
    folder = f"{AGENTS}/{spec.name}"
    # What starts a sandbox runs as root, outside of it: it sees to folder and secrets itself.
    place, names = (spec.workdir, variables(spec)) if spec.type == NATIVE else ("/", [])
    command = [f"{_LIBRARY}/agent-run", f"{spec.grace_period:.3f}", place, ",".join(names), "--"]
    lines = [
        *("[Unit]", f"Description=Agent {spec.name}", "StartLimitIntervalSec=0", ""),
        *("[Service]", "Type=exec", "Slice=stereos-agents.slice", "SyslogIdentifier=stereos-agent"),
        # The colon: a dollar sign in an argument is one.
        "ExecStart=:" + " ".join(quote(word) for word in (*command, *argv)),
        # Before the agent is there: a hook counts as part of the unit, and beside one at its limits it could not run.
        f"ExecStartPre=+{_LIBRARY}/agent-event starting {spec.name}",
        f"ExecStop=+{_LIBRARY}/agent-event stopping {spec.name}",
        f"ExecStopPost=+{_LIBRARY}/agent-event ended {spec.name} {spec.restart} {spec.max_restarts}",
        *(f"Restart={spec.restart}", *_BACKOFF),
        *("KillMode=mixed", f"TimeoutStartSec={_START_SECONDS}s"),
        f"TimeoutStopSec={spec.grace_period + _STOP_MARGIN:.3f}s",
        # What takes the most memory is ended, and the agent may go on without it.
        "OOMPolicy=continue",
        f"OpenFile={folder}/exit:exit:truncate",
        # No variables of the jcard: root's programs of the unit would get them too.
        *(f"EnvironmentFile={_ENVIRONMENT}", f"EnvironmentFile=-{_NETWORK_ENVIRONMENT}"),
        *(f"LoadCredential={name}:{SECRETS}/{name}" for name in spec.secrets),
    ]
    if spec.timeout is not None:
        lines.append(f"RuntimeMaxSec={spec.timeout:.3f}s")
    if spec.memory is not None:
        lines.append(f"MemoryMax={spec.memory}")
    if spec.pid_limit is not None:
        lines.append(f"TasksMax={spec.pid_limit}")
    return "\n".join([*lines, *settings]) + "\n"


def variables(spec: AgentSpec) -> list[str]:
    """The secrets that become variables; one that the agent's own `env` names does not, and stays a file."""
    return [name for name in spec.secrets if agentspec.is_variable(name) and name not in spec.env]


def quote(word: str) -> str:
    """One word of a unit file's line: neither space, quote, control character nor specifier means anything in it."""
    letters = []
    for letter in word:
        if letter in '"\\':
            letters.append("\\" + letter)
        elif letter == "%":
            letters.append("%%")
        elif letter < " " or letter == "\x7f":
            letters.append(f"\\x{ord(letter):02x}")
        else:
            letters.append(letter)
    return '"' + "".join(letters) + '"'
