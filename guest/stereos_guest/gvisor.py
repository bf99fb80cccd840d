"""Agents of type sandboxed: what gVisor's runsc is told, and what the unit around it may do. Pure: nothing is written.

The agent sees /usr, a copy of the harmless part of /etc, its home and the shares, and nothing else of the machine. Its
kernel is gVisor's; this machine's sees only what runsc does. Bundle, root folder and state of runsc lie in a tmpfs that
is the unit's own, so they are gone with the unit however it ends. Its environment, secrets included, reaches the agent
through a pipe: config.json has none of it. `sandbox-run` and `sandbox-enter` are the two programs around runsc.

See config.md of the OCI runtime specification 1.2, `runsc flags`, and systemd.exec(5).
"""

from __future__ import annotations

import json

from stereos_guest.agentspec import SpecError
from stereos_guest.agentunits import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from stereos_guest.agentspec import AgentSpec

HOME = "/home/agent"
PRIVATE = "/run/sandbox"
"""In the unit this is a tmpfs of its own."""

_RUN = "/usr/lib/stereos/sandbox-run"
_ENTER = "/usr/lib/stereos/sandbox-enter"
_BUNDLE = f"{PRIVATE}/bundle"
_UID = _GID = 1000
_FILES = 65536  # open at once; Debian's own hard limit would be passed on otherwise
_ROOM = {"/tmp": 512 << 20, "/var/tmp": 512 << 20, "/run": 64 << 20}  # bytes, and they count as the agent's memory

_OPTIONS = (
    f"--root={PRIVATE}/state",
    "--platform=systrap",  # needs no ptrace and no /dev/kvm; runs as well where the machine itself is emulated
    "--network=host",
    "--ignore-cgroups",  # limits are the unit's
    "--overlay2=none",  # what is written goes where it belongs, not into a layer above it
    "--host-uds=none",  # a socket in a share leads out of the sandbox
)

# runsc begins as root: it mounts, makes namespaces, and acts on files as whoever the agent is. All that can be taken
# away from it is taken away here; the agent inside has no capability at all.
_CAPABILITIES = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETPCAP"),
    *("CAP_SETUID", "CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE"),
)
_CONFINEMENT = (
    "KillMode=mixed",  # SIGTERM is for the agent, and sandbox-run passes it on; what is left afterwards is killed
    f"CapabilityBoundingSet={' '.join(_CAPABILITIES)}",
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "InaccessiblePaths=-/run/stereos -/state -/root -/home/admin",
    "ProtectProc=invisible",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "PrivateTmp=disconnected",
    "PrivateDevices=yes",
    "PrivateIPC=yes",
    "KeyringMode=private",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "RestrictNamespaces=mnt pid ipc uts user net",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service @mount @privileged @debug",
    "SystemCallFilter=~@clock @module @obsolete @raw-io @reboot @swap bpf kexec_load perf_event_open userfaultfd",
    "SystemCallErrorNumber=EPERM",
)


def service(
    spec: AgentSpec, folder: str, shares: Iterable[tuple[str, bool]]
) -> tuple[list[str], list[str], dict[str, str]]:
    """How to run `spec` with runsc: (command line, lines for [Service], files by absolute path with their content).

    `folder` is this agent's own, private to root, an absolute path without spaces: the files are below it. `shares` are
    the mounted ones: (guest path, read-only). The agent's variables are the unit's own (EnvironmentFile=), then its
    credentials (LoadCredential=), then those of `spec`; the last one wins.

    The unit runs as root, so User= must not be set; what has to write below /run/stereos (ExecStopPost=) needs the
    prefix +. Raises SpecError for what has no place in a sandbox.
    """
    if spec.interactive or spec.in_terminal:
        raise SpecError([f"{spec.name}: a sandboxed agent has no terminal: give it a prompt, or make it native"])
    places = _places(shares)
    config, environment = f"{folder}/config.json", f"{folder}/environment"
    writable = " ".join(quote(path) for path, read_only in places.items() if not read_only)
    properties = [
        *_CONFINEMENT,
        f"Environment=HOME={HOME} USER=agent LOGNAME=agent SHELL=/usr/lib/stereos/agent/shell",
        f"TemporaryFileSystem={PRIVATE}:mode=0700,size=64M",
        f"BindReadOnlyPaths={config}:{_BUNDLE}/config.json",
        f"BindReadOnlyPaths={environment}:{_BUNDLE}/environment",
        *([f"ReadWritePaths={writable}"] if writable else []),
    ]
    document = json.dumps(configuration(spec, places), indent=1, sort_keys=True) + "\n"
    variables = "".join(f"{name}={value}\0" for name, value in sorted(spec.env.items()))
    return [_RUN, spec.name, _BUNDLE, *_OPTIONS], properties, {config: document, environment: variables}


def configuration(spec: AgentSpec, places: dict[str, bool]) -> dict[str, Any]:
    """The config.json of the bundle. `places` are bound into the sandbox: whether each is read-only."""
    kinds = ("ambient", "bounding", "effective", "inheritable", "permitted")
    return {
        "ociVersion": "1.2.0",
        "hostname": "sandbox",
        "root": {"path": "rootfs", "readonly": True},
        "process": {
            "terminal": False,
            "user": {"uid": _UID, "gid": _GID, "umask": 0o022},
            # The working directory is entered by the agent: runsc would make a missing one, as root.
            "args": [_ENTER, spec.workdir, *spec.argv],
            "cwd": "/",
            "env": [],
            "capabilities": {kind: [] for kind in kinds},
            "noNewPrivileges": True,
            "rlimits": [
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                {"type": "RLIMIT_NOFILE", "soft": _FILES, "hard": _FILES},
            ],
        },
        "mounts": [
            _mount("/proc", "proc", "noexec"),
            _mount("/sys", "sysfs", "noexec", "ro"),
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec"]},
            *(_mount(place, "tmpfs", "mode=1777", f"size={room}") for place, room in _ROOM.items()),
            _bind("/usr", read_only=True),
            *(_bind(path, read_only=read_only) for path, read_only in places.items()),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("ipc", "mount", "pid", "uts")],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def _places(shares: Iterable[tuple[str, bool]]) -> dict[str, bool]:
    """The agent's home and the shares, what lies below another after it. A share may take the place of the home."""
    places = {HOME: False}
    for path, read_only in shares:
        if not path.startswith("/") or not path.isprintable() or set(path.split("/")[1:]) & {"", ".", ".."}:
            raise SpecError([f"shared: {path[:200]!r} is not an absolute path in its plain form"])
        places[path] = read_only
    return dict(sorted(places.items()))


def _mount(destination: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": ["nosuid", "nodev", *options]}


def _bind(path: str, *, read_only: bool) -> dict[str, Any]:
    options = ["bind", "nosuid", "nodev", "ro" if read_only else "rw"]
    return {"destination": path, "type": "bind", "source": path, "options": options}
