"""Whoever alters a dist is found out, and what they altered is named; also when they fixed the manifest up.

One copy of a real dist is altered in place and put right again, case by case.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from makers.altering import flipped, instead, kept, recompress, reseal
from makers.command import Stereo
from stereo.artifacts import gpt
from stereo.artifacts.pe import Pe
from stereo.artifacts.qcow2 import Qcow2
from stereo.artifacts.region import OpenFile, Region
from stereo.artifacts.vfat import Vfat
from stereo.assemble.dist import read_manifest
from stereo.model.manifest import CYCLONEDX_FILE, MANIFEST_FILE, SPDX_FILE

pytestmark = pytest.mark.build

Place = Callable[[Region], int]


@pytest.fixture(scope="module")
def altered(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to alter. Every test leaves it as it was."""
    copy = tmp_path_factory.mktemp("altered") / "dist"
    subprocess.run(["cp", "-a", "--reflink=auto", "--sparse=always", dist, copy], check=True)
    return copy


@pytest.fixture
def verdict(stereo: Stereo, tmp_path: Path) -> Callable[[Path], dict[str, Any]]:
    """What `stereo verify --json` says of a dist that is not sound."""

    def verify(folder: Path) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(stereo("verify", folder, "--json", cwd=tmp_path, status=1).stdout)
        assert said["ok"] is False
        return said

    return verify


Verdict = Callable[[Path], dict[str, Any]]


def checks(said: dict[str, Any]) -> set[tuple[str, str]]:
    """Artifact and check of everything that failed."""
    return {(row["artifact"], row["check"]) for row in said["findings"] if not row["ok"]}


def partition(kind: str) -> Place:
    """The middle of what a partition holds. `kind` is its label, or the part of a label."""

    def middle(disk: Region) -> int:
        (row,) = (row for row in gpt.read_gpt(disk).partitions if row.label == kind)
        return row.offset + row.size // 2

    return middle


def kernel_in_esp(disk: Region) -> int:
    """A byte of the kernel in the UKI, found by its own content, as the ESP's files may lie anywhere."""
    (esp,) = (row for row in gpt.read_gpt(disk).partitions if row.label == "esp")
    files = Vfat(gpt.partition_region(disk, esp))
    (loader,) = (files.content(entry) for entry in files.entries() if entry.path.upper().endswith(".EFI"))
    uki = Pe(loader)
    linux = uki.content(uki.only(".linux"))
    needle = linux.read(linux.size // 2 & ~511, 512)
    for at in range(esp.offset, esp.offset + esp.size, 512):
        if disk.read(at, 512) == needle:
            return at
    raise AssertionError("the UKI's kernel is not in the ESP")


def l2_entry(file: Region) -> int:
    """The lowest byte that counts of the qcow2's first L2 entry in use."""
    l1 = int.from_bytes(file.read(40, 8), "big")
    l2 = int.from_bytes(file.read(l1, 8), "big") & 0x00FFFFFFFFFFFE00
    at = l2
    while not int.from_bytes(file.read(at, 8), "big"):
        at += 8
    return at + 5


def guest_byte(at: int) -> Place:
    """Where a byte of the guest's disk is in the qcow2."""

    def host(file: Region) -> int:
        for run in Qcow2(file).runs():
            if run.guest <= at < run.guest + run.size:
                assert run.host is not None
                return run.host + at - run.guest
        raise AssertionError(f"byte {at} is outside the disk")

    return host


def data_cluster(file: Region) -> int:
    largest = max((run for run in Qcow2(file).runs() if run.host is not None), key=lambda run: run.size)
    assert largest.host is not None
    return largest.host + largest.size // 2


def place_in(path: Path, place: Place) -> int:
    with OpenFile(path) as file:
        return place(file.region)


def labels(dist: Path) -> dict[str, str]:
    """The partitions' labels by what they are."""
    rows = read_manifest(dist).image.partition
    return dict(zip(("esp", "root", "verity", "state"), (row.label for row in rows), strict=True))


@pytest.mark.parametrize(
    ("where", "check"),
    [
        (lambda dist: lambda disk: 512 + 56, "partition-table"),
        (lambda dist: lambda disk: disk.size - 512 + 56, "partition-table"),
        (lambda dist: kernel_in_esp, "uki"),
        (lambda dist: partition(labels(dist)["root"]), "root-hash"),
        (lambda dist: partition(labels(dist)["verity"]), "root-hash"),
        (lambda dist: partition(labels(dist)["state"]), "partition"),
    ],
    ids=["primary-gpt", "backup-gpt", "esp", "root", "verity", "state"],
)
def test_a_flipped_bit_anywhere_on_the_disk_is_found_and_its_kind_told(
    where: Callable[[Path], Place], check: str, altered: Path, verdict: Verdict
) -> None:
    disk = altered / "stereos.img"
    with flipped(disk, place_in(disk, where(altered))):
        said = verdict(altered)
    assert said["failed"] == ["stereos.img"]
    assert {("stereos.img", "sha256"), ("stereos.img", check)} <= checks(said)


@pytest.mark.parametrize("place", [data_cluster, l2_entry])
def test_a_flipped_bit_in_the_qcow2_is_found(place: Place, altered: Path, verdict: Verdict) -> None:
    image = altered / "stereos.qcow2"
    with flipped(image, place_in(image, place)):
        said = verdict(altered)
    assert said["failed"] == ["stereos.qcow2"]


def test_bits_flipped_in_every_other_artifact_are_all_found_and_nothing_else_is_blamed(
    altered: Path, verdict: Verdict
) -> None:
    disks, boot = ("stereos.img.zst", "stereos.qcow2.zst"), ("bzImage", "initrd", "cmdline", "init")
    names = (*disks, *boot, CYCLONEDX_FILE, SPDX_FILE)
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(flipped(altered / name, (altered / name).stat().st_size // 2))
        said = verdict(altered)
    assert set(said["failed"]) == set(names)


def test_a_digest_changed_in_the_manifest_blames_the_artifact_that_it_is_of(altered: Path, verdict: Verdict) -> None:
    manifest = altered / MANIFEST_FILE
    digest = read_manifest(altered).artifacts.kernel.bzimage.sha256
    with kept(manifest):
        manifest.write_text(manifest.read_text().replace(digest, digest[::-1]))
        said = verdict(altered)
    assert "bzImage" in said["failed"]


def test_a_root_altered_everywhere_with_all_digests_made_to_fit_is_caught_by_the_root_hash(
    altered: Path, verdict: Verdict
) -> None:
    raw, qcow2 = altered / "stereos.img", altered / "stereos.qcow2"
    at = place_in(raw, partition(labels(altered)["root"]))
    packed = [altered / "stereos.img.zst", altered / "stereos.qcow2.zst"]
    with kept(altered / MANIFEST_FILE, *packed), flipped(raw, at), flipped(qcow2, place_in(qcow2, guest_byte(at))):
        for path in (raw, qcow2):
            recompress(path)
        reseal(altered)
        said = verdict(altered)
    assert checks(said) == {("stereos.img", "root-hash")}


@pytest.mark.parametrize("name", ["cmdline", "bzImage", "initrd"])
def test_a_kernel_file_altered_with_its_digest_is_caught_by_the_uki(name: str, altered: Path, verdict: Verdict) -> None:
    with kept(altered / MANIFEST_FILE), flipped(altered / name, 0):
        reseal(altered)
        said = verdict(altered)
    assert ("stereos.img", "uki") in checks(said)


def test_missing_unexpected_and_linked_files_are_named(altered: Path, verdict: Verdict, tmp_path: Path) -> None:
    extra = altered / "README"
    with instead(altered / "init"), kept(altered / "cmdline"):
        extra.write_text("take me along")
        (altered / "cmdline").unlink()
        (altered / "cmdline").symlink_to(tmp_path / "cmdline")
        (tmp_path / "cmdline").write_text("quiet")
        try:
            said = verdict(altered)
        finally:
            extra.unlink()
    assert {("README", "unexpected"), ("init", "present"), ("cmdline", "type")} <= checks(said)
    assert set(said["failed"]) == {"README", "init", "cmdline"}


HOSTILE = {
    "climbs": lambda text: text.replace('file = "bzImage"', 'file = "../../etc/passwd"'),
    "absolute": lambda text: text.replace('file = "bzImage"', 'file = "/etc/passwd"'),
    "huge": lambda text: text.replace("epoch = ", "epoch = 99999999999999999999999"),
    "negative": lambda text: text.replace("epoch = ", "epoch = -"),
    "duplicate": lambda text: 'name = "a"\n' + text,
    "unknown-key": lambda text: 'surprise = "a"\n' + text,
    "newer-schema": lambda text: text.replace("schema = 2", "schema = 3"),
    "deep": lambda text: text + "x = " + "[" * 5000,
    "large": lambda text: text + "#" * (2 << 20),
    "no-text": lambda text: text + "\0\udcff",
    "terminal": lambda text: text.replace('file = "bzImage"', 'file = "\\u001b]0;mine\\u0007"'),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_manifest_is_refused_and_blamed(
    kind: str, altered: Path, verdict: Verdict, stereo: Stereo, tmp_path: Path
) -> None:
    manifest = altered / MANIFEST_FILE
    with kept(manifest):
        manifest.write_bytes(HOSTILE[kind](manifest.read_text()).encode("utf-8", "surrogateescape"))
        assert verdict(altered)["failed"] == [MANIFEST_FILE]
        told = stereo("verify", altered, cwd=tmp_path, status=1)
        again = stereo("rebuild", altered, "--offline", cwd=tmp_path, status=2)
    for text in (told.stdout, told.stderr, again.stderr):
        assert "Traceback" not in text
        assert "\x1b" not in text
    assert MANIFEST_FILE in again.stderr


def test_a_manifest_that_is_a_link_is_not_followed(altered: Path, verdict: Verdict) -> None:
    manifest = altered / MANIFEST_FILE
    elsewhere = altered.parent / "elsewhere.toml"
    shutil.copy(manifest, elsewhere)
    with instead(manifest):
        manifest.symlink_to(elsewhere)
        assert MANIFEST_FILE in verdict(altered)["failed"]


def test_what_is_no_folder_is_wrong_usage(stereo: Stereo, tmp_path: Path) -> None:
    stereo("verify", tmp_path / "nothing", "--json", cwd=tmp_path, status=2)
