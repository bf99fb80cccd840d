"""The plan of a build: everything that decides its bytes, and the keys by which its steps are cached.

A step's identity is the digest of its description. Whoever has the same mixtape, locks and files has the same keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.model.lock import Lock
from stereo.model.manifest import SCHEMA
from stereo.model.mixtape import Mixtape
from stereo.plan.packages import image_request, tools_request
from stereo.plan.render import (
    AgentArchive,
    agent_archives,
    image_stage,
    instructions,
    packages_stage,
    seed,
    shared_files,
)
from stereo.plan.tree import Entry, Tree, below, tree_digest

# Part of every key: raise it when code outside of the rendered tree begins to make other bytes.
_GENERATION = "1"


@dataclass(frozen=True)
class Plan:
    """What is to be built. `epoch` is in seconds; keys are SHA-256 in hexadecimal."""

    mixtape: Mixtape
    arch: Architecture
    version: str
    epoch: int
    level: int
    lock: Lock
    tools_lock: Lock
    seed: UUID
    packages: Tree
    image: Tree
    archives: tuple[AgentArchive, ...]
    tools_key: str
    packages_key: str
    image_key: str
    key: str

    @property
    def steps(self) -> tuple[tuple[str, str], ...]:
        """Name and key of each step, in order."""
        return (
            ("tools", self.tools_key),
            ("packages", self.packages_key),
            ("image", self.image_key),
            ("dist", self.key),
        )

    @property
    def tree(self) -> dict[str, Entry]:
        """The complete mkosi tree."""
        return {
            **below("packages", self.packages),
            **below("image", self.image),
            **shared_files(),
            "build": instructions(self.mixtape, self.version),
        }


def make_plan(
    mixtape: Mixtape, lock: Lock, tools_lock: Lock, files: Tree, *, version: str, epoch: int | None, level: int
) -> Plan:
    """Decide everything. `files` are the checkout's mkosi/, overlays/ and guest/; `epoch` defaults to the lock's.

    Raises StereoError if a lock does not answer what is asked for.
    """
    arch = lock.arch
    for request, answer in ((image_request(mixtape, arch), lock), (tools_request(tools_lock.arch), tools_lock)):
        if missing := request.unanswered(answer):
            raise StereoError(
                "the lock does not fit any more: " + "; ".join(missing[:5]),
                where=f"{answer.name}-{answer.arch}.lock",
                hint=f"stereo lock {answer.name}",
            )
    moment = lock.epoch if epoch is None else epoch
    packages = packages_stage(mixtape, lock, files, moment)
    image = image_stage(mixtape, lock, files, moment, version)
    tools_key = _key("tools", {"debs": "\n".join(sorted(deb.sha256 for deb in tools_lock.tools))})
    packages_key = _key(
        "packages",
        {
            "tools": tools_key,
            "shared": tree_digest(shared_files()),
            "tree": tree_digest(packages),
            "debs": "\n".join(sorted(deb.sha256 for deb in lock.image)),
            "archives": "\n".join(archive.sha256 for archive in agent_archives(lock)),
        },
    )
    image_key = _key("image", {"packages": packages_key, "tree": tree_digest(image)})
    return Plan(
        mixtape=mixtape,
        arch=arch,
        version=version,
        epoch=moment,
        level=level,
        lock=lock,
        tools_lock=tools_lock,
        seed=seed(mixtape.name, arch),
        packages=packages,
        image=image,
        archives=agent_archives(lock),
        tools_key=tools_key,
        packages_key=packages_key,
        image_key=image_key,
        key=_key(
            "dist",
            {
                "image": image_key,
                "manifest": str(SCHEMA),
                "name": mixtape.name,
                "version": version,
                "level": str(level),
            },
        ),
    )


def _key(step: str, parts: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for field in (_GENERATION, step, *(word for item in sorted(parts.items()) for word in item)):
        encoded = field.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()
