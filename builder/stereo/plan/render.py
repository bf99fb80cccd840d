"""Renders the two mkosi stages of an image: `packages/` installs a tree, `image/` turns it into a disk.

The result is complete: plain mkosi builds it, stage by stage, once the locked .debs lie in `debs/` and the agent's
archives in `packages/agent/`. Settings: mkosi(1).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid5

from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.model.lock import Lock, NpmPackage, UrlFile, Wheel
from stereo.model.mixtape import Mixtape
from stereo.model.mixtape_file import Archive
from stereo.plan.packages import installed_packages
from stereo.plan.tree import Entry, Kind, Tree, below, part, text

AGENT = "usr/lib/stereos/agent"
INIT = "/usr/lib/systemd/systemd"
_NAMESPACE = UUID("6f1f3f39-8d4a-5f0e-9c0b-0d7c1f0c7a11")

_CONSOLES = {Architecture.X86_64: ("ttyS0,115200",), Architecture.AARCH64: ("ttyAMA0,115200", "hvc0")}
_MKOSI_ARCHITECTURE = {Architecture.X86_64: "x86-64", Architecture.AARCH64: "arm64"}


@dataclass(frozen=True)
class AgentArchive:
    """A download of the agent's: which blob, and its name in the rendered tree (relative to `packages/`)."""

    sha256: str
    path: str


def seed(name: str, arch: Architecture) -> UUID:
    """The one source of every UUID, hash seed and salt on the disk (RFC 9562, version 5).

    The same for all versions: with another salt every block of the hash tree is another, and an update transfers it.
    """
    return uuid5(_NAMESPACE, f"{name}:{arch}")


def agent_archives(lock: Lock) -> tuple[AgentArchive, ...]:
    """The agent's downloads in the order of the lock."""
    return tuple(AgentArchive(row.sha256, _archive_name(row)) for row in _agent_rows(lock))


def _agent_rows(lock: Lock) -> Iterator[NpmPackage | Wheel | UrlFile]:
    yield from lock.npm
    yield from lock.wheels
    yield from lock.urls


def _archive_name(row: NpmPackage | Wheel | UrlFile) -> str:
    if isinstance(row, NpmPackage):
        return f"agent/{row.path.replace('/', '_')}-{row.version}.tgz"
    if isinstance(row, Wheel):
        return f"agent/{row.filename}"
    return f"agent/{row.sha256}"


def packages_stage(mixtape: Mixtape, lock: Lock, files: Tree, epoch: int) -> dict[str, Entry]:
    """The first stage: Debian's packages and the agent's, in a tree. Does not depend on version, overlays or guest."""
    config = _ini(
        {
            "Distribution": _distribution(lock.arch),
            "Output": {"Output": "tree", "OutputDirectory": "output"},
            "Build": {"SandboxTrees": "../apt"},
            "Content": {
                "SourceDateEpoch": epoch,
                "PackageDirectories": "../debs",
                "Packages": installed_packages(mixtape, lock.arch),
            },
        }
    )
    return {
        **part(files, "mkosi/packages"),
        "mkosi.conf": text(config),
        "agent.json": text(json.dumps(_agent(mixtape, lock), indent=2, sort_keys=True) + "\n"),
    }


def kernel_release(lock: Lock) -> str:
    """What `uname -r` will say: the lock names one kernel package, and Debian names it after its release."""
    prefix = "linux-image-"
    found = [
        deb.name.removeprefix(prefix)
        for deb in lock.image
        if deb.name.startswith(prefix) and deb.name[len(prefix)].isdigit()
    ]
    if len(found) != 1:
        raise StereoError(
            f"locks {len(found)} kernels, not one", where=f"{lock.name}-{lock.arch}.lock", hint="lock again"
        )
    return found[0]


def image_stage(mixtape: Mixtape, lock: Lock, files: Tree, epoch: int, version: str) -> dict[str, Entry]:
    """The second stage: overlays and guest daemon laid over the tree, made into a verified disk."""
    arch = lock.arch
    chosen = ["base", "boot", "hardening", "agents", "ssh", *(["dev"] if mixtape.dev else [])]
    root_seed = seed(mixtape.name, arch)
    config = _ini(
        {
            "Distribution": _distribution(arch),
            "Output": {"Output": "image", "OutputDirectory": "output", "Seed": root_seed},
            "Build": {
                "SandboxTrees": "../apt",
            },
            "Content": {
                "SourceDateEpoch": epoch,
                "BaseTrees": "../packages/output/tree.tar",
                "ExtraTrees": [*(f"overlays/{name}" for name in chosen), "guest", "identity"],
                "KernelCommandLine": command_line(mixtape, arch),
            },
        }
    )
    tree = {**part(files, "mkosi/image"), "mkosi.conf": text(config), "mkosi.env": text(_mkfs_options(root_seed))}
    # The UKI holds the kernel; a second copy in the root would only be downloaded.
    kernel = f"[Partition]\nExcludeFiles=/usr/lib/modules/{kernel_release(lock)}/vmlinuz\n"
    tree["mkosi.repart/10-root.conf.d/kernel.conf"] = text(kernel)
    for name in chosen:
        tree |= below(f"overlays/{name}", part(files, f"overlays/{name}"))
    tree |= below("guest/usr/lib/stereos", part(files, "guest"))
    tree |= below("identity", _identity(mixtape, version))
    return tree


def _mkfs_options(root_seed: UUID) -> str:
    """mkosi.env: what systemd-repart hands on to the makers of file systems."""
    return (
        # mke2fs before 1.47.4 heeds its last -E alone: repart's own options stand here again.
        f"SYSTEMD_REPART_MKFS_OPTIONS_EXT4=-E hash_seed={uuid5(root_seed, 'ext4 hash seed')},"
        "nodiscard,lazy_itable_init=1\n"
        # Sectors of 512 bytes: with repart's 4096, 64 MiB hold too few clusters for FAT32, which firmware refuses.
        "SYSTEMD_REPART_MKFS_OPTIONS_VFAT=-S 512 -s 1\n"
        # Data in chunks lies apart from the inodes: a changed file no longer shifts all that follows, so that a rebuild
        # compresses little and an update transfers little.
        "SYSTEMD_REPART_MKFS_OPTIONS_EROFS=--chunksize=1048576\n"
    )


def command_line(mixtape: Mixtape, arch: Architecture) -> str:
    """The kernel's command line, before the root hash: the same for the UKI and for direct boot."""
    words = [f"console={console}" for console in _CONSOLES[arch]]
    words += ["quiet", "loglevel=4", "lockdown=integrity"]
    # Those that something of ours uses. Debian's kernel would start ten; BPF's alone costs systemd a third of a second.
    words += ["lsm=landlock,lockdown,yama,apparmor"]
    # Its tests of its own ciphers take a quarter of an emulated boot. And a SHA-256 that is wrong verifies no root.
    words += ["cryptomgr.notests"]
    # A machine whose kernel panicked ends, and whoever runs it hears of that, instead of standing still for ever.
    words += ["panic=-1"]
    if arch is Architecture.X86_64:
        # Its test of the timer counts on a host that is never late, and panics over one that is.
        words += ["no_timer_check"]
    words += ["systemd.show_status=auto" if mixtape.dev else "systemd.show_status=no"]
    return " ".join(words)


def _distribution(arch: Architecture) -> dict[str, object]:
    return {"Distribution": "debian", "Release": "trixie", "Architecture": _MKOSI_ARCHITECTURE[arch]}


def _ini(sections: Mapping[str, Mapping[str, object]]) -> str:
    lines = ["# Rendered by stereo: change the mixtape, mkosi/ or overlays/ instead."]
    for section, settings in sections.items():
        lines += ["", f"[{section}]"]
        for key, value in settings.items():
            if isinstance(value, list | tuple):
                lines += [f"{key}=", *(f"    {item}" for item in value)]
            else:
                lines.append(f"{key}={value}")
    return "\n".join(lines) + "\n"


def _agent(mixtape: Mixtape, lock: Lock) -> dict[str, object]:
    """agent.json of mkosi/packages/mkosi.postinst: what to unpack where, and the programs on the agent's PATH."""
    extra = mixtape.extra_packages(lock.arch)
    packing = {spec.sha256: (spec.name, spec.archive) for spec in extra.url}
    unpack = []
    for row in _agent_rows(lock):
        if isinstance(row, NpmPackage):
            kind, into = "npm", f"{AGENT}/npm/{row.path}"
        elif isinstance(row, Wheel):
            kind, into = "wheel", f"{AGENT}/python"
        else:
            name, archive = packing[row.sha256]
            kind, into = ("file" if archive is Archive.NONE else archive.value), f"{AGENT}/files/{name}"
        unpack.append({"kind": kind, "archive": _archive_name(row), "into": into})
    roots = {"debian": "", "npm": f"/{AGENT}/npm/node_modules/{{}}", "pypi": f"/{AGENT}/python"}
    bare = {spec.name for spec in extra.url if spec.archive is Archive.NONE}
    programs = {}
    for program in mixtape.programs(lock.arch):
        if program.source == "url":
            root = f"/{AGENT}/files/{program.package}"
            programs[program.name] = root if program.package in bare else f"{root}/{program.file}"
        else:
            programs[program.name] = f"{roots[program.source].format(program.package)}/{program.file}"
    return {"unpack": unpack, "programs": programs}


def _identity(mixtape: Mixtape, version: str) -> dict[str, Entry]:
    """Files that say who this image is and who may come in."""
    variables = {"PATH": f"/{AGENT}/bin", **mixtape.environment}
    tree = {
        "etc/hostname": text(f"{mixtape.name}\n"),
        "etc/hosts": text(f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {mixtape.name}\n"),
        "etc/motd": text(f"stereOS {version} ({mixtape.name})\n{mixtape.summary}\n"),
        "etc/issue": text(f"stereOS {version} ({mixtape.name})\n"),
        "usr/lib/os-release": text(_os_release(mixtape, version)),
        f"{AGENT}/environment": text("".join(f"{key}={_quoted(value)}\n" for key, value in variables.items())),
    }
    if mixtape.ssh:
        # Elsewhere the server starts when the host brings a key.
        tree["usr/lib/systemd/system-preset/50-ssh.preset"] = text("enable ssh.service\n")
    for user in ("admin", "agent"):
        if mixtape.authorized_keys:
            keys = "".join(f"{key}\n" for key in mixtape.authorized_keys)
            tree[f"etc/ssh/authorized_keys.d/{user}"] = text(keys)
    for path, content in mixtape.home_files.items():
        tree[f"home/agent/{path}"] = text(content)
    return tree


def _os_release(mixtape: Mixtape, version: str) -> str:
    fields: Sequence[tuple[str, str]] = (
        ("NAME", "stereOS"),
        ("ID", "stereos"),
        ("ID_LIKE", "debian"),
        ("PRETTY_NAME", f"stereOS {version} ({mixtape.name})"),
        ("VERSION", f"{version} ({mixtape.name})"),
        ("VERSION_ID", version),
        ("VERSION_CODENAME", mixtape.name),
        ("IMAGE_ID", mixtape.name),
        ("IMAGE_VERSION", version),
        *((("VARIANT_ID", "dev"),) if mixtape.dev else ()),
    )
    return "".join(f"{key}={_quoted(value)}\n" for key, value in fields)


def _quoted(value: str) -> str:
    """A value that shells, pam_env(8) and environment.d(5) read alike."""
    return value if shlex.quote(value) == value else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def shared_files() -> dict[str, Entry]:
    """What both stages use: a disabled package source, since mkosi would otherwise add those of Debian itself."""
    source = "Enabled: no\nTypes: deb\nURIs: file:///nowhere\nSuites: trixie\nComponents: main\n"
    return {"apt/etc/apt/sources.list.d/mkosi.sources": text(source)}


def instructions(mixtape: Mixtape, version: str) -> Entry:
    """How to build the rendered tree by hand."""
    return text(
        f"""\
#!/bin/sh
# Build {mixtape.name} {version} with plain mkosi, offline, from this folder. TOOLS may name a tree with mkosi's tools,
# such as the one in the cache of stereo; without it mkosi uses the host's own programs.
set -eu
cd "$(dirname "$0")"
umask 022
for stage in packages image; do
    mkosi --directory "$stage" --force ${{TOOLS:+--tools-tree "$TOOLS"}} build
done
""",
        Kind.PROGRAM,
    )
