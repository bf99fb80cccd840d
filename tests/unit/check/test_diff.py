"""Diff: goes down to the first difference that can be named, and names it in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from makers.disk import make_cpio, make_qcow2
from makers.dist import INITRD, compress, make_dist
from makers.node import SAMPLE, Files, Node, directory, file, symlink
from stereo.check.diff import diff
from stereo.errors import UsageError
from stereo.report import Silent


def lines(a: Path, b: Path) -> list[str]:
    return [str(row) for row in diff(a, b, Silent())]


def two(tmp_path: Path, **more: object) -> tuple[Path, Path]:
    """Two dists, the second made differently."""
    a, b = tmp_path / "a", tmp_path / "b"
    make_dist(a)
    make_dist(b, **more)  # type: ignore[arg-type]
    return a, b


def two_files(tmp_path: Path, name: str, a: bytes, b: bytes) -> tuple[Path, Path]:
    for folder, data in (("a", a), ("b", b)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_bytes(data)
    return tmp_path / "a" / name, tmp_path / "b" / name


def changed(**files: Node | None) -> Files:
    """The sample tree with some files changed or taken away; `__` stands for a slash."""
    out = dict(SAMPLE)
    for name, node in files.items():
        path = "/" + name.replace("__", "/")
        if node is None:
            del out[path]
        else:
            out[path] = node
    return out


def test_equal_dists_have_no_difference(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    assert lines(a, b) == []


def test_one_changed_file_in_the_root_is_the_first_difference(tmp_path: Path) -> None:
    a, b = two(tmp_path, root=changed(etc__hostname=file(b"steREOS\nmore")))
    found = diff(a, b, Silent())
    assert str(found[0]) == (
        "stereos.img: partition root: /etc/hostname: content differs at byte 3 (8 against 12 bytes),"
        ' line 1: "stereos" against "steREOS"'
    )
    assert found[0].level == "file"
    told = "\n".join(map(str, found))
    # What follows from it comes behind it: the hash tree, the command line in the UKI, the derived files, the manifest.
    assert "partition root-verity: the hash tree differs" in told
    assert "/EFI/BOOT/BOOTX64.EFI: section .cmdline: content differs" in told
    assert "cmdline: only in A: roothash=" in told
    assert "stereos.qcow2: its disk differs as stereos.img does" in told
    assert "stereos.img.zst: differs as stereos.img does" in told
    assert "mixtape.toml: image.root_hash: " in told
    assert found[-1].level == "manifest"


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"etc__hostname": file(b"stereos\n", 0o600)}, "/etc/hostname: mode 0644 against 0600"),
        ({"etc__hostname": file(b"stereos\n", uid=1)}, "/etc/hostname: owner 0:0 against 1:0"),
        ({"etc__hostname": None}, "/etc/hostname: only in A (file)"),
        ({"etc__new": directory(), "etc__new__below": file(b"")}, "/etc/new: only in B (directory)"),
        ({"etc__localtime": symlink("UTC")}, "/etc/localtime: points to ../usr/share/zoneinfo/UTC against UTC"),
        ({"etc__localtime": file(b"")}, "/etc/localtime: symlink against file"),
        ({"null": Node(0o020666, rdev=(1, 5))}, "/null: device (1, 3) against (1, 5)"),
        ({"tagged": file(b"x")}, "/tagged: attribute user.note 736576656e against none"),
        ({"large": file(b"x" * 9, 0o600)}, "/large: mode 4755 against 0600, owner 1000:1000 against 0:0"),
    ],
)
def test_each_kind_of_difference_in_a_tree_is_one_line(
    tmp_path: Path, files: dict[str, Node | None], line: str
) -> None:
    a, b = two(tmp_path, root=changed(**files))
    assert lines(a, b)[0] == f"stereos.img: partition root: {line}"
    assert len([text for text in lines(a, b) if "/new/below" in text]) == 0


def test_a_time_in_the_state_partition_is_told(tmp_path: Path) -> None:
    a, b = two(tmp_path, state={"/": directory(), "/home": directory(mtime=1)})
    assert lines(a, b)[0] == (
        "stereos.img: partition state: /home: time 2023-11-14T22:13:20Z against 1970-01-01T00:00:01Z"
    )


def test_a_file_in_the_initrd_is_found_in_the_uki_and_in_the_initrd(tmp_path: Path) -> None:
    a, b = two(tmp_path, initrd=INITRD | {"/init": file(b"#!/bin/sh\n", 0o755)})
    told = lines(a, b)
    where = "/init: content differs at byte 7"
    assert told[0].startswith(f"stereos.img: partition esp: /EFI/BOOT/BOOTX64.EFI: section .initrd: {where}")
    assert any(line.startswith(f"initrd: {where}") for line in told)


def test_a_section_of_the_kernel_is_named(tmp_path: Path) -> None:
    a, b = two(tmp_path, kernel=b"kernel" * 1999 + b"KERNEL")
    assert any(line.startswith("bzImage: section .text: content differs at byte 11994") for line in lines(a, b))


def test_a_word_on_the_command_line_is_named(tmp_path: Path) -> None:
    a, b = two(tmp_path, words="quiet debug")
    assert "cmdline: only in B: debug" in lines(a, b)


def test_another_level_of_compression_is_told_apart_from_other_content(tmp_path: Path) -> None:
    a, b = two(tmp_path, level=19)
    found = diff(a, b, Silent())
    assert found[0].level == "zstd"
    assert str(found[0]).startswith("stereos.img.zst: the same content, compressed differently from byte ")


def test_another_layout_of_qcow2_is_told_apart_from_other_content(tmp_path: Path) -> None:
    a, b = two(tmp_path, qcow2_bits=13)
    found = diff(a, b, Silent())
    assert found[0].level == "qcow2"
    assert str(found[0]).startswith("stereos.qcow2: the same disk, but laid out differently from byte ")


def test_files_that_only_one_dist_has_are_named(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    (a / "bzImage").unlink()
    (b / "init").unlink()
    assert lines(a, b) == ["bzImage: only in B", "init: only in A"]


def test_what_signing_and_pulling_added_is_not_compared(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    (a / "SHA256SUMS").write_text("one")
    (a / "attestations").mkdir()
    (b / "pulled.json").write_text("other")
    assert diff(a, b, Silent()) == []


def test_another_sbom_is_a_difference_with_the_way_to_look_into_it(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    (b / "sbom.cdx.json").write_text('{"bomFormat": "other"}\n')
    (found,) = diff(a, b, Silent())
    assert str(found).startswith("sbom.cdx.json: content differs at byte 15")
    assert "`stereo sbom --diff A B`" in str(found)


def test_a_key_of_the_manifest_is_named(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    text = (b / "mixtape.toml").read_text()
    (b / "mixtape.toml").write_text(text.replace('source_revision = "abc"', 'source_revision = "def"'))
    assert lines(a, b) == ["mixtape.toml: build.source_revision: abc against def"]


def test_manifests_that_differ_only_in_form_do_differ(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    (b / "mixtape.toml").write_text((b / "mixtape.toml").read_text() + "\n")
    assert len(lines(a, b)) == 1


def test_a_link_in_a_dist_is_not_followed(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    (b / "init").unlink()
    (b / "init").symlink_to("/etc/hostname")
    assert lines(a, b)[0].startswith("init: cannot be compared: cannot be opened")


def test_many_differences_end_in_a_count(tmp_path: Path) -> None:
    more = {f"/file-{number:03}": file(b"") for number in range(60)}
    a, b = two(tmp_path, root=SAMPLE | more)
    told = lines(a, b)
    assert "stereos.img: partition root: and 50 more" in told
    assert len(told) < 60


@pytest.mark.parametrize("name", ["stereos.img", "stereos.qcow2", "stereos.img.zst", "stereos.qcow2.zst"])
def test_single_disks_are_compared_in_every_form(tmp_path: Path, name: str) -> None:
    a, b = two(tmp_path, root=changed(etc__hostname=file(b"other\n")))
    assert "partition root: /etc/hostname: content differs at byte 0" in lines(a / name, b / name)[0]


def test_single_archives_are_compared(tmp_path: Path) -> None:
    a, b = two_files(tmp_path, "initrd", make_cpio(SAMPLE), make_cpio(changed(empty=None)))
    assert lines(a, b) == ["/empty: only in A (file)"]
    assert diff(a, b, Silent())[0].level == "cpio"


def test_what_is_equal_inside_still_differs(tmp_path: Path) -> None:
    archive = make_cpio(SAMPLE)
    a, b = two_files(tmp_path, "initrd", zstandard.compress(archive, 1), zstandard.compress(archive, 19))
    (line,) = lines(a, b)
    assert line.startswith("the same cpio inside, but content differs at byte ")


def test_files_of_different_kinds_cannot_be_compared(tmp_path: Path) -> None:
    a, b = two_files(tmp_path, "x", make_cpio(SAMPLE), make_qcow2(bytes(512)))
    with pytest.raises(UsageError, match=r"is cpio, .* is qcow2"):
        diff(a, b, Silent())


def test_an_artifact_of_another_kind_in_a_dist_is_a_difference(tmp_path: Path) -> None:
    a, b = two_files(tmp_path, "initrd", make_cpio(SAMPLE), make_qcow2(bytes(512)))
    assert "cpio against qcow2; content differs at byte 0" in lines(a.parent, b.parent)[0]


def test_an_artifact_whose_first_bytes_are_damaged_is_a_difference(tmp_path: Path) -> None:
    a, b = two_files(tmp_path, "x", make_cpio(SAMPLE), b"x" + make_cpio(SAMPLE)[1:])
    assert lines(a, b)[0].startswith("cpio against data; content differs at byte 0")


def test_folders_that_are_no_dists_cannot_be_compared(tmp_path: Path) -> None:
    make_dist(tmp_path / "dist")
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="is no dist"):
        diff(tmp_path / "dist", tmp_path / "other", Silent())


def test_a_pipe_is_a_usage_error_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a regular file"):
        diff(tmp_path / "pipe", tmp_path / "pipe", Silent())


def test_a_directory_and_a_file_are_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not of one kind"):
        diff(tmp_path, tmp_path / "file", Silent())
    with pytest.raises(UsageError, match="not there"):
        diff(tmp_path, tmp_path / "absent", Silent())


def test_names_from_an_artifact_reach_the_terminal_without_control_characters(tmp_path: Path) -> None:
    a, b = two_files(tmp_path, "initrd", make_cpio(SAMPLE), make_cpio(SAMPLE | {"/\x1b[31mred": file(b"")}))
    assert lines(a, b) == ["/\\x1b[31mred: only in B (file)"]


def test_a_damaged_inside_is_told_and_the_byte_named(tmp_path: Path) -> None:
    archive = make_cpio(SAMPLE)
    a, b = two_files(tmp_path, "initrd", archive, archive[:-200])
    (line,) = lines(a, b)
    assert "cannot be looked into further" in line
    assert f"content differs at byte {len(archive) - 200} " in line


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_a_difference_and_never_a_crash(tmp_path: Path, data: st.DataObject) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    if not a.exists():
        make_dist(a)
        make_dist(b)
    path = b / data.draw(st.sampled_from(sorted(path.name for path in b.iterdir())))
    good = path.read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    path.write_bytes(good[:at] + bytes([good[at] ^ (1 << data.draw(st.integers(0, 7)))]) + good[at + 1 :])
    try:
        found = diff(a, b, Silent())
        assert found
        assert all(row.where.startswith(path.name) for row in found)
    finally:
        path.write_bytes(good)


def test_a_bomb_is_not_unpacked_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stereo.check.diff._LARGEST_DISK", 1 << 20)
    a, b = two_files(tmp_path, "x.zst", compress(b"small"), zstandard.compress(bytes(64 << 20)))
    (line,) = lines(a, b)
    assert "more than the 1048576 bytes" in line
