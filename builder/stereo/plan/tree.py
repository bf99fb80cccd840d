"""A file tree as a value: path to content. What two people render from the same inputs is the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What git tells apart: modes beyond the executable bit, owners and times are not part of a tree."""

    FILE = "file"
    PROGRAM = "program"
    LINK = "link"


@dataclass(frozen=True)
class Entry:
    """One file, or a symbolic link whose target is `data`."""

    data: bytes
    kind: Kind = Kind.FILE


Tree = Mapping[str, Entry]
"""Relative POSIX path to entry. Folders are implied."""


def text(content: str, kind: Kind = Kind.FILE) -> Entry:
    """A file of UTF-8 text."""
    return Entry(content.encode(), kind)


def below(folder: str, tree: Tree) -> dict[str, Entry]:
    """`tree`, moved into `folder`."""
    return {f"{folder}/{path}": entry for path, entry in tree.items()}


def part(tree: Tree, folder: str) -> dict[str, Entry]:
    """What `tree` holds in `folder`, with paths relative to it."""
    prefix = folder + "/"
    return {path.removeprefix(prefix): entry for path, entry in tree.items() if path.startswith(prefix)}


def tree_digest(tree: Tree) -> str:
    """SHA-256 over sorted paths, kinds and contents, unambiguous by lengths."""
    digest = hashlib.sha256()
    for path, entry in sorted(tree.items()):
        for field in (path.encode(), entry.kind.encode(), entry.data):
            digest.update(len(field).to_bytes(8, "big") + field)
    return digest.hexdigest()
