"""A bill of materials as a value: what is in an image, from which bytes, under which licence, and what it needs.

Both documents are renderings of this, and their identifiers are derived from it, so that equal bills are equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID, uuid5

_NAMESPACE = UUID("c9a4f2a6-6d0b-5b7e-9a55-6a3f0a1c7e43")


class Kind(StrEnum):
    """Where a component comes from."""

    DEBIAN = "debian"
    KERNEL = "kernel"  # a Debian package too, and the one that is asked for first
    NPM = "npm"
    PYPI = "pypi"
    URL = "url"
    OURS = "ours"
    SYSTEM = "system"  # the distribution, which scanners look for before they judge its packages


@dataclass(frozen=True)
class Component:
    """One piece of software.

    `purl` names it among all (package URL specification), `sha256` is that of the package file, `content` that of a
    tree of ours. `licence` is an SPDX expression, None if nobody states one; `hints` are the common licences that its
    copyright file mentions in prose. `source` is the source package with its version. `needs` are purls.
    """

    kind: Kind
    name: str
    version: str
    purl: str
    sha256: str | None = None
    content: str | None = None
    licence: str | None = None
    hints: tuple[str, ...] = ()
    source: str | None = None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bill:
    """The image, its components and the tools that made it, both sorted by purl. `epoch` is in seconds.

    `unlisted` are the licences without an SPDX identifier: (reference, the name that packages give it, those packages).
    """

    name: str
    version: str
    arch: str
    revision: str
    epoch: int
    root_hash: str
    kernel_version: str
    components: tuple[Component, ...]
    tools: tuple[Component, ...]
    unlisted: tuple[tuple[str, str, tuple[str, ...]], ...]

    @property
    def purl(self) -> str:
        """The image itself."""
        return f"pkg:generic/{self.name}@{self.version.replace('+', '%2B')}?arch={self.arch}"

    @property
    def created(self) -> datetime:
        """The only time that a document may tell."""
        return datetime.fromtimestamp(self.epoch, UTC)

    @property
    def uuid(self) -> UUID:
        """Names the documents: version 5 (RFC 9562) of everything that is in them."""
        content = json.dumps(asdict(self), sort_keys=True, ensure_ascii=True).encode()
        return uuid5(_NAMESPACE, hashlib.sha256(content).hexdigest())
