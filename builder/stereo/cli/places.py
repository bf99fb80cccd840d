"""How an argument names a dist on this machine or a published mixtape, and what a shell may complete of it.

Completing looks into folders of this machine alone: no registry and no web server is asked.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from stereo.errors import StereoError, UsageError


class DistType(click.Path):
    """A folder that `stereo build` or `pull` made, or NAME[:VERSION] of the local store.

    What has a '/' or is there is a folder, so that no name in the store can take its place.
    """

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False, exists=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = os.fspath(value)
        if not text or "/" in text or os.path.lexists(text):
            return super().convert(value, param, ctx)
        return _stored(text)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        stored = complete_stored(ctx, param, incomplete)
        return [CompletionItem(word) for word in stored] or super().shell_complete(ctx, param, incomplete)


def _stored(text: str) -> Path:
    """The folder of a dist in the local store: this machine's, or that of the only architecture it is there for.

    Raises UsageError, StereoError.
    """
    from stereo.dists import LATEST, entries, resolve, store_folder

    name, _, version = text.partition(":")
    found = {one.arch for one in entries(store_folder()) if one.name == name and version in ("", LATEST, one.version)}
    try:
        return resolve(text, arch=found.pop() if len(found) == 1 else None).path
    except UsageError as error:
        raise UsageError(f"is no folder here, and {error.what}", where=text, hint=error.hint) from error


def complete_stored(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """NAME and NAME:VERSION of the local store."""
    from stereo.dists import entries, store_folder

    found = entries(store_folder())
    words = {entry.name for entry in found} | {f"{entry.name}:{entry.version}" for entry in found}
    return sorted(word for word in words if word.startswith(incomplete))


def complete_reference(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """NAME and NAME:TAG where bare names lead to a folder, and the tags of a layout that is named by its path."""
    with suppress(StereoError, OSError):
        return sorted(word for word in _references(incomplete) if word.startswith(incomplete))
    return []


def _references(incomplete: str) -> list[str]:
    from stereo.registry.layout import LayoutRemote
    from stereo.registry.reference import FOLDERS, default_root, parse_reference

    begun, colon, _ = incomplete.rpartition(":")
    if incomplete.startswith(FOLDERS):
        names = [begun if colon and begun != "oci" else incomplete]
    elif (root := default_root()).kind == "layout":
        names = LayoutRemote(root).catalog()
    else:
        return []
    found = [] if incomplete.startswith(FOLDERS) else list(names)
    for name in names:
        if name in (begun, incomplete):
            tags = LayoutRemote(parse_reference(name)).tags()
            found += [f"{name}:{tag}" for tag in tags if not tag.startswith("sha256-")]
    return found
