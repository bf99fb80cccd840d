"""The machine of a sandbox: what it is made of, and the backend that runs it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.sandbox.job import Job, host_ports
from stereo.sandbox.provision import tag
from stereo.sandbox.state import Folder
from stereo.vm.backends import BackendName
from stereo.vm.boot import BootFiles, Form, MachineSize, make_spec
from stereo.vm.machine import Accelerator, Backend, Bridged, Forward, Gated, MachineSpec, Nat, Network, Share


def machine_spec(job: Job, folder: Folder) -> MachineSpec:
    """What to start: the dist's kernel, directly, over a disk of the sandbox's own. Raises StereoError."""
    size = MachineSize(job.cpus, job.memory, job.disk)
    files = BootFiles.in_folder(Path(job.dist))
    arch, accelerator = Architecture(job.arch), Accelerator(job.accelerator)
    spec = make_spec(files, Form.KERNEL, arch, accelerator, size=size, network=_network(job))
    return replace(
        spec,
        disk=replace(spec.disk, changes=folder.disks[job.backend]),
        shares=tuple(Share(tag(index), Path(each.host), each.readonly) for index, each in enumerate(job.shares)),
    )


def backend_of(job: Job) -> Backend:
    """What runs the machine. Raises StereoError."""
    if job.backend == BackendName.APPLEVIRT:
        from stereo.vm.applevirt import AppleBackend
        from stereo.vm.vfkit import find_vfkit

        return AppleBackend(find_vfkit(), Path(job.scratch))
    from stereo.vm.programs import Programs
    from stereo.vm.qemu import QemuBackend

    programs = Programs.find(Path(job.tools) if job.tools else None, Architecture(job.arch))
    return QemuBackend(programs, Path(job.scratch))


def end_left(folder: Folder) -> None:
    """Have no machine of a sandbox whose supervisor was killed go on without its disk. Hold the lock."""
    with suppress(StereoError):  # a record that nobody can read
        if (record := folder.record()) and record.backend == BackendName.APPLEVIRT:
            from stereo.vm.applevirt import end_orphans

            asyncio.run(end_orphans())


def _network(job: Job) -> Network | None:
    if job.mode == "bridged":
        assert job.bridge
        return Bridged(job.bridge)
    if job.mode == "none":
        return None
    if job.egress is not None:
        return Gated(host_ports(job))
    # TCP is led through the control channel, which works in every mode.
    return Nat(tuple(Forward(each.host, each.guest, "udp") for each in job.forwards if each.proto == "udp"))
