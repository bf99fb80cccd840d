"""What a disk must hold if it is the one that its manifest describes: partitions, a kernel image, a root hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from uuid import UUID

from stereo.artifacts import gpt
from stereo.artifacts.erofs import Erofs
from stereo.artifacts.pe import REMOVABLE_PATH, Pe
from stereo.artifacts.region import FormatError, Region
from stereo.artifacts.tree import Kind, find
from stereo.artifacts.vfat import Vfat
from stereo.errors import shown
from stereo.model.manifest import Manifest, Partition, PlainArtifact

_MOST_PADDING = 64 << 10
_LARGEST_CMDLINE = 64 << 10
_OS_RELEASE = "/usr/lib/os-release"
_LARGEST_OS_RELEASE = 16 << 10


def only_of_type(manifest: Manifest, kind: str) -> Partition | None:
    """The one partition of a type; None if there is none, or a second."""
    found = [row for row in manifest.image.partition if row.type == kind]
    return found[0] if len(found) == 1 else None


def table_faults(disk: Region, manifest: Manifest) -> Iterator[str]:
    """Everything in which the partition table is not the manifest's. Raises FormatError when it is damaged."""
    table = gpt.read_gpt(disk)
    if table.disk_uuid != manifest.image.disk_uuid:
        yield f"the disk's UUID is {table.disk_uuid}, the manifest says {manifest.image.disk_uuid}"
    expected, actual = manifest.image.partition, table.partitions
    if len(expected) != len(actual):
        yield f"{len(actual)} partitions, the manifest says {len(expected)}"
    for number, (want, have) in enumerate(zip(expected, actual, strict=False), 1):
        for name in ("label", "type", "uuid", "offset", "size"):
            wanted, got = getattr(want, name), getattr(have, name)
            if wanted != got:
                yield f"partition {number}: {name} is {shown(str(got))}, the manifest says {shown(str(wanted))}"


def uuid_faults(manifest: Manifest, root: Partition, hashes: Partition) -> Iterator[str]:
    """The Discoverable Partitions Specification makes the partitions' UUIDs the two halves of the root hash."""
    root_hash = manifest.image.root_hash
    for row, half in ((root, root_hash[:32]), (hashes, root_hash[32:])):
        if UUID(row.uuid) != UUID(half):
            yield f"partition {row.label}: its UUID {row.uuid} is not of the root hash"


def cmdline_fault(cmdline: bytes, manifest: Manifest) -> str | None:
    """What is wrong with the root hash on a kernel command line."""
    prefix = b"roothash="
    words = [word[len(prefix) :] for word in cmdline.split() if word.startswith(prefix)]
    if words == [manifest.image.root_hash.encode()]:
        return None
    if not words:
        return "has no roothash="
    return f"says roothash={shown(b' '.join(words).decode('latin-1'), 80)}, the manifest {manifest.image.root_hash}"


def uki_faults(disk: Region, manifest: Manifest) -> Iterator[str]:
    """Everything in which the UKI of the ESP is not made of the dist's kernel files. Raises FormatError."""
    esp = only_of_type(manifest, gpt.ESP)
    if esp is None:
        yield "not one EFI system partition"
        return
    files = Vfat(disk.part(esp.offset, esp.size, f"partition {esp.label}"))
    path = REMOVABLE_PATH[manifest.arch]
    # Names of FAT differ only by more than case, so the firmware takes any.
    found = [entry for entry in files.entries() if entry.path.upper() == path and entry.kind is Kind.FILE]
    if len(found) != 1:
        yield f"partition {esp.label}: {len(found)} files {path}, not one"
        return
    image = Pe(files.content(found[0]))
    kernel = manifest.artifacts.kernel
    for name, artifact in ((".linux", kernel.bzimage), (".initrd", kernel.initrd), (".cmdline", kernel.cmdline)):
        try:
            fault = _section_fault(image, name, artifact)
        except FormatError as error:
            fault = str(error)
        if fault:
            yield fault
    words = image.content(image.only(".cmdline"))
    fault = cmdline_fault(words.read(0, min(words.size, _LARGEST_CMDLINE)).rstrip(b"\0"), manifest)
    if fault:
        yield f"{path}: section .cmdline {fault}"


def identity_faults(disk: Region, manifest: Manifest, root: Partition) -> Iterator[str]:
    """What the manifest claims of the system and the root partition does not hold. Raises FormatError.

    Digests cannot tell that a manifest gives a dev image out as a release, since nothing has the manifest's own digest.
    """
    tree = Erofs(disk.part(root.offset, root.size, f"partition {root.label}"))
    modules = f"/usr/lib/modules/{manifest.image.kernel_version}"
    release = find(tree, _OS_RELEASE)
    if release is None or release.kind is not Kind.FILE:
        yield f"partition {root.label}: has no {_OS_RELEASE}"
    else:
        content = tree.content(release)
        words = content.read(0, min(content.size, _LARGEST_OS_RELEASE)).decode("utf-8", "replace")
        fields = {key: value.strip('"') for key, _, value in (line.partition("=") for line in words.splitlines())}
        variant = "dev" if manifest.dev else None
        for key, claim in (("IMAGE_ID", manifest.name), ("IMAGE_VERSION", manifest.version), ("VARIANT_ID", variant)):
            if fields.get(key) != claim:
                said = shown(fields[key], 80) if key in fields else "nothing"
                yield f"{key} would be {claim or 'absent'}, but {_OS_RELEASE} in the image says {said}"
    if find(tree, modules) is None:
        yield f"partition {root.label}: has no {modules}"


def init_fault(disk: Region, root: Partition, path: bytes) -> str | None:
    """Whether the root partition lacks the program that is to be init. Raises FormatError."""
    name = path.decode("utf-8", "surrogateescape")
    found = find(Erofs(disk.part(root.offset, root.size, f"partition {root.label}")), name)
    return None if found is not None else f"partition {root.label} has no {shown(name, 80)}"


def _section_fault(image: Pe, name: str, artifact: PlainArtifact) -> str | None:
    """A section is the file, then zeros up to the alignment. Compared by the manifest's digest: the file may be bad."""
    stored = image.stored(image.only(name))
    if not artifact.size <= stored.size <= artifact.size + _MOST_PADDING:
        return f"{stored.name}: has {stored.size} bytes, {artifact.file} {artifact.size}"
    digest = hashlib.sha256()
    for chunk in stored.part(0, artifact.size).chunks():
        digest.update(chunk)
    padding = stored.read(artifact.size, stored.size - artifact.size)
    if digest.hexdigest() != artifact.sha256 or padding.strip(b"\0"):
        return f"{stored.name}: is not {artifact.file}"
    return None
