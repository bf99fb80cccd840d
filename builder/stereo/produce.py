"""From a plan to a dist: the image from the cache or from mkosi, what is in it, then everything derived from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version as installed_version
from pathlib import Path

from pydantic import ValidationError

from stereo.assemble.dist import ManifestFacts, assemble
from stereo.build.stages import Builder
from stereo.errors import ProblemsError
from stereo.model.lock import Lock
from stereo.model.manifest import MANIFEST_FILE, Agent, AgentPackage, Build, Manifest, PartitionEntry, problems_of
from stereo.plan.plan import Plan
from stereo.sbom.documents import documents
from stereo.sbom.gather import draw_up
from stereo.sbom.installed import read_tree
from stereo.vm.programs import Programs

# The tools whose versions a reader of a manifest asks for first; the lock of the tools has all of them.
_TOLD_TOOLS = {"mkosi": "mkosi", "systemd": "systemd", "erofs-utils": "erofs-utils", "qemu": "qemu-utils"}


def produce(plan: Plan, builder: Builder, out: Path, *, revision: str, jobs: int, force: bool = False) -> Manifest:
    """Make the dist `out` of `plan`. `revision` names the source it is built from. Raises StereoError."""
    image = builder.image(plan)
    programs = Programs.find(builder.tools(plan))
    try:
        facts = _facts(plan, json.loads((image / "image.json").read_text()), revision)
    except ValidationError as error:
        raise ProblemsError(problems_of(error, MANIFEST_FILE)) from error
    return assemble(
        image,
        facts,
        out,
        documents=_documents(plan, builder, facts),
        jobs=jobs,
        qemu_img=programs.qemu_img,
        qemu_env=programs.closed_environment(),
        frames=builder.cache.frames,
        report=builder.report,
        force=force,
    )


def _documents(plan: Plan, builder: Builder, facts: ManifestFacts) -> dict[str, bytes]:
    tree = builder.packages(plan)
    with builder.report.step("Writing down what is in it"):
        bill = draw_up(
            plan,
            read_tree(tree),
            revision=facts.build.source_revision,
            root_hash=facts.root_hash,
            kernel_version=facts.kernel_version,
        )
        return documents(bill)


def _facts(plan: Plan, image: dict[str, object], revision: str) -> ManifestFacts:
    partitions = image["partitions"]
    assert isinstance(partitions, list)
    return ManifestFacts(
        name=plan.mixtape.name,
        version=plan.version,
        arch=plan.arch.system,
        dev=plan.mixtape.dev,
        build=Build(
            source_revision=revision,
            plan_key=plan.key,
            lock_sha256=plan.lock.digest,
            tools_lock_sha256=plan.tools_lock.digest,
            epoch=plan.epoch,
            level=plan.level,
            tools=_tools(plan.tools_lock),
        ),
        kernel_version=str(image["kernel_version"]),
        root_hash=str(image["root_hash"]),
        disk_uuid=str(image["disk_uuid"]),
        partitions=tuple(PartitionEntry.model_validate(row) for row in partitions),
        agent=Agent(
            harness=plan.mixtape.harness.value,
            api_keys=plan.mixtape.api_keys,
            packages=tuple(agent_packages(plan)),
        ),
    )


def _tools(lock: Lock) -> dict[str, str]:
    versions = {deb.name: deb.version.rpartition(":")[2] for deb in lock.tools}
    told = {name: versions[package] for name, package in _TOLD_TOOLS.items() if package in versions}
    return {**told, "zstandard": installed_version("zstandard")}


def agent_packages(plan: Plan) -> Iterator[AgentPackage]:
    """What the mixtape gives its agent, in the versions of the lock. A file from the web has its digest as version."""
    wanted = plan.mixtape.extra_packages(plan.arch)
    debs = {deb.name: deb.version for deb in plan.lock.image}
    npm = {row.name: row.version for row in plan.lock.npm}
    wheels = {_normal(row.name): row.version for row in plan.lock.wheels}
    for deb_spec in wanted.debian:
        yield AgentPackage(name=deb_spec.name, version=debs[deb_spec.name], source="debian")
    for npm_spec in wanted.npm:
        yield AgentPackage(name=npm_spec.name, version=npm[npm_spec.name], source="npm")
    for pypi_spec in wanted.pypi:
        yield AgentPackage(name=pypi_spec.name, version=wheels[_normal(pypi_spec.name)], source="pypi")
    for url_spec in wanted.url:
        yield AgentPackage(name=url_spec.name, version=url_spec.sha256, source="url")


def _normal(name: str) -> str:
    """A PyPI name in its comparable form (PEP 503)."""
    return name.lower().replace("_", "-").replace(".", "-")
