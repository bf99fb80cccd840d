"""mixtape.toml, the manifest of a dist: what `assemble` writes, and the check that every reader of a dist begins with.

A manifest may come from anywhere (a download, another person's folder), so the reader treats it as hostile: its size,
its lines and every number and name in it are bounded, file names are constants and not paths, and nothing that it says
reaches a terminal unescaped. The tables under `artifacts` hold exactly the keys that consumers of the original system
know; all of ours is beside them. See docs/manifest.md.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from stereo.errors import Problem, ProblemsError, shown

if TYPE_CHECKING:
    from tomlkit.items import Table

SCHEMA: Final = 2
MANIFEST_FILE = "mixtape.toml"
CYCLONEDX_FILE = "sbom.cdx.json"
SPDX_FILE = "sbom.spdx.json"
DISK_FILES = {"raw": ("stereos.img", "stereos.img.zst"), "qcow2": ("stereos.qcow2", "stereos.qcow2.zst")}
"""By disk format: the disk and its zstd form."""

SIGNATURE_FILES = ("SHA256SUMS", "SHA256SUMS.sig", "SHA256SUMS.gpg")
ATTESTATIONS = "attestations"  # a folder of signed statements, KIND.KEYID16.dsse.json
PULLED = "pulled.json"  # what a pulled dist came from, and which disk formats of it are here
VMLINUX = "vmlinux"  # the ELF kernel out of bzImage, for hypervisors that take no other
ADDED_LATER = frozenset((*SIGNATURE_FILES, ATTESTATIONS, PULLED, VMLINUX))
"""What signing, pulling and `stereo vmlinux` lay beside the files of a dist: no build makes it, nothing compares it."""

MAX_BYTES = 1 << 20
MAX_LINES = 10_000  # with MAX_LINE: tomllib is quadratic in (depth of a table) x (keys in it)
MAX_LINE = 4096
MAX_FILE = 1 << 40  # 1 TiB: no disk of ours is larger, and a reader that makes a sparse file of it survives
MAX_PARTITIONS = 16
SECTOR = 512
EPOCH_MIN = 315_532_800  # 1980-01-01, the first day that FAT can tell
EPOCH_MAX = (1 << 32) - 1
_MAX_PROBLEMS = 50
_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_RELEASE = re.compile(r"[0-9]{4}\.[0-9]{2}\.[0-9]{2}\.(0|[1-9][0-9]{0,5})")


def _climbs(text: object) -> object:
    if isinstance(text, str) and ".." in text:
        raise ValueError("must not contain '..'")
    return text


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Name = Annotated[str, BeforeValidator(_climbs), Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Version = Annotated[str, BeforeValidator(_climbs), Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}$")]
Arch = Literal["x86_64-linux", "aarch64-linux"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Uuid = Annotated[str, Field(pattern=_UUID)]
FileSize = Annotated[int, Field(ge=1, le=MAX_FILE)]
_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}$")]
_PackageText = Annotated[str, Field(pattern=r"^[@A-Za-z0-9][A-Za-z0-9@/:._+~-]{0,255}$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class DiskArtifact(_Model):
    """A disk image and its zstd form. Sizes are bytes."""

    file: str
    sha256: Sha256
    size: FileSize
    compressed_file: str
    compressed_sha256: Sha256
    compressed_size: FileSize


class RawArtifact(DiskArtifact):
    """[artifacts.raw]"""

    file: Literal["stereos.img"] = "stereos.img"
    compressed_file: Literal["stereos.img.zst"] = "stereos.img.zst"


class Qcow2Artifact(DiskArtifact):
    """[artifacts.qcow2]"""

    file: Literal["stereos.qcow2"] = "stereos.qcow2"
    compressed_file: Literal["stereos.qcow2.zst"] = "stereos.qcow2.zst"


class PlainArtifact(_Model):
    """A file that is shipped as it is. The size is bytes."""

    file: str
    sha256: Sha256
    size: FileSize


class KernelArtifact(PlainArtifact):
    """[artifacts.kernel.bzimage]"""

    file: Literal["bzImage"] = "bzImage"


class InitrdArtifact(PlainArtifact):
    """[artifacts.kernel.initrd]"""

    file: Literal["initrd"] = "initrd"


class CmdlineArtifact(PlainArtifact):
    """[artifacts.kernel.cmdline]: the kernel command line, without a newline."""

    file: Literal["cmdline"] = "cmdline"


class InitArtifact(PlainArtifact):
    """[artifacts.kernel.init]"""

    file: Literal["init"] = "init"


class KernelArtifacts(_Model):
    """What a direct kernel boot needs."""

    bzimage: KernelArtifact
    initrd: InitrdArtifact
    cmdline: CmdlineArtifact
    init: InitArtifact


class Artifacts(_Model):
    """The disks, and what a direct kernel boot needs."""

    raw: RawArtifact
    qcow2: Qcow2Artifact
    kernel: KernelArtifacts

    def files(self) -> Iterator[tuple[str, str, int]]:
        """(file name, SHA-256, size in bytes) of each, in the order of the manifest."""
        for disk in (self.raw, self.qcow2):
            yield disk.file, disk.sha256, disk.size
            yield disk.compressed_file, disk.compressed_sha256, disk.compressed_size
        for plain in (self.kernel.bzimage, self.kernel.initrd, self.kernel.cmdline, self.kernel.init):
            yield plain.file, plain.sha256, plain.size


class CycloneDx(PlainArtifact):
    """[sbom.cyclonedx]"""

    file: Literal["sbom.cdx.json"] = "sbom.cdx.json"


class Spdx(PlainArtifact):
    """[sbom.spdx]"""

    file: Literal["sbom.spdx.json"] = "sbom.spdx.json"


class Sbom(_Model):
    """Which software is in the image, in the two forms that others read."""

    cyclonedx: CycloneDx
    spdx: Spdx


class Build(_Model):
    """What a rebuild starts from. `epoch` is SOURCE_DATE_EPOCH in seconds, `level` the zstd level."""

    source_revision: _Word
    plan_key: Sha256
    lock_sha256: Sha256
    tools_lock_sha256: Sha256
    epoch: Annotated[int, Field(ge=EPOCH_MIN, le=EPOCH_MAX)]
    level: Annotated[int, Field(ge=1, le=22)]
    tools: Annotated[dict[_Word, _Word], Field(max_length=64)]


class PartitionEntry(_Model):
    """One entry of the disk's partition table. `offset` and `size` are bytes, `type` and `uuid` as in the GPT."""

    label: Annotated[str, Field(pattern=r"^[ -~]{0,36}$")]
    type: Uuid
    uuid: Uuid
    offset: Annotated[int, Field(ge=SECTOR, le=MAX_FILE, multiple_of=SECTOR)]
    size: Annotated[int, Field(ge=SECTOR, le=MAX_FILE, multiple_of=SECTOR)]

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.size


class Partition(PartitionEntry):
    """[[image.partition]]: the entry, and what is in the partition."""

    sha256: Sha256


class Image(_Model):
    """What is on the disk."""

    kernel_version: _Word
    root_hash: Sha256
    disk_uuid: Uuid
    partition: Annotated[tuple[Partition, ...], BeforeValidator(_tuple), Field(min_length=1, max_length=MAX_PARTITIONS)]

    @model_validator(mode="after")
    def _apart(self) -> Image:
        ordered = sorted(self.partition, key=lambda one: (one.offset, one.end))
        for before, after in pairwise(ordered):
            if after.offset < before.end:
                raise ValueError(f"partition {after.label!r} begins inside partition {before.label!r}")
        if len({one.uuid for one in ordered}) != len(ordered):
            raise ValueError("two partitions have one uuid")
        return self


class AgentPackage(_Model):
    """Something that the agent finds on its PATH."""

    name: _PackageText
    version: _PackageText
    source: Literal["debian", "npm", "pypi", "url"]


class Agent(_Model):
    """Who works in the machine. `api_keys` are names of environment variables, never values."""

    harness: _Word
    api_keys: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")], ...],
        BeforeValidator(_tuple),
        Field(max_length=32),
    ]
    packages: Annotated[tuple[AgentPackage, ...], BeforeValidator(_tuple), Field(max_length=1024)]


class Manifest(_Model):
    """The whole of mixtape.toml."""

    schema_: Annotated[Literal[2], Field(alias="schema")] = SCHEMA
    name: Name
    version: Version
    arch: Arch
    dev: bool
    artifacts: Artifacts
    sbom: Sbom
    build: Build
    image: Image
    agent: Agent

    def files(self) -> Iterator[tuple[str, str, int]]:
        """(file name, SHA-256, size in bytes) of every file of the dist but the manifest itself, in its order."""
        yield from self.artifacts.files()
        for plain in (self.sbom.cyclonedx, self.sbom.spdx):
            yield plain.file, plain.sha256, plain.size

    @model_validator(mode="after")
    def _partitions_on_the_disk(self) -> Manifest:
        for one in self.image.partition:
            if one.end > self.artifacts.raw.size:
                raise ValueError(f"partition {one.label!r} ends after the disk")
        return self


def is_release(version: str) -> bool:
    """Whether `version` is CalVer (YYYY.0M.0D.N): what may be published, and so must never change its bytes."""
    return _RELEASE.fullmatch(version) is not None


def parse_manifest(data: bytes, file: str) -> Manifest:
    """Read a manifest from anywhere. `file` is how problems name it.

    Raises `ProblemsError` with everything that is wrong, whatever the bytes are.
    """

    def refuse(key: str, message: str, hint: str | None = None) -> ProblemsError:
        return ProblemsError([Problem(file, key, message, hint)])

    if len(data) > MAX_BYTES:
        raise refuse("(file)", f"is larger than {MAX_BYTES} bytes", "this is not a manifest of stereo")
    lines = data.split(b"\n")
    if len(lines) > MAX_LINES or max(map(len, lines)) > MAX_LINE:
        raise refuse("(file)", f"has more than {MAX_LINES} lines or one of more than {MAX_LINE} bytes")
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise refuse("(file)", f"is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise refuse("(file)", "is nested too deep") from error
    except ValueError as error:  # TOMLDecodeError, and numbers and dates that Python itself refuses
        raise refuse("(file)", f"is not TOML: {shown(str(error), 200)}") from error
    schema = table.get("schema")
    if type(schema) is not int or not 1 <= schema <= 9999:
        raise refuse("schema", "is missing or not a small positive number", "this is not a manifest of stereo")
    if schema > SCHEMA:
        raise refuse("schema", f"{schema}: made by a newer stereo", f"this one reads schema {SCHEMA}: update it")
    if schema < SCHEMA:  # no release was ever made with one
        raise refuse("schema", f"{schema}: made by an older stereo", "build the mixtape again")
    try:
        return Manifest.model_validate(table)
    except ValidationError as error:
        raise ProblemsError(problems_of(error, file)) from error


def render_manifest(manifest: Manifest) -> str:
    """The manifest as text: fixed order, LF, and the same for everyone. `parse_manifest` gives `manifest` back."""
    import tomlkit

    document = tomlkit.document()
    document.add(tomlkit.comment("Made by stereo. The contract is in docs/manifest.md."))
    content = manifest.model_dump(by_alias=True, mode="json")
    content["build"]["tools"] = dict(sorted(content["build"]["tools"].items()))
    for key, value in content.items():
        if not isinstance(value, dict):
            document.add(key, value)
    for key, value in content.items():
        if isinstance(value, dict):
            document.add(tomlkit.nl())
            document.add(key, _table(value))
    return tomlkit.dumps(document)


def _table(content: dict[str, Any]) -> Table:
    """A TOML table: plain values first, as TOML wants it, and one table per package or partition."""
    import tomlkit

    only_tables = bool(content) and all(isinstance(value, dict) for value in content.values())
    table = tomlkit.table(is_super_table=only_tables)
    nested = {}
    for key, value in content.items():
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            nested[key] = value
        else:
            table.add(key, value)
    for key, value in nested.items():
        if isinstance(value, dict):
            table.add(key, _table(value))
        else:
            array = tomlkit.aot()
            for item in value:
                array.append(_table(item))
            table.add(key, array)
    return table


def problems_of(error: ValidationError, file: str) -> Iterator[Problem]:
    """What pydantic found wrong, in our words: at most 50 problems, and fit for a terminal."""
    details = error.errors(include_input=False, include_url=False, include_context=False)
    for detail in details[:_MAX_PROBLEMS]:
        key = shown(".".join(str(part) for part in detail["loc"] if part != "[key]"), 120) or "(manifest)"
        match detail["type"]:
            case "missing":
                message = "is missing"
            case "extra_forbidden":
                message = "is not a key of this schema"
            case "value_error":
                message = detail["msg"].removeprefix("Value error, ")
            case _:
                message = detail["msg"][0].lower() + detail["msg"][1:]
        yield Problem(file, key, shown(message, 200))
    if len(details) > _MAX_PROBLEMS:
        yield Problem(file, "(manifest)", f"and {len(details) - _MAX_PROBLEMS} more problems")
