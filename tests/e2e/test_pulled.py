"""A real mixtape, published, pulled, and run by its name: what came over the wire boots."""

from __future__ import annotations

from pathlib import Path

import pytest

from makers.command import Stereo
from makers.sandboxes import desk

pytestmark = [pytest.mark.boot, pytest.mark.build]


def test_a_pulled_mixtape_runs_by_its_name(stereo: Stereo, base: Path, tmp_path: Path) -> None:
    reference = f"oci:{tmp_path / 'registry' / 'base'}"
    name, version, _ = base.parts[-3:]
    with desk(stereo, base) as one:
        one("publish", base, "--to", reference)
        one("pull", f"{reference}:{version}")
        (one.home / "jcard.toml").write_text(
            f'mixtape = "{name}"\nname = "desk"\n[resources]\nmemory = "1GiB"\ndisk = "2GiB"\n'
        )
        one("up")
        assert f"VERSION_ID={version}" in one("exec", "--", "cat", "/etc/os-release").stdout
        one("destroy", "--yes")
        assert "ok: " in one("verify", one.root / "data/stereo/dists" / Path(*base.parts[-3:])).stdout
