"""`stereo up` and `stereo apply`: have a sandbox as its jcard.toml says."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stereo.cli.options import backend_option, guest_arch_option
from stereo.cli.output import Output, speaking
from stereo.errors import StereoError

if TYPE_CHECKING:
    from stereo.sandbox.job import Job
    from stereo.sandbox.launch import Launch
    from stereo.sandbox.state import Folder

_WAIT_SECONDS = 600.0
_APPLY_SECONDS = 300.0
_config = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("jcard.toml"),
    show_default=True,
    metavar="FILE",
    help="The jcard.",
)


@click.command(
    short_help="Start the sandbox of a jcard.toml.",
    epilog="""\b
Examples:
  stereo up                       the jcard.toml of this folder
  stereo up --config review.toml  another one
  stereo up --backend qemu        by QEMU also on a Mac
  stereo up --arch aarch64        a dist of another architecture than this machine's, emulated
  stereo up --json                one JSON object per line, as things happen

Returns when the sandbox is ready: configuration, secrets and shares are in place, and the agents were started.
What the guest wrote to its disk is there again after `down` and `up`; `destroy` gives it up. A sandbox that
runs already is left alone: `stereo apply` gives it the changes of a jcard.toml. A sandbox stays with the backend
and the architecture that its disk was made with.""",
)
@_config
@backend_option
@guest_arch_option
@click.option("--keep", is_flag=True, help="Keep what a failed first start leaves, for a look at its logs.")
@speaking(as_json=True)
def up(out: Output, config: Path, backend: str | None, arch: str | None, keep: bool) -> None:
    """Start the sandbox of a jcard.toml, and wait until it is ready."""
    from stereo.sandbox.launch import Launch

    with Launch() as launch:  # its interpreter starts while ours reads
        from stereo.sandbox.prepare import read_job
        from stereo.sandbox.state import Folder

        job = read_job(config, os.environ, out.report, arch)
        folder = Folder(job.name)
        if folder.exists():
            folder.check()
        job = _with_backend(job, folder, backend)
        if not folder.held():
            job = replace(_equipped(out, job, folder), keep=keep)
            launch.send(job)
            if _follow(out, launch, job):
                return
    _compare(out, job)


@click.command(
    short_help="Give a running sandbox the changes of its jcard.toml.",
    epilog="""\b
Examples:
  stereo apply

Agents, secrets and the rules of `egress_allow` change while the sandbox runs; agents that did not change are left
alone. Everything else needs `stereo down` and `stereo up`, and is refused by name before anything is done.""",
)
@_config
@speaking(as_json=True)
def apply(out: Output, config: Path) -> None:
    """Give a running sandbox the changes of its jcard.toml."""
    import asyncio

    from stereo.sandbox import messages
    from stereo.sandbox.client import connected
    from stereo.sandbox.prepare import read_job
    from stereo.sandbox.state import Folder

    job = read_job(config, os.environ, out.report)
    folder = Folder(job.name)
    record = folder.record()
    job = _with_backend(
        job, folder, record.backend if record else None
    )  # that it runs by, whatever would be by default

    async def ask() -> Mapping[str, Any]:
        async with connected(job.name) as control:
            return await control.request(
                messages.APPLY, {"job": job.encode()}, answer=messages.APPLY, seconds=_APPLY_SECONDS
            )

    with out.report.step(f"Applying the changes to {job.name}", f"Applied to {job.name}"):
        answer = asyncio.run(ask())
    for note in answer["notes"]:
        out.report.warn(note)
    changed = [change for change, _ in answer["changes"]]
    out.result({"name": job.name, "changed": changed}, "\n".join(changed) or "nothing changed")


def _with_backend(job: Job, folder: Folder, asked: str | None) -> Job:
    """The job with the name of the backend that has the sandbox, or is to have it. Raises StereoError."""
    from stereo.vm.backends import choose_backend

    record = folder.record()
    kept = record.backend if record and (record.proven or folder.held()) else None
    return replace(job, backend=choose_backend(asked, os.environ, kept).value)


def _equipped(out: Output, job: Job, folder: Folder) -> Job:
    """The job with what runs it, and the dist found to be what its manifest says."""
    from stereo.model.architecture import Architecture
    from stereo.paths import Cache
    from stereo.runner import need_programs
    from stereo.sandbox.intact import check_intact
    from stereo.vm.accel import choose
    from stereo.vm.backends import BackendName

    cache = Cache.from_environment()
    if job.backend == BackendName.APPLEVIRT:
        job = _for_vfkit(job, folder)
        check_intact(Path(job.dist), job.manifest, cache.verified, out.report)
        return job
    programs = need_programs(cache, out.report, Architecture(job.arch), sandbox=True)
    accelerator = choose(programs, cache.probe, out.report)
    check_intact(Path(job.dist), job.manifest, cache.verified, out.report)
    return replace(job, tools=str(programs.tree) if programs.tree else None, accelerator=accelerator.value)


def _for_vfkit(job: Job, folder: Folder) -> Job:
    """As `_equipped`, for the backend applevirt. Raises StereoError for what that cannot do."""
    from stereo.sandbox.machines import machine_spec
    from stereo.vm.applevirt import check_spec
    from stereo.vm.machine import Accelerator
    from stereo.vm.vfkit import find_vfkit

    find_vfkit()
    job = replace(job, accelerator=Accelerator.HVF.value)
    check_spec(machine_spec(job, folder))
    return job


def _follow(out: Output, launch: Launch, job: Job) -> bool:
    """Show how the start goes. False: somebody else starts the same sandbox. Raises StereoError if it fails."""
    from stereo.sandbox import messages
    from stereo.vm.machine import Accelerator

    name = job.name
    with ExitStack() as phase:
        for event in launch.events():
            match event["event"]:
                case messages.TAKEN:
                    return False
                case messages.PHASE:
                    phase.close()
                    doing, done = messages.PHASES[event["phase"]]
                    emulated = event["phase"] == messages.BOOT and job.accelerator == Accelerator.TCG
                    slow = f" ({job.arch}, emulated)" if emulated else ""
                    phase.enter_context(out.report.step(doing + slow, done + slow))
                case messages.NOTE:
                    out.report.warn(event["text"])
                case messages.FAILED:
                    raise StereoError(**event["error"])
            if out.json:
                click.echo(json.dumps({**event, "name": name}, ensure_ascii=False))
            if event["event"] == messages.READY:
                phase.close()
                out.report.note(f"{name} is ready")
                return True
        raise StereoError("its supervisor was killed", where=name, hint=f"stereo status {name}")


def _compare(out: Output, job: Job) -> None:
    """Wait until the running sandbox is ready. Raises StereoError if it is not what `job` asks for."""
    import asyncio

    from stereo.sandbox import messages
    from stereo.sandbox.client import connected

    async def ask() -> list[tuple[str, bool]]:
        async with connected(job.name) as control:
            await control.request(messages.WAIT, {}, answer=messages.WAIT, seconds=_WAIT_SECONDS)
            question = {"job": job.encode()}
            answer = await control.request(messages.DIFFER, question, answer=messages.DIFFER)
            return [(what, live) for what, live in answer["changes"]]

    changes = asyncio.run(ask())
    if changes:
        fixed = [what for what, live in changes if not live]
        hint = f"stereo down and stereo up, for {', '.join(fixed)}" if fixed else "stereo apply"
        if kept := [what for what in fixed if what in ("backend", "architecture")]:  # those of its disk
            hint = f"a sandbox stays with its {' and '.join(kept)}: `stereo destroy {job.name}` gives it up"
        what = ", ".join(what for what, _ in changes)
        raise StereoError(f"{job.name} is running with another jcard: {what} changed", hint=hint)
    if out.json:
        click.echo(json.dumps({"event": messages.READY, "name": job.name, "unchanged": True}))
    out.report.note(f"{job.name} is running, and nothing changed")
