"""The two documents of a dist, by file name and in one rendering."""

from __future__ import annotations

import json
from typing import Any

from stereo.model.manifest import CYCLONEDX_FILE, SPDX_FILE
from stereo.sbom.bill import Bill


def documents(bill: Bill) -> dict[str, bytes]:
    """Every document of a bill, by file name. Raises StereoError if one would not be valid."""
    from stereo.sbom import cyclonedx, spdx

    return {CYCLONEDX_FILE: _rendered(cyclonedx.document(bill)), SPDX_FILE: _rendered(spdx.document(bill))}


def _rendered(document: dict[str, Any]) -> bytes:
    """JSON in ASCII, one value per line, so that line by line comparison of two says something."""
    return json.dumps(document, indent=1).encode("ascii") + b"\n"
