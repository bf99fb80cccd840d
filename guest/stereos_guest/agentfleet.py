"""Makes what runs agree with what the jcard says: one systemd unit per agent, and only those touched that changed.

systemd holds the agents and their restarts; what each was started with stands in its folder on tmpfs. So this can end
at any time and begin again, and finds everything as it is.
"""

from __future__ import annotations

from _blake2 import blake2b  # `hashlib` would load all of OpenSSL

from stereos_guest import agentfiles, agentmemory, agentspec, agentstate, agentunits, files, jsontext
from stereos_guest.agentspec import SpecError
from stereos_guest.systemctl import SystemctlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stereos_guest.agentspec import AgentSpec, Config
    from stereos_guest.systemctl import Systemctl

CONFIG = "/etc/stereos/jcard.toml"
UNITS = "/run/systemd/system"
ACTIONS = ("start", "stop", "restart", "signal")
_MOUNTS = "/proc/self/mounts"
_MOST_RECORD = 64 << 10
_MOST_SECRET = 1 << 20
_RECORDS = ("ended", "stalled", "started", "stopped")  # of the runs before, and what the operator had wanted
# Passed on by agent-run; STOP would stop that and not the agent.
_SIGNALS = ("HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM", "CONT", "WINCH")


class ActionError(Exception):
    """What was asked for one agent cannot be done."""


class _Plan:
    """All that an agent is started with; `digest` tells whether anything of it has changed."""

    def __init__(self, unit: str, files: dict[str, str], secrets: dict[str, bytes]) -> None:
        self.unit, self.files = unit, files
        digest = blake2b(digest_size=32)
        for name, content in [("", unit), *sorted(files.items())]:
            digest.update(f"{len(name)} {len(content)} {name}{content}".encode())
        for name, value in sorted(secrets.items()):
            digest.update(f"{len(name)} {len(value)} {name}".encode() + value)
        self.digest = digest.hexdigest()


class Fleet:
    """The agents: those of the jcard, and those that still run though it does not name them any more."""

    def __init__(self, systemctl: Systemctl, root: str = "") -> None:
        self._systemctl = systemctl
        self._root = root
        self._config: Config | None = None
        self._text: bytes | None = None
        self._waiting: dict[str, str] = {}
        self._problems: dict[str, str] = {}
        self._units: dict[str, dict[str, str]] = {}
        self._about: dict[str, dict[str, Any]] = {}
        self._known = set(self._folders())  # names that systemd may remember a unit of
        self.error = ""  # why the jcard that is there is not the one in force

    # --- what ought to be ---

    def reconcile(self) -> None:
        """Start, stop and leave alone. Nothing here waits for an agent. Raises OSError, SystemctlError."""
        self._load()
        if self._config is None:
            return
        wanted = {spec.name: spec for spec in self._config.agents}
        self._waiting, self._problems = {}, {}
        there = set(agentfiles.names(self._root + agentunits.SECRETS))
        mounted = self._mounted()
        start: dict[str, tuple[AgentSpec, _Plan]] = {}
        stop = [name for name in self._folders() if name not in wanted]
        for name, spec in wanted.items():
            missing = next((secret for secret in spec.secrets if secret not in there), None)
            if missing is not None:
                self._waiting[name] = f"secret {missing} is not there yet"
                stop.append(name)
                continue
            away = next((path for path, _ in self._config.shares if path not in mounted), None)
            if away is not None and not self._read_about(name):  # before its prompt, which may be in there
                self._waiting[name] = f"share {away} is not mounted yet"
                continue
            plan = self._plan(spec)
            if plan is None or self._read_about(name).get("digest") == plan.digest:
                continue
            if away is not None:
                self._waiting[name] = f"share {away} is not mounted yet"
                continue
            start[name] = (spec, plan)
        self._stop(stop)
        self._start(start)

    def _load(self) -> None:
        try:
            text = agentfiles.read(self._root + CONFIG, agentspec.MAX_CONFIG)
        except OSError as error:
            self.error = f"{CONFIG}: {error.strerror}"
            return
        if text is None or text == self._text:
            return
        self._text = text
        try:
            self._config = agentspec.parse(text.decode())
            self.error = ""
        except UnicodeDecodeError:
            self.error = f"{CONFIG}: is not UTF-8"
        except SpecError as error:
            self.error = f"{CONFIG}: {error}"

    def _mounted(self) -> set[str]:
        if not self._config or not self._config.shares:
            return set()
        # A file of proc has no size of its own, and as many lines as there are mounts.
        return agentfiles.mount_points((agentfiles.read(self._root + _MOUNTS, 1 << 20) or b"").decode(errors="replace"))

    def _plan(self, spec: AgentSpec) -> _Plan | None:
        """How to start this agent; None if it cannot be, and then `_problems` says why."""
        try:
            if spec.prompt_file:
                spec = self._with_prompt(spec)
            secrets = {}
            for name in spec.secrets:
                value = agentfiles.read(f"{self._root}{agentunits.SECRETS}/{name}", _MOST_SECRET)
                secrets[name] = value or b""
            shares = self._config.shares if self._config else []
            if spec.type == agentspec.SANDBOXED:
                from stereos_guest import gvisor

                argv, settings, contents = gvisor.service(spec, f"{agentunits.AGENTS}/{spec.name}", shares)
            else:
                argv, settings, contents = agentunits.native(spec, shares)
            return _Plan(agentunits.unit(spec, argv, settings), contents, secrets)
        except SpecError as error:
            self._problems[spec.name] = f"cannot start: {error}"
        except OSError as error:
            self._problems[spec.name] = f"cannot start: {error.strerror}"
        return None

    def _with_prompt(self, spec: AgentSpec) -> AgentSpec:
        try:
            prompt = agentfiles.read_unlinked(self._root + spec.prompt_file, agentspec.MAX_ARGUMENT)
            return spec.with_prompt(prompt.decode().strip())
        except UnicodeDecodeError:
            raise SpecError([f"{spec.prompt_file}: is not UTF-8"]) from None
        except OSError as error:
            raise SpecError([f"{spec.prompt_file}: {error.strerror}"]) from None

    def _start(self, plans: dict[str, tuple[AgentSpec, _Plan]]) -> None:
        if not plans:
            return
        agentfiles.folder(self._root + agentunits.AGENTS)
        agentfiles.folder(self._root + UNITS, 0o755)
        for name, (_, plan) in plans.items():
            agentfiles.folder(self._folder(name))
            for path, content in plan.files.items():
                files.replace(self._root + path, content.encode(), 0o600)
            agentfiles.make(self._folder(name) + "/exit")  # systemd empties it; a run that still ends writes there too
            files.replace(self._unit_file(name), plan.unit.encode(), 0o644)
        if self._known & plans.keys():
            self._systemctl.reload()
        self._known |= plans.keys()
        for name in plans:
            agentfiles.remove(f"{self._folder(name)}/{record}" for record in _RECORDS)
        self._queue("restart", list(plans))
        for name, (spec, plan) in plans.items():
            if name in self._problems:
                continue
            about = {"name": name, "type": spec.type, "harness": spec.harness, "digest": plan.digest}
            if spec.interactive:
                about["session"] = spec.session
            self._about[name] = about
            files.replace(self._folder(name) + "/about", jsontext.dumps(about).encode(), 0o600)

    def _stop(self, names: list[str]) -> None:
        """Stop agents; they are started anew, from nothing, when they may run again."""
        gone = [name for name in names if self._read_about(name)]
        for name in gone:
            agentfiles.remove([self._folder(name) + "/about"])
            self._about.pop(name, None)
        self._queue("stop", gone)

    def _queue(self, verb: str, names: list[str]) -> None:
        """All at once; if systemd refuses, one by one, to know whom it refuses."""
        try:
            self._systemctl.queue(verb, [agentunits.unit_name(name) for name in names])
        except SystemctlError:
            for name in names:
                try:
                    self._systemctl.queue(verb, [agentunits.unit_name(name)])
                except SystemctlError as error:
                    self._problems[name] = f"cannot {verb}: {error}"

    # --- what is ---

    def observe(self) -> bool:
        """Look at what systemd holds. True if it is about to change without another word. Raises as `reconcile`."""
        folders = self._folders()
        shown = self._systemctl.show([agentunits.unit_name(name) for name in folders])
        self._units = {name: shown.get(agentunits.unit_name(name), {}) for name in folders}
        for name, unit in tuple(self._units.items()):
            idle = unit.get("ActiveState") in ("inactive", "failed") and not agentstate.pending(unit)
            if idle and not self._read_about(name) and name not in self._problems:
                self._forget(name)
            elif unit.get("ActiveState") == "active":
                self._end_stalled(name)
        return any(agentstate.settling(unit) for unit in self._units.values())

    def _end_stalled(self, name: str) -> None:
        """End an agent that its memory limit keeps from going on; `agent-event` tells that it was for this."""
        unit = agentunits.unit_name(name)
        if agentmemory.stalled(f"{self._root}{agentmemory.CGROUPS}/{unit}"):
            agentfiles.make(self._folder(name) + "/stalled")
            self._systemctl.call("kill", "--signal=KILL", "--", unit)

    def _forget(self, name: str) -> None:
        if self._units.pop(name).get("ActiveState") == "failed":
            self._systemctl.call("reset-failed", "--", agentunits.unit_name(name))
        agentfiles.remove([self._unit_file(name)])
        agentfiles.remove_folder(self._folder(name))

    def entries(self) -> list[dict[str, Any]]:
        """All agents, sorted by name, as of the last `observe`. Raises OSError."""
        specs = {spec.name: spec for spec in self._config.agents} if self._config else {}
        return [self._entry(name, specs.get(name)) for name in sorted({*specs, *self._units})]

    def _entry(self, name: str, spec: AgentSpec | None) -> dict[str, Any]:
        about: dict[str, Any] = {"name": name}
        if spec:
            about |= {"type": spec.type, "harness": spec.harness, "session": spec.session if spec.interactive else ""}
        about |= self._read_about(name)
        ended = self._record(name, "ended")
        started = self._record(name, "started")
        told = self._record_text(name, "exit")
        return agentstate.entry(
            about,
            self._units.get(name, {}),
            agentstate.ending(ended, told) if ended else None,
            stopped=agentfiles.read(self._folder(name) + "/stopped", _MOST_RECORD) is not None,
            waiting=self._waiting.get(name, ""),
            problem=self._problems.get(name, ""),
            started_at=agentstate.number(started.get("at")),
        )

    # --- what the operator asks ---

    def act(self, name: str, action: str, signal: str = "") -> None:
        """Start, stop, restart or signal one agent. Raises ActionError, OSError, SystemctlError."""
        if action not in ACTIONS:
            raise ActionError(f"{action[:40]!r} is none of {', '.join(ACTIONS)}")
        if name not in {*self._units, *(spec.name for spec in (self._config.agents if self._config else []))}:
            raise ActionError("agent not found")
        if not self._read_about(name):
            raise ActionError(self._waiting.get(name) or self._problems.get(name) or "it is being stopped for good")
        unit = agentunits.unit_name(name)
        if action == "signal":
            if signal.removeprefix("SIG") not in _SIGNALS:
                raise ActionError(f"{signal[:40]!r} is none of {', '.join(_SIGNALS)}")
            self._systemctl.call("kill", f"--signal={signal}", "--kill-whom=main", "--", unit)
        elif action == "stop":
            files.replace(self._folder(name) + "/stopped", b"", 0o600)
            self._systemctl.queue("stop", [unit])
        else:
            agentfiles.remove([self._folder(name) + "/stopped"])
            if action == "restart" or self._units.get(name, {}).get("ActiveState") not in ("active", "activating"):
                agentfiles.remove([self._folder(name) + "/ended"])
                self._systemctl.queue("restart" if action == "restart" else "start", [unit])

    # --- files ---

    def _folders(self) -> list[str]:
        return [name for name in agentfiles.names(self._root + agentunits.AGENTS) if agentspec.NAME.fullmatch(name)]

    def _folder(self, name: str) -> str:
        return f"{self._root}{agentunits.AGENTS}/{name}"

    def _unit_file(self, name: str) -> str:
        return f"{self._root}{UNITS}/{agentunits.unit_name(name)}"

    def _read_about(self, name: str) -> dict[str, Any]:
        """What the agent was last started with; empty if it is not to run."""
        if name not in self._about:
            text = self._record_text(name, "about")
            if not text:
                return {}
            self._about[name] = jsontext.loads(text)
        return self._about[name]

    def _record(self, name: str, kind: str) -> dict[str, str]:
        return agentstate.rows(self._record_text(name, kind))

    def _record_text(self, name: str, kind: str) -> str:
        return (agentfiles.read(f"{self._folder(name)}/{kind}", _MOST_RECORD) or b"").decode(errors="replace")
