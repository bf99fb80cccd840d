"""The two documents of a dist by their file names."""

from __future__ import annotations

from stereo.model.manifest import CYCLONEDX_FILE, SPDX_FILE
from stereo.sbom.bill import Bill


def documents(bill: Bill) -> dict[str, bytes]:
    """Every document of a bill, by file name. Raises StereoError if one would not be valid."""
    from stereo.sbom import cyclonedx, spdx

    return {CYCLONEDX_FILE: cyclonedx.render(bill), SPDX_FILE: spdx.render(bill)}
