"""The commands of docs/verifying.md, by which a stranger without stereo verifies what is in a registry, run as they
stand there: but for the place, and so that what they must refuse is there too."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from makers.altering import flipped
from makers.command import Stereo
from makers.registries import RealRegistry, real_registry
from makers.tools import Tool, program
from stereo.assemble.dist import read_manifest
from stereo.paths import Checkout
from stereo.process import CommandFailed, closed_environment, quote, run

PLACE = "REF=registry.example.org/mixtapes/base:2026.01.31.0"


@dataclass(frozen=True)
class Published:
    """A release in a registry. The key release.* signed it and other.* did not; a stranger got both from elsewhere."""

    reference: str
    registry: RealRegistry
    dist: Path
    keys: Path


@pytest.fixture(scope="module")
def published(
    base: Path, test_tools: Path, stereo: Stereo, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("published")
    dist, keys = folder / "dist", folder / "keys"
    shutil.copytree(base, dist, copy_function=os.link)
    for name in ("release", "other"):
        stereo("keygen", name, "--output-dir", keys, cwd=folder)
    stereo("sign", dist, "--key", keys / "release.key", cwd=folder)
    with real_registry(folder / "registry", test_tools) as registry:
        # By this name the programs of others speak plain http without being told to.
        place = f"localhost:{registry.host.rpartition(':')[2]}/mixtapes/base"
        stereo("publish", dist, "--to", place, cwd=folder)
        yield Published(f"{place}:{read_manifest(dist).version}", registry, dist, keys)
    shutil.rmtree(folder)


Stranger = Callable[..., Path]


@pytest.fixture
def stranger(published: Published, test_tools: Path, tool: Callable[[str], Tool], tmp_path: Path) -> Stranger:
    """Runs the commands of the page in an empty folder that has the public keys, and returns that."""
    page = (Checkout.containing_this_package().root / "docs/verifying.md").read_text()
    commands = page.partition("```sh\n")[2].partition("```")[0]
    assert commands.startswith(f"{PLACE}\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    for each in (*(program(test_tools, name) for name in ("oras", "cosign", "gpgv")), tool("zstd")):
        command = programs / Path(each.argv[-1]).name
        command.write_text(f'#!/bin/sh\nexec {quote(each.argv)} "$@"\n')
        command.chmod(0o755)

    def start(key: str = "release", reference: str = published.reference) -> Path:
        here = tmp_path / f"stranger-{key}"
        here.mkdir()
        for suffix in (".pub", ".gpg"):
            (here / f"release{suffix}").write_bytes((published.keys / f"{key}{suffix}").read_bytes())
        environment = closed_environment({"HOME": str(here)}, path=f"{programs}:{os.environ['PATH']}")
        script = commands.replace(PLACE, f"REF={reference}")
        run(["sh", "-eu", "-c", script], cwd=here, env=environment, timeout=120)
        return here

    return start


def test_the_commands_for_strangers_work_as_they_stand_on_the_page(stranger: Stranger, published: Published) -> None:
    here = stranger()
    for name in ("stereos.img", "bzImage", "initrd", "cmdline", "init", "mixtape.toml", "SHA256SUMS", "sbom.cdx.json"):
        assert run(["cmp", here / name, published.dist / name]).stdout == ""


def test_they_refuse_what_another_key_signed(stranger: Stranger) -> None:
    with pytest.raises(CommandFailed, match="signature"):
        stranger("other")


def test_they_refuse_a_disk_that_the_registry_altered(stranger: Stranger, published: Published) -> None:
    digest = read_manifest(published.dist).artifacts.raw.compressed_sha256
    (blob,) = published.registry.storage.glob(f"**/{digest}/data")
    with flipped(blob, 100_000), pytest.raises(CommandFailed, match="digest"):
        stranger()


def test_they_refuse_a_signed_release_under_the_tag_of_another(
    stranger: Stranger, published: Published, test_tools: Path
) -> None:
    place, _, _ = published.reference.rpartition(":")
    program(test_tools, "oras")("tag", published.reference, "2099.01.01.0")
    with pytest.raises(CommandFailed, match="Good signature"):
        stranger(reference=f"{place}:2099.01.01.0")


def test_a_copy_made_with_oras_is_believed_when_it_was_made_as_the_page_says(
    published: Published, test_tools: Path, stereo: Stereo, tmp_path: Path
) -> None:
    """docs/compatibility.md, "Copying with other tools"."""
    oras, copy = program(test_tools, "oras"), published.reference.replace("/mixtapes/", "/copied/")
    words = ("pull", copy, "--key", published.keys / "release.pub", "-o", tmp_path / "pulled", "--json")
    oras("cp", published.reference, copy)
    assert "release statement: missing" in stereo(*words, cwd=tmp_path, status=1).stderr
    shown = json.loads(stereo("inspect", published.reference, "--json", cwd=tmp_path).stdout)
    (raw,) = (row["digest"] for row in shown["manifests"] if row["format"] == "raw")
    oras("cp", "-r", f"{published.reference.rpartition(':')[0]}@{raw}", copy.rpartition(":")[0])
    assert json.loads(stereo(*words, cwd=tmp_path).stdout)["signers"]
