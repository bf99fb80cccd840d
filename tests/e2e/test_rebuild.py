"""`stereo rebuild` really builds again, and says what somebody changed in a dist whose digests were made to fit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from makers.altering import flipped, reseal
from makers.command import Stereo
from stereo.assemble.dist import read_manifest

pytestmark = pytest.mark.build


def test_a_dist_is_built_again_in_another_folder_and_is_identical(
    stereo: Stereo, base: Path, locks: Path, tmp_path: Path
) -> None:
    done = stereo("rebuild", base, "--offline", "--locks", locks, cwd=tmp_path)
    assert done.stdout == "identical\n"
    assert "Installing packages" in done.stderr
    assert "Making the disk image" in done.stderr


def test_a_stranger_rebuilds_a_signed_dist_and_adds_a_statement_that_a_policy_counts(
    stereo: Stereo, base: Path, locks: Path, tmp_path: Path
) -> None:
    dist, keys = tmp_path / "signed", tmp_path / "keys"
    subprocess.run(["cp", "-a", "--reflink=auto", "--sparse=always", base, dist], check=True)
    for name in ("pipeline", "stranger"):
        stereo("keygen", name, "--output-dir", keys, cwd=tmp_path)
    stereo("sign", dist, "--key", keys / "pipeline.key", cwd=tmp_path)
    policy = keys / "policy.toml"
    policy.write_text(
        "schema = 1\n[require]\nrebuilders = 1\n"
        '[[key]]\nname = "pipeline"\npublic_key = "pipeline.pub"\nroles = ["release", "provenance"]\n'
        '[[key]]\nname = "stranger"\npublic_key = "stranger.pub"\nroles = ["rebuild"]\n'
    )
    told = stereo("verify", dist, "--policy", policy, cwd=tmp_path, status=1).stdout
    assert "rebuild statement: missing: 1 wanted by different keys, and none that counts" in told
    words = ("--rebuild", "--sign-with", keys / "stranger.key", "--offline", "--locks", locks)
    done = stereo("verify", dist, "--policy", policy, *words, cwd=tmp_path)
    assert "Making the disk image" in done.stderr
    assert "rebuilt: identical; signed in attestations/rebuild." in done.stdout
    said = json.loads(stereo("verify", dist, "--policy", policy, "--json", cwd=tmp_path).stdout)
    assert [(row["kind"], row["signer"]) for row in said["signatures"]["accepted"]] == [
        ("provenance", "pipeline"),
        ("rebuild", "stranger"),
        ("release", "pipeline"),
    ]


def test_a_dist_that_was_altered_differs_and_the_first_level_is_named(
    stereo: Stereo, base: Path, locks: Path, tmp_path: Path
) -> None:
    altered = tmp_path / "altered"
    subprocess.run(["cp", "-a", "--reflink=auto", "--sparse=always", base, altered], check=True)
    root = read_manifest(base).image.partition[1]
    with flipped(altered / "stereos.img", root.offset + root.size // 2):
        reseal(altered)
        done = stereo("rebuild", altered, "--offline", "--locks", locks, "--json", cwd=tmp_path, status=1)
    said = json.loads(done.stdout)
    assert said["identical"] is False
    assert said["level"] == said["differences"][0]["level"]
    assert said["differences"][0]["where"].startswith("stereos.img")
    named = {row["where"].partition(":")[0] for row in said["differences"]}
    assert named <= {"stereos.img", "stereos.qcow2", "mixtape.toml"}
