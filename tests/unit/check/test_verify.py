"""Verify: everything holds for a sound dist, and whatever is altered is named, and nothing else."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from makers.damage import flip
from makers.disk import DISK_UUID, ESP, make_gpt, make_qcow2
from makers.dist import OS_RELEASE, compress, make_dist, make_sboms, write_dist
from makers.ext4 import make_ext4
from makers.kernels import make_bzimage, make_elf, make_image
from makers.node import SAMPLE, file
from stereo.artifacts import gpt
from stereo.artifacts.region import Region
from stereo.check.verify import Verdict, verify
from stereo.errors import UsageError
from stereo.model.architecture import Architecture
from stereo.model.manifest import parse_manifest
from stereo.report import Silent

FILES = (
    "stereos.img",
    "stereos.img.zst",
    "stereos.qcow2",
    "stereos.qcow2.zst",
    "bzImage",
    "initrd",
    "cmdline",
    "init",
    "sbom.cdx.json",
    "sbom.spdx.json",
)


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    make_dist(tmp_path / "dist")
    return tmp_path / "dist"


def failures(verdict: Verdict) -> list[tuple[str, str]]:
    return [(row.artifact, row.check) for row in verdict.findings if not row.ok]


def messages(verdict: Verdict) -> str:
    return "\n".join(row.message for row in verdict.findings if not row.ok)


def contents(dist: Path) -> dict[str, bytes]:
    return {name: (dist / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("name", ["sbom.cdx.json", "sbom.spdx.json"])
def test_an_sbom_of_another_image_is_named(dist: Path, tmp_path: Path, name: str) -> None:
    files = {file: (dist / file).read_bytes() for file in FILES}
    verdict = sealed(tmp_path / "other", {**files, name: make_sboms("ab" * 32)[name]}, root_hash(dist))
    assert failures(verdict) == [(name, "image")]
    assert f"root hash {'ab' * 32}" in messages(verdict)


@pytest.mark.parametrize(
    "data", [b"\xff", b"{}", b"[" * 100_000, b'{"bomFormat": "CycloneDX"}', b'{"spdxVersion": "x"}']
)
def test_what_is_no_sbom_is_named(dist: Path, tmp_path: Path, data: bytes) -> None:
    files = {file: (dist / file).read_bytes() for file in FILES}
    verdict = sealed(tmp_path / "other", {**files, "sbom.cdx.json": data}, root_hash(dist))
    assert failures(verdict) == [("sbom.cdx.json", "image")]


def sealed(folder: Path, files: dict[str, bytes], root_hash: str) -> Verdict:
    """The verdict on a dist of these files and a manifest that fits them: only what goes across files can fail."""
    write_dist(folder, files, root_hash)
    return verify(folder, Silent())


def root_hash(dist: Path) -> str:
    return (dist / "cmdline").read_text().rsplit("roothash=", 1)[1]


def test_a_sound_dist_passes_every_check(dist: Path) -> None:
    verdict = verify(dist, Silent())
    assert failures(verdict) == []
    assert verdict.ok
    checked = {(row.artifact, row.check) for row in verdict.findings}
    assert {(name, check) for name in FILES for check in ("size", "sha256")} <= checked
    across = {("stereos.img", check) for check in ("partition-table", "partition", "uki", "root-hash")}
    assert across <= checked
    assert {(name, "content") for name in FILES[1:4]} <= checked
    assert {("cmdline", "root-hash"), ("mixtape.toml", "identity"), ("init", "program")} <= checked


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("part", [0.0, 0.3, 0.5, 0.999])
def test_a_flipped_bit_is_found_and_only_its_artifact_is_named(dist: Path, name: str, part: float) -> None:
    flip(dist / name, int((dist / name).stat().st_size * part))
    verdict = verify(dist, Silent())
    assert verdict.failed == (name,)
    assert (name, "sha256") in failures(verdict)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_in_the_disks_is_found(dist: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(FILES[:4]))
    at = data.draw(st.integers(0, (dist / name).stat().st_size - 1))
    flip(dist / name, at)
    try:
        assert verify(dist, Silent(), jobs=2).failed == (name,)
    finally:
        flip(dist / name, at)


def test_signatures_lie_beside_and_are_no_part_of_the_dist(dist: Path) -> None:
    for name in ("SHA256SUMS", "SHA256SUMS.sig", "SHA256SUMS.gpg"):
        (dist / name).write_bytes(b"judged elsewhere")
    (dist / "attestations").mkdir()
    assert verify(dist, Silent()).ok


@pytest.mark.parametrize("name", ["SHA256SUMS", "SHA256SUMS.sig", "SHA256SUMS.gpg", "attestations", "pulled.json"])
def test_what_lies_beside_a_dist_may_not_be_a_link(dist: Path, name: str, tmp_path: Path) -> None:
    (dist / name).symlink_to(tmp_path)
    assert failures(verify(dist, Silent())) == [(name, "type")]


def pulled(dist: Path, *formats: str) -> None:
    table = {"schema": 1, "reference": "localhost:5000/x:1", "digest": f"sha256:{'0' * 64}", "formats": formats}
    (dist / "pulled.json").write_text(json.dumps(table))


@pytest.mark.parametrize(("here", "away"), [("raw", "stereos.qcow2"), ("qcow2", "stereos.img")])
def test_a_format_that_was_not_pulled_is_told_and_no_failure(dist: Path, here: str, away: str) -> None:
    (dist / away).unlink()
    (dist / f"{away}.zst").unlink()
    pulled(dist, here)
    verdict = verify(dist, Silent())
    assert failures(verdict) == []
    told = [(row.artifact, row.message) for row in verdict.findings if row.check == "present"]
    assert told == [(away, "not pulled"), (f"{away}.zst", "not pulled")]


def test_an_altered_disk_of_a_pulled_dist_is_named(dist: Path) -> None:
    (dist / "stereos.img").unlink()
    (dist / "stereos.img.zst").unlink()
    pulled(dist, "qcow2")
    flip(dist / "stereos.qcow2", (dist / "stereos.qcow2").stat().st_size - 100)
    assert verify(dist, Silent()).failed == ("stereos.qcow2",)


@pytest.mark.parametrize("gone", ["stereos.img", "stereos.img.zst", "bzImage", "mixtape.toml"])
def test_pulled_excuses_the_disks_of_other_formats_alone(dist: Path, gone: str) -> None:
    pulled(dist, "raw")
    (dist / gone).unlink()
    assert verify(dist, Silent()).failed == (gone,)


def test_a_disk_that_was_not_pulled_may_not_be_something_else(dist: Path, tmp_path: Path) -> None:
    pulled(dist, "raw")
    (dist / "stereos.qcow2").unlink()
    (dist / "stereos.qcow2").symlink_to(tmp_path / "nowhere")
    assert failures(verify(dist, Silent())) == [("stereos.qcow2", "type")]


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 1}', "[" * 10_000, "x" * 100_000])
def test_a_malformed_note_of_what_was_pulled_is_a_failure_and_excuses_nothing(dist: Path, text: str) -> None:
    (dist / "stereos.qcow2").unlink()
    (dist / "pulled.json").write_text(text)
    assert set(verify(dist, Silent()).failed) == {"stereos.qcow2", "pulled.json"}


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(dist: Path, name: str) -> None:
    (dist / name).unlink()
    verdict = verify(dist, Silent())
    assert failures(verdict) == [(name, "present")]


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_size_is_named(dist: Path, name: str) -> None:
    with (dist / name).open("ab") as file:
        file.write(b"x")
    verdict = verify(dist, Silent())
    assert failures(verdict) == [(name, "size")]


def test_an_unexpected_file_is_named(dist: Path) -> None:
    (dist / "stereos.img.bak").touch()
    (dist / "bad\x1bname").touch()
    assert failures(verify(dist, Silent())) == [("bad\\x1bname", "unexpected"), ("stereos.img.bak", "unexpected")]


def test_a_link_is_refused_even_to_the_right_bytes(dist: Path) -> None:
    (dist / "initrd").rename(dist.parent / "initrd")
    (dist / "initrd").symlink_to("../initrd")
    verdict = verify(dist, Silent())
    assert failures(verdict) == [("initrd", "type")]
    assert "link" in messages(verdict)


def test_a_pipe_is_refused_and_not_waited_for(dist: Path) -> None:
    (dist / "init").unlink()
    os.mkfifo(dist / "init")
    assert failures(verify(dist, Silent())) == [("init", "type")]


def test_a_linked_manifest_is_refused(dist: Path) -> None:
    (dist / "mixtape.toml").rename(dist.parent / "real.toml")
    (dist / "mixtape.toml").symlink_to("../real.toml")
    assert failures(verify(dist, Silent())) == [("mixtape.toml", "present")]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('file = "initrd"', 'file = "../initrd"'),
        ('file = "initrd"', 'file = "/etc/passwd"'),
        ("schema = 2", "schema = 2\nschema = 2"),
        ("schema = 2", "schema = 3"),
        ("epoch = 1700000000", "epoch = 99999999999999999999999999"),
        ("schema = 2", "schema = 2\nx = " + "[" * 3000),
    ],
)
def test_a_hostile_manifest_is_refused(dist: Path, old: str, new: str) -> None:
    text = (dist / "mixtape.toml").read_text()
    assert old in text
    (dist / "mixtape.toml").write_text(text.replace(old, new, 1))
    verdict = verify(dist, Silent())
    assert verdict.failed == ("mixtape.toml",)
    assert verdict.manifest is None


def test_a_huge_manifest_is_not_read(dist: Path) -> None:
    with (dist / "mixtape.toml").open("r+b") as file:
        file.truncate(1 << 40)
    assert "larger than" in messages(verify(dist, Silent()))


def test_what_is_no_directory_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "absent"):
        with pytest.raises(UsageError):
            verify(path, Silent())


def test_a_partition_digest_that_is_not_the_partitions_is_named(dist: Path) -> None:
    text = (dist / "mixtape.toml").read_text()
    head, tail = text.rsplit('sha256 = "', 1)
    (dist / "mixtape.toml").write_text(f'{head}sha256 = "{"0" * 64}{tail[64:]}')
    verdict = verify(dist, Silent())
    assert failures(verdict) == [("stereos.img", "partition")]
    assert "partition state" in messages(verdict)


def test_another_partition_table_than_the_manifests_is_told_row_by_row(dist: Path) -> None:
    text = (dist / "mixtape.toml").read_text()
    (dist / "mixtape.toml").write_text(text.replace('label = "state"', 'label = "stat\'"'))
    verdict = verify(dist, Silent())
    assert failures(verdict) == [("stereos.img", "partition-table")]
    assert "partition 4: label is state, the manifest says stat'" in messages(verdict)


def test_a_damaged_backup_table_is_found_behind_right_digests(dist: Path, tmp_path: Path) -> None:
    files = contents(dist)
    raw = bytearray(files["stereos.img"])
    raw[-500] ^= 1
    whole = bytes(raw)
    good = files["stereos.img"]
    files |= {"stereos.img": whole, "stereos.img.zst": compress(whole), "stereos.qcow2": make_qcow2(whole)}
    files["stereos.qcow2.zst"] = compress(files["stereos.qcow2"])
    manifest = write_dist(tmp_path / "good", files | {"stereos.img": good}, root_hash(dist))
    text = (tmp_path / "good/mixtape.toml").read_text()
    (tmp_path / "good/stereos.img").write_bytes(whole)
    text = text.replace(manifest.artifacts.raw.sha256, hashlib.sha256(whole).hexdigest())
    (tmp_path / "good/mixtape.toml").write_text(text)
    verdict = verify(tmp_path / "good", Silent())
    assert failures(verdict) == [("stereos.img", "partition-table")]
    assert "backup GPT header does not match its checksum" in messages(verdict)


def test_a_qcow2_of_another_disk_is_found_behind_right_digests(dist: Path, tmp_path: Path) -> None:
    files = contents(dist)
    disk = bytearray(files["stereos.img"])
    disk[200_000] ^= 1
    files["stereos.qcow2"] = make_qcow2(bytes(disk))
    files["stereos.qcow2.zst"] = compress(files["stereos.qcow2"])
    verdict = sealed(tmp_path / "other", files, root_hash(dist))
    assert failures(verdict) == [("stereos.qcow2", "content")]


@pytest.mark.parametrize("zeroed", [True, False])
def test_a_qcow2_that_has_no_data_where_the_disk_has_some_is_found(dist: Path, tmp_path: Path, zeroed: bool) -> None:
    files = contents(dist)
    disk = bytearray(files["stereos.img"])
    place = next(at for at in range(98_304, len(disk), 4096) if any(disk[at : at + 4096]) is zeroed)
    disk[place : place + 4096] = bytes(4096) if zeroed else b"\1" * 4096
    files["stereos.qcow2"] = make_qcow2(bytes(disk))
    files["stereos.qcow2.zst"] = compress(files["stereos.qcow2"])
    assert failures(sealed(tmp_path / "other", files, root_hash(dist))) == [("stereos.qcow2", "content")]


def test_a_qcow2_of_another_size_is_found(dist: Path, tmp_path: Path) -> None:
    files = contents(dist)
    files["stereos.qcow2"] = make_qcow2(files["stereos.img"] + bytes(512))
    files["stereos.qcow2.zst"] = compress(files["stereos.qcow2"])
    assert failures(sealed(tmp_path / "other", files, root_hash(dist))) == [("stereos.qcow2", "content")]


@pytest.mark.parametrize("name", ["stereos.img", "stereos.qcow2"])
@pytest.mark.parametrize("change", ["altered", "shorter", "longer", "bomb", "garbage"])
def test_a_zst_of_something_else_is_found_behind_right_digests(
    dist: Path, tmp_path: Path, name: str, change: str
) -> None:
    files = contents(dist)
    data = files[name]
    packed = {
        "altered": lambda: compress(data[:90_000] + bytes([data[90_000] ^ 1]) + data[90_001:]),
        "shorter": lambda: compress(data[:-1]),
        "longer": lambda: compress(data + b"x"),
        "bomb": lambda: zstandard.compress(data + bytes(64 << 20)),
        "garbage": lambda: compress(data) + b"garbage",
    }[change]()
    verdict = sealed(tmp_path / "other", files | {f"{name}.zst": packed}, root_hash(dist))
    assert failures(verdict) == [(f"{name}.zst", "content")]


def test_a_uki_with_another_initrd_is_found(tmp_path: Path) -> None:
    make_dist(tmp_path / "dist", uki_initrd=b"another")
    verdict = verify(tmp_path / "dist", Silent())
    assert failures(verdict) == [("stereos.img", "uki")]
    assert "BOOTX64.EFI: .initrd" in messages(verdict)


def test_padding_of_a_uki_section_must_be_zeros(tmp_path: Path) -> None:
    manifest = make_dist(tmp_path / "one")
    initrd = (tmp_path / "one/initrd").read_bytes()
    make_dist(tmp_path / "two", uki_initrd=initrd + b"\0more")
    assert manifest.artifacts.kernel.initrd.size == len(initrd)
    assert failures(verify(tmp_path / "two", Silent())) == [("stereos.img", "uki")]


def test_a_root_partition_that_verity_would_refuse_is_found_behind_right_digests(dist: Path, tmp_path: Path) -> None:
    files = contents(dist)
    raw = bytearray(files["stereos.img"])
    root = gpt.read_gpt(Region.of_bytes(bytes(raw))).partitions[1]
    raw[root.offset + 5000] ^= 1
    disk = bytes(raw)
    files |= {"stereos.img": disk, "stereos.img.zst": compress(disk), "stereos.qcow2": make_qcow2(disk)}
    files["stereos.qcow2.zst"] = compress(files["stereos.qcow2"])
    verdict = sealed(tmp_path / "other", files, root_hash(dist))
    assert set(failures(verdict)) == {("stereos.img", "root-hash")}
    assert "data block 1 (byte 4096) does not match the hash tree" in messages(verdict)


@pytest.mark.parametrize(
    "words", ["quiet", f"roothash={'0' * 64}", f"roothash={'0' * 64} roothash=", "roothash=\x1b[31m"]
)
def test_a_command_line_without_the_root_hash_is_found(dist: Path, tmp_path: Path, words: str) -> None:
    files = contents(dist) | {"cmdline": words.encode()}
    verdict = sealed(tmp_path / "other", files, root_hash(dist))
    assert ("cmdline", "root-hash") in failures(verdict)
    assert ("stereos.img", "uki") in failures(verdict)  # its .cmdline is not the file
    assert "\x1b" not in messages(verdict)


def test_another_root_hash_in_the_manifest_is_found(dist: Path, tmp_path: Path) -> None:
    verdict = sealed(tmp_path / "other", contents(dist), "0" * 64)
    assert {row[1] for row in failures(verdict)} == {"root-hash", "uki"}
    assert f"partition root: has the root hash {root_hash(dist)}, the manifest says 000" in messages(verdict)


@pytest.mark.parametrize("label", ["root", "root-verity"])
def test_a_partition_whose_uuid_is_not_of_the_root_hash_is_found(dist: Path, label: str) -> None:
    manifest = parse_manifest((dist / "mixtape.toml").read_bytes(), "mixtape.toml")
    uuid = next(row.uuid for row in manifest.image.partition if row.label == label)
    text = (dist / "mixtape.toml").read_text()
    (dist / "mixtape.toml").write_text(text.replace(uuid, "00000000-0000-0000-0000-000000000000"))
    verdict = verify(dist, Silent())
    assert failures(verdict) == [("stereos.img", "partition-table"), ("stereos.img", "root-hash")]
    assert f"partition {label}: its UUID 00000000-0000-0000-0000-000000000000 is not of the root hash" in messages(
        verdict
    )


def test_another_uuid_of_the_disk_is_found(dist: Path) -> None:
    text = (dist / "mixtape.toml").read_text()
    (dist / "mixtape.toml").write_text(text.replace(DISK_UUID, "00000000-0000-0000-0000-000000000000"))
    verdict = verify(dist, Silent())
    assert failures(verdict) == [("stereos.img", "partition-table")]
    assert f"the disk's UUID is {DISK_UUID}" in messages(verdict)


def test_a_qcow2_cluster_used_twice_is_refused(dist: Path, tmp_path: Path) -> None:
    files = contents(dist)
    image = bytearray(files["stereos.qcow2"])
    used = [at for at in range(8192, 8192 + 8 * 60, 8) if any(image[at : at + 8])]
    image[used[1] : used[1] + 8] = image[used[0] : used[0] + 8]
    files["stereos.qcow2"] = bytes(image)
    files["stereos.qcow2.zst"] = compress(files["stereos.qcow2"])
    verdict = sealed(tmp_path / "other", files, root_hash(dist))
    assert failures(verdict) == [("stereos.qcow2", "content")]
    assert "twice" in messages(verdict)


def test_a_disk_without_root_and_verity_is_found(dist: Path, tmp_path: Path) -> None:
    files = contents(dist)
    disk = make_gpt([("esp", ESP, "99999999-8888-7777-6666-444444444444", make_ext4(SAMPLE))])
    files |= {"stereos.img": disk, "stereos.img.zst": compress(disk), "stereos.qcow2": make_qcow2(disk)}
    files["stereos.qcow2.zst"] = compress(files["stereos.qcow2"])
    verdict = sealed(tmp_path / "other", files, root_hash(dist))
    assert failures(verdict) == [("stereos.img", "uki"), ("stereos.img", "root-hash")]
    assert "not a FAT file system" in messages(verdict)


def test_one_thread_finds_what_many_find(dist: Path) -> None:
    flip(dist / "stereos.img", 150_000)
    flip(dist / "bzImage", 5)
    assert verify(dist, Silent(), jobs=1) == verify(dist, Silent(), jobs=8)


def test_two_altered_files_are_both_named(dist: Path) -> None:
    flip(dist / "stereos.img", 150_000)
    flip(dist / "stereos.qcow2.zst", 50)
    assert verify(dist, Silent()).failed == ("stereos.img", "stereos.qcow2.zst")


class Counting(Silent):
    def __init__(self) -> None:
        self.total = 0
        self.done = 0

    @contextmanager
    def progress(self, doing: str, total: int | None, unit: str = "B") -> Iterator[Counting]:
        self.total = total or 0
        yield self

    def advance(self, amount: int) -> None:
        self.done += amount


def test_progress_goes_by_bytes_to_the_end(dist: Path) -> None:
    report = Counting()
    verify(dist, report, jobs=1)
    assert report.total == report.done == sum((dist / name).stat().st_size for name in FILES)


class Interrupted(Counting):
    def advance(self, amount: int) -> None:
        raise KeyboardInterrupt


def test_an_interruption_ends_the_threads(dist: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        verify(dist, Interrupted(), jobs=2)


def test_a_link_to_a_dist_is_followed(dist: Path, tmp_path: Path) -> None:
    (tmp_path / "result").symlink_to("dist")
    assert verify(tmp_path / "result", Silent()).ok


def test_a_changed_file_in_the_root_changes_the_root_hash(tmp_path: Path) -> None:
    one = make_dist(tmp_path / "one")
    two = make_dist(tmp_path / "two", root=SAMPLE | {"/etc/hostname": file(b"other\n")})
    assert one.image.root_hash != two.image.root_hash
    assert verify(tmp_path / "two", Silent()).ok


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dev = false", "dev = true"),
        ('name = "sample-mixtape"', 'name = "another"'),
        ('version = "2026.01.02.0"', 'version = "2026.01.02.1"'),
        ('kernel_version = "6.12.0"', 'kernel_version = "6.12.1"'),
    ],
)
def test_a_manifest_that_gives_an_image_out_as_another_is_found(dist: Path, old: str, new: str) -> None:
    path = dist / "mixtape.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert failures(verify(dist, Silent())) == [("mixtape.toml", "identity")]


def test_a_dev_image_is_never_taken_for_a_release(tmp_path: Path) -> None:
    make_dist(tmp_path / "dist", root=SAMPLE | {"/usr/lib/os-release": file(OS_RELEASE + b"VARIANT_ID=dev\n")})
    assert failures(verify(tmp_path / "dist", Silent())) == [("mixtape.toml", "identity")]


@pytest.mark.parametrize("content", [b"\xff" * 100, b"IMAGE_ID\n=\n", b"x" * 100_000])
def test_an_os_release_that_is_none_is_told_and_no_crash(tmp_path: Path, content: bytes) -> None:
    make_dist(tmp_path / "dist", root=SAMPLE | {"/usr/lib/os-release": file(content)})
    assert {("mixtape.toml", "identity")} == {*failures(verify(tmp_path / "dist", Silent()))}


@pytest.mark.parametrize("path", [b"/bin/sh", b"\xff", b"/usr/lib/systemd/systemd\n"])
def test_an_init_that_is_not_in_the_image_is_found_behind_right_digests(
    dist: Path, tmp_path: Path, path: bytes
) -> None:
    verdict = sealed(tmp_path / "two", contents(dist) | {"init": path}, root_hash(dist))
    assert failures(verdict) == [("init", "program")]


@pytest.mark.parametrize("arch", list(Architecture))
def test_the_kernel_has_the_form_that_loaders_of_the_architecture_take(tmp_path: Path, arch: Architecture) -> None:
    make_dist(tmp_path / "dist", arch=arch)
    verdict = verify(tmp_path / "dist", Silent())
    assert failures(verdict) == []
    (found,) = [row.message for row in verdict.findings if row.check == "form"]
    assert found == {"x86_64": "bzImage", "aarch64": "uncompressed arm64 Image"}[arch]


@pytest.mark.parametrize(
    ("kernel", "told"),
    [
        (gzip.compress(make_image()), "is gzip"),
        (b"MZ\0\0zimg" + bytes(1000), "is EFI zboot"),
        (make_bzimage(), "is bzImage"),
        (make_elf(machine=183), "is ELF vmlinux"),
        (make_image(memory=64), "claims to need 64"),
    ],
)
def test_a_kernel_of_another_form_than_an_uncompressed_image_is_refused_on_aarch64(
    tmp_path: Path, kernel: bytes, told: str
) -> None:
    make_dist(tmp_path / "dist", arch=Architecture.AARCH64, bzimage=kernel)
    verdict = verify(tmp_path / "dist", Silent())
    assert failures(verdict) == [("bzImage", "form")]
    (found,) = [row.message for row in verdict.findings if row.check == "form"]
    assert told in found
