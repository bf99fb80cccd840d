"""From a jcard and the dist that it names to the job of a supervisor. Nothing is started here, and nothing changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stereo.dists import Dist, resolve
from stereo.errors import StereoError, UsageError
from stereo.model.jcard import Jcard, guest_config, parse_jcard
from stereo.paths import Cache
from stereo.report import Report
from stereo.sandbox.job import Forward, Job, Shared
from stereo.sandbox.state import Folder, sandboxes

_MIB = 1 << 20
_LARGEST = 1 << 20
_SHUTDOWN_SECONDS = 30.0  # what an idle guest may take, emulated on a busy host


def read_job(file: Path, environment: Mapping[str, str], report: Report, arch: str | None = None) -> Job:
    """The job that the jcard in `file` asks for, with `${VARIABLES}` of `environment`. Raises StereoError.

    `arch` is that of the guest; by default that of the sandbox, if there is one, else of the path, or this machine's.
    `report` is warned of what is no fault and yet hardly meant, such as a secret that no agent is given.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except FileNotFoundError:
        raise UsageError("there is no such file", where=str(file), hint="`stereo init` writes one") from None
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(file)) from None
    jcard = parse_jcard(data, file, environment)
    for note in jcard.notes:
        report.warn(note)
    dist = resolve(jcard.mixtape, arch=arch or _arch_of(jcard.name))
    if arch not in (None, dist.arch):
        raise UsageError(f"is for {dist.arch}, not for {arch}", where=str(dist.path))
    return job_of(jcard, file, dist)


def _arch_of(name: str) -> str | None:
    """Of the sandbox's guest, whose disk nobody else can take up. None if there is no such sandbox."""
    folder = Folder(name)
    record = folder.record()
    return record.arch or None if record and (record.proven or folder.held()) else None


def job_of(jcard: Jcard, file: Path, dist: Dist) -> Job:
    """The job that `jcard`, read from `file`, asks for; how to run QEMU is left open. Raises StereoError."""
    if jcard.mixtape_digest not in (None, f"sha256:{dist.manifest_digest}"):
        raise StereoError(
            f"mixtape_digest is not that of {dist.path}",
            where=str(file),
            hint=f"that has sha256:{dist.manifest_digest}",
        )
    network = jcard.network
    return Job(
        name=jcard.name,
        jcard=str(file.absolute()),
        mixtape=f"{dist.name}:{dist.version}",
        dist=str(dist.path),
        manifest=dist.manifest_digest,
        arch=dist.arch,
        cpus=jcard.resources.cpus,
        memory=jcard.resources.memory // _MIB,
        disk=jcard.resources.disk,
        mode=network.mode.value,
        bridge=network.bridge,
        config=guest_config(jcard),
        agents=tuple(agent.name for agent in jcard.agents),
        forwards=tuple(Forward(each.host, each.guest, each.proto.value) for each in network.forwards),
        egress=None if network.rules is None or network.mode == "none" else network.rules.texts,
        shares=tuple(Shared(str(each.host), each.guest, each.readonly) for each in jcard.shared),
        lifetime=jcard.timeout.duration,
        grace=_SHUTDOWN_SECONDS + max((agent.grace_period for agent in jcard.agents), default=0),
        secrets=dict(jcard.secrets),
        root=str(sandboxes()),
        scratch=str(Cache.from_environment().work),
    )
