"""Media types and names in what we publish: exactly those that clients of the original know, and those of the fields
that SBOMs, signatures and OCI documents come from."""

from __future__ import annotations

from stereo.model.manifest import CYCLONEDX_FILE, DISK_FILES, MANIFEST_FILE, SPDX_FILE

_STEREOS = "application/vnd.papercompute.stereos"

# What a mixtape is made of.
MIXTAPE = f"{_STEREOS}.mixtape.v1"
DISKS = {name: f"{_STEREOS}.disk.v1+{name}+zstd" for name in DISK_FILES}
KERNEL = f"{_STEREOS}.kernel.v1"
INITRD = f"{_STEREOS}.initrd.v1"
CMDLINE = f"{_STEREOS}.cmdline.v1"
INIT = f"{_STEREOS}.init.v1"
MIXTAPE_MANIFEST = f"{_STEREOS}.mixtape-manifest.v1+toml"

FORMATS = tuple(DISKS)
"""Disk formats, in the order of an index: clients of the original take the first that they can boot."""

PLAIN_LAYERS = {
    "bzImage": KERNEL,
    "initrd": INITRD,
    "cmdline": CMDLINE,
    "init": INIT,
    MANIFEST_FILE: MIXTAPE_MANIFEST,
}
"""By title, the layers after the disk, in their order."""


def layers_of(disk_format: str) -> dict[str, str]:
    """Title to media type of the six layers of a manifest, in their order."""
    return {DISK_FILES[disk_format][1]: DISKS[disk_format], **PLAIN_LAYERS}


# What refers to a mixtape.
CYCLONEDX = "application/vnd.cyclonedx+json"
SPDX = "application/spdx+json"
DSSE = "application/vnd.dsse.envelope.v1+json"
CHECKSUMS = f"{_STEREOS}.checksums.v1"
FRAMES = f"{_STEREOS}.frames.v1+json"
PLAIN_TEXT = "text/plain"
OCTETS = "application/octet-stream"
SBOMS = {CYCLONEDX_FILE: CYCLONEDX, SPDX_FILE: SPDX}
"""Media types of the SBOMs by file name; they are also the artifact types of what carries them."""

# OCI's own (image-spec 1.1).
IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
EMPTY_BYTES = b"{}"

TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"
CREATED = "org.opencontainers.image.created"
REVISION = "org.opencontainers.image.revision"
REF_NAME = "org.opencontainers.image.ref.name"
FORMAT = "org.papercompute.stereos.format"
"""On an entry of an index: the disk format of that manifest, so that a client need not fetch each to know."""
SUBJECT = "org.papercompute.stereos.subject"
"""On an entry of a layout's index.json: the digest that it refers to or "", so that a client need not fetch each."""
PREDICATE_TYPE = "predicateType"
"""On what carries a DSSE envelope: the predicate type of its statement. cosign looks for it under that name."""
