"""What was derived from a dist and laid beside its files: it is derived again, and compared."""

from __future__ import annotations

from stereo.artifacts.bzimage import BzImage
from stereo.artifacts.region import FormatError, Region, first_difference
from stereo.artifacts.zst import Spool
from stereo.model.architecture import Architecture


def vmlinux_fault(file: Region, packed: Region, arch: str) -> str | None:
    """In what `file` is not the ELF kernel inside of the bzImage `packed`."""
    if arch != Architecture.X86_64.system:
        return f"is no part of a dist for {arch}, whose bzImage is not packed"
    try:
        with Spool() as spool:
            at = first_difference(file, BzImage(packed).unpack(spool))
    except FormatError as error:
        return str(error)
    return None if at is None else f"differs from the kernel in {packed.name} from byte {at} on"
