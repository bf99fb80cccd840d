"""Entries and text of a file that anybody may have written, each up to a bound."""

from __future__ import annotations

from collections.abc import Iterator

from stereo.artifacts.region import FormatError, Region
from stereo.artifacts.tree import Entry, Tree

_MOST_ENTRIES = 1_000_000


def entries_of(tree: Tree) -> Iterator[Entry]:
    """Its entries. Raises FormatError once there are more than anybody needs."""
    for count, entry in enumerate(tree.entries()):
        if count == _MOST_ENTRIES:
            raise FormatError(f"more than {_MOST_ENTRIES} files")
        yield entry


def text_of(region: Region, most: int) -> str:
    """All of it, of at most `most` bytes; those that are no UTF-8 become surrogates. Raises FormatError."""
    if region.size > most:
        raise region.fault(f"{region.size} bytes of text, more than {most}")
    return region.read(0, region.size).decode("utf-8", "surrogateescape")
