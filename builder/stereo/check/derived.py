"""What was derived from a dist and laid beside its files: it is derived again, and compared."""

from __future__ import annotations

from stereo.artifacts.bzimage import BzImage
from stereo.artifacts.region import FormatError, OpenFile, Region, first_difference
from stereo.artifacts.zst import Spool
from stereo.model.architecture import Architecture
from stereo.model.manifest import VMLINUX


def vmlinux(folder: int, packed: Region | None, arch: str) -> tuple[bool, str] | None:
    """Whether the `vmlinux` in an open folder is the ELF kernel inside of the bzImage `packed`, and what to say of it.

    None if there is none, or if no sound bzImage is there to tell.
    """
    try:
        with OpenFile(VMLINUX, folder=folder) as file:
            if arch != Architecture.X86_64.system:
                return False, f"is no part of a dist for {arch}, whose bzImage is not packed"
            if packed is None:
                return None
            with Spool() as spool:
                at = first_difference(file.region, BzImage(packed).unpack(spool))
    except FormatError as error:
        return None if isinstance(error.__cause__, FileNotFoundError) else (False, str(error))
    if at is not None:
        return False, f"differs from the kernel in {packed.name} from byte {at} on"
    return True, f"the kernel in {packed.name}"
