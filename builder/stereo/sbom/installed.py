"""What the packages stage installed, read from its tree: Debian's database, copyright files, the agent's packages.

The tree is the one that the image is made of. Its database says what is really there, which a lock cannot: a lock
holds what could be needed. Reading is one pass over the headers of an uncompressed .tar.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stereo.errors import StereoError

DOCS = "usr/share/doc"
MAX_FILE = 16 << 20  # bytes of one file that is read; the database of 200 packages has 0.2 MB
_STATUS = "var/lib/dpkg/status"
_RELEASE = "usr/lib/os-release"
_WANTED = re.compile(
    rf"{_STATUS}|{_RELEASE}|{DOCS}/[^/]+(/copyright)?"
    r"|usr/lib/stereos/agent/npm/(.+/)?node_modules/(@[^/]+/)?[^/@]+/package\.json"
    r"|usr/lib/stereos/agent/python/[^/]+\.dist-info/METADATA"
)
_MOST_HOPS = 8


@dataclass(frozen=True)
class InstalledDeb:
    """A package of dpkg's database (deb-control(5)). `source` is "NAME VERSION", `needs` names of other packages."""

    name: str
    version: str
    arch: str
    source: str
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Installed:
    """A tree. `copyrights` is by package, where there is a file; `files` holds package.json and METADATA by path."""

    debian: str
    debs: tuple[InstalledDeb, ...]
    copyrights: Mapping[str, bytes]
    files: Mapping[str, bytes]


def read_tree(tree: Path) -> Installed:
    """Read a tree of the packages stage (.tar). Raises StereoError for what is none."""
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    try:
        with tarfile.open(tree, "r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if not _WANTED.fullmatch(name):
                    continue
                if member.issym():
                    links[name] = _target(name, member.linkname)
                elif member.islnk():
                    links[name] = member.linkname.removeprefix("./")
                elif member.isfile():
                    if member.size > MAX_FILE:
                        raise StereoError(f"{name} has {member.size} bytes", where=str(tree))
                    content = tar.extractfile(member)
                    assert content is not None
                    files[name] = content.read()
    except tarfile.TarError as error:
        raise StereoError(f"is no .tar that can be read: {error}", where=str(tree)) from error
    missing = [name for name in (_STATUS, _RELEASE) if name not in files]
    if missing:
        raise StereoError(f"has no {' and no '.join(missing)}", where=str(tree))
    debs = tuple(_debs(files[_STATUS].decode("utf-8", "replace")))
    copyrights = {deb.name: text for deb in debs if (text := _copyright(deb.name, files, links)) is not None}
    others = {name: data for name, data in files.items() if name.endswith(("/package.json", "/METADATA"))}
    return Installed(_release(files[_RELEASE]), debs, copyrights, others)


def _target(name: str, target: str) -> str:
    """Where a symbolic link in a tree leads, from the root of the tree."""
    parts: list[str] = []
    for part in (PurePosixPath("/", name).parent / target).parts[1:]:
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
    return "/".join(parts)


def _copyright(package: str, files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes | None:
    """The copyright file of a package. Its folder, or the file, may be a link to another package's."""
    path = f"{DOCS}/{package}/copyright"
    for _ in range(_MOST_HOPS):
        if path in files:
            return files[path]
        folder, _, name = path.rpartition("/")
        if path in links:
            path = links[path]
        elif folder in links:
            path = f"{links[folder]}/{name}"
        else:
            return None
    return None


def _release(text: bytes) -> str:
    """VERSION_ID of os-release(5)."""
    found = re.search(r'^VERSION_ID="?([0-9][0-9.]*)"?$', text.decode("utf-8", "replace"), re.MULTILINE)
    return found[1] if found else "unknown"


def _debs(status: str) -> Iterator[InstalledDeb]:
    from debian.deb822 import Deb822

    rows = [row for row in Deb822.iter_paragraphs(status.splitlines(keepends=True)) if _is_installed(row)]
    provided: dict[str, str] = {}
    for row in rows:
        for name in _names(row.get("Provides", "")):
            provided.setdefault(name[0], row["Package"])
    provided |= {row["Package"]: row["Package"] for row in rows}
    for row in rows:
        asked = [*_names(row.get("Pre-Depends", "")), *_names(row.get("Depends", ""))]
        found = (next((provided[name] for name in alternatives if name in provided), None) for alternatives in asked)
        needs = {name for name in found if name is not None} - {row["Package"]}
        yield InstalledDeb(row["Package"], row["Version"], row["Architecture"], _source(row), tuple(sorted(needs)))


def _is_installed(row: Mapping[str, str]) -> bool:
    return row.get("Status", "").endswith(" installed") and {"Package", "Version", "Architecture"} <= {*row}


def _names(field: str) -> list[list[str]]:
    """The names in a relationship field (Debian policy 7.1), one list of alternatives after the other."""
    return [
        [re.split(r"[\s(:\[<]", alternative.strip(), maxsplit=1)[0] for alternative in group.split("|")]
        for group in field.split(",")
        if group.strip()
    ]


def _source(row: Mapping[str, str]) -> str:
    """The source package: named where its name or version is another (Debian policy 5.6.1)."""
    name, _, version = row.get("Source", row["Package"]).partition(" ")
    return f"{name} {version.strip('()') or row['Version']}"
