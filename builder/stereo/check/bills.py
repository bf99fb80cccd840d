"""Whether an SBOM is about the image that it lies beside: its root hash says so, which covers all of the system."""

from __future__ import annotations

from stereo.artifacts.region import Region
from stereo.errors import StereoError
from stereo.model.manifest import Manifest
from stereo.sbom.reading import MAX_BYTES, parse_sbom


def sbom_fault(region: Region, manifest: Manifest) -> str | None:
    """What is wrong with the SBOM in `region`, None if it is about the manifest's image. Raises FormatError."""
    try:
        told = parse_sbom(region.read(0, min(region.size, MAX_BYTES + 1)), "SBOM").root_hash
    except StereoError as error:
        return error.what
    wanted = manifest.image.root_hash
    return None if told == wanted else f"is about an image with the root hash {told or '(none)'}, not {wanted}"
