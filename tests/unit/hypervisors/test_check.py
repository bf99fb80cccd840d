"""check: what a dist holds is read from its files, every hypervisor judges it, and what is missing is named."""

from __future__ import annotations

import gzip
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from makers.altering import reseal
from makers.bootable import EARLY, make_bootable, make_initrd, make_system
from makers.disk import make_cpio, make_pe
from makers.kernels import PVH_ENTRY, as_kernel, make_bzimage, make_elf, make_image
from makers.node import Node, file, symlink
from stereo.artifacts.kernel import Kernel
from stereo.artifacts.region import FormatError, Region
from stereo.assemble.dist import read_manifest
from stereo.errors import UsageError
from stereo.hypervisors.answer import Answer, answers
from stereo.hypervisors.facts import Facts, Fault, read_facts
from stereo.hypervisors.initrd import drivers_of
from stereo.hypervisors.judge import Judged, Verdict
from stereo.hypervisors.known import HYPERVISORS
from stereo.model.architecture import Architecture
from stereo.vm.boot import Form

X86_64, AARCH64 = Architecture.X86_64, Architecture.AARCH64


def facts(folder: Path) -> Facts:
    return read_facts(folder, read_manifest(folder))


def asked(folder: Path, name: str, wanted: Architecture | None = None) -> Answer:
    (answer,) = answers(facts(folder), [name], wanted, Path("/srv"))
    return answer


def judged(answer: Answer, form: Form) -> Judged:
    return next(way.judged for way in answer.ways if way.judged.form is form)


def said(judged: Judged, verdict: Verdict) -> dict[str, str]:
    return {row.what: row.message for row in judged.rows if row.verdict is verdict}


def refused(folder: Path, name: str = "qemu", form: Form = Form.KERNEL) -> dict[str, str]:
    return said(judged(asked(folder, name), form), Verdict.NO)


def lacking(folder: Path, name: str = "qemu", form: Form = Form.KERNEL) -> dict[str, str]:
    return said(judged(asked(folder, name), form), Verdict.LACKS)


@pytest.fixture(scope="module")
def x86(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("x86") / "dist"
    make_bootable(folder)
    return folder


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arm") / "dist"
    make_bootable(folder, AARCH64)
    return folder


def made(tmp_path: Path, arch: Architecture = X86_64, **other: Any) -> Path:
    make_bootable(tmp_path / "dist", arch, **other)
    return tmp_path / "dist"


@pytest.mark.parametrize(
    ("name", "x86_forms", "arm_forms"),
    [
        ("applevirt", [], ["raw", "kernel"]),
        ("qemu", ["raw", "qcow2", "kernel"], ["raw", "qcow2", "kernel"]),
        ("libvirt", ["raw", "qcow2", "kernel"], ["raw", "qcow2", "kernel"]),
        ("cloud-hypervisor", ["raw", "qcow2", "kernel"], ["raw", "qcow2", "kernel"]),
        ("firecracker", ["kernel"], ["kernel"]),
    ],
)
def test_which_forms_of_a_sound_dist_each_hypervisor_runs(
    name: str, x86_forms: list[str], arm_forms: list[str], x86: Path, arm: Path
) -> None:
    for folder, forms in ((x86, x86_forms), (arm, arm_forms)):
        answer = asked(folder, name)
        assert [way.judged.form.value for way in answer.ways if way.judged.fits] == forms
        assert answer.fits == bool(forms)
        assert all(bool(way.steps) == way.judged.fits and not way.note for way in answer.ways)


def test_without_names_all_of_them_are_asked(x86: Path) -> None:
    assert [one.name for one in answers(facts(x86), [], None, Path("/srv"))] == [one.name for one in HYPERVISORS]


def test_what_is_in_a_dist_is_read_from_its_files(x86: Path, arm: Path) -> None:
    one, other = facts(x86), facts(arm)
    assert not isinstance(one.files.kernel, Fault)
    assert (one.files.kernel.form, one.files.kernel.elf) == (Kernel.BZIMAGE, PVH_ENTRY)
    assert one.unified.drivers == one.files.drivers
    assert one.files.drivers == frozenset({"virtio_blk", "virtio_mmio", "erofs", "overlay", "dm_verity"})
    assert not isinstance(one.builtin, Fault)
    assert "virtio_pci" in one.builtin
    assert one.modules == frozenset({"virtio_net", "vmw_vsock_virtio_transport"})
    assert (one.loader, other.loader) == (X86_64, AARCH64)
    assert not isinstance(other.files.kernel, Fault)
    assert other.files.kernel.form is Kernel.IMAGE


def test_another_architecture_than_was_asked_for_is_told(x86: Path) -> None:
    no = said(judged(asked(x86, "qemu", AARCH64), Form.RAW), Verdict.NO)
    assert no == {"architecture": "aarch64 is wanted, and its manifest says x86_64"}


def test_a_kernel_for_another_architecture_than_the_manifest_says_is_told(tmp_path: Path) -> None:
    assert "its kernel is for aarch64" in refused(made(tmp_path, bzimage=make_image()))["architecture"]


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (gzip.compress(make_image()), "takes uncompressed arm64 Image, and bzImage is gzip"),
        (make_elf(machine=183), "and bzImage is ELF vmlinux"),
        (b"no kernel at all" * 100, "no kernel that is known"),
        (make_image(flags=1), "big-endian"),
    ],
)
def test_what_apples_loader_cannot_take_is_told(tmp_path: Path, kernel: bytes, message: str) -> None:
    assert message in refused(made(tmp_path, AARCH64, bzimage=kernel), "applevirt")["kernel"]


def test_a_bzimage_without_a_kernel_that_comes_out_is_none_for_firecracker(tmp_path: Path) -> None:
    folder = made(tmp_path, bzimage=make_bzimage(packed=gzip.compress(make_elf())))
    assert "packed by gzip" in refused(folder, "firecracker")["kernel"]
    assert refused(folder, "qemu") == {}


def test_a_kernel_that_is_elf_already_is_given_as_it_is(tmp_path: Path) -> None:
    folder = made(tmp_path, bzimage=make_elf())
    (way,) = [way for way in asked(folder, "firecracker").ways if way.judged.fits]
    assert not any("vmlinux" in str(step) for step in way.steps)
    assert f"{folder}/bzImage" in str(way.steps[1])


def test_an_elf_kernel_without_a_pvh_entry_is_for_firecracker_alone(tmp_path: Path) -> None:
    folder = made(tmp_path, bzimage=make_elf(notes=()))
    assert refused(folder, "firecracker") == {}
    for name in ("qemu", "libvirt", "cloud-hypervisor"):
        assert f"by which {name} enters one" in refused(folder, name)["kernel"]
        assert refused(made(tmp_path / name, bzimage=make_elf()), name) == {}


@pytest.mark.parametrize("missing", EARLY)
def test_a_driver_that_the_initrd_needs_and_lacks_is_named(tmp_path: Path, missing: str) -> None:
    folder = made(tmp_path, initrd=make_initrd(*(name for name in EARLY if name != missing)))
    name = "firecracker" if missing == "virtio_mmio" else "qemu"
    assert refused(folder, name) == {"devices": f"neither kernel nor initrd has {missing.replace('-', '_')}"}


def test_a_driver_that_only_the_root_has_comes_too_late(tmp_path: Path) -> None:
    early = [name for name in EARLY if name != "virtio_blk"]
    root = make_system("drivers/virtio/virtio_pci", late=("drivers/block/virtio_blk.ko.xz",))
    assert "virtio_blk" in refused(made(tmp_path, root=root, initrd=make_initrd(*early)))["devices"]


def test_a_file_system_of_endless_files_is_not_walked_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path)
    monkeypatch.setattr("stereo.hypervisors.bounds._MOST_ENTRIES", 5)
    assert "more than 5 files" in str(facts(folder).builtin)
    assert "more than 5 files" in str(facts(folder).files.drivers)


def test_without_pci_only_firecracker_is_left(tmp_path: Path) -> None:
    folder = made(tmp_path, root=make_system("drivers/tty/serial/8250/8250"))
    assert {one.name for one in answers(facts(folder), [], None, Path("/srv")) if one.fits} == {"firecracker"}


def test_what_would_be_missing_is_told_and_does_not_hinder(tmp_path: Path) -> None:
    folder = made(tmp_path, root=make_system("drivers/virtio/virtio_pci", late=()))
    assert set(lacking(folder, "qemu")) == {"console", "control", "network", "shares"}
    assert set(lacking(folder, "cloud-hypervisor")) == {"console", "control", "network", "shares"}
    assert "no vmw_vsock_virtio_transport" in lacking(folder, "firecracker")["control"]
    assert refused(folder) == {}


def test_firecracker_has_no_shares_and_no_power_switch(x86: Path, arm: Path) -> None:
    assert set(lacking(x86, "firecracker")) == {"shares", "power off"}
    assert set(lacking(arm, "firecracker")) == {"shares"}
    assert refused(x86, "firecracker", Form.RAW) == {"loader": "has no UEFI: a kernel must be given"}
    assert set(refused(x86, "firecracker", Form.QCOW2)) == {"disk", "loader"}


def test_a_console_that_the_command_line_does_not_name_is_named_where_it_can_be(tmp_path: Path) -> None:
    folder = made(tmp_path, AARCH64, words="console=ttyAMA0 quiet")
    answer = asked(folder, "applevirt")
    direct, firmware = judged(answer, Form.KERNEL), judged(answer, Form.RAW)
    assert (direct.console, direct.add_console) == ("hvc0", True)
    assert (firmware.console, firmware.add_console) == (None, False)
    assert "has hvc0, which the command line does not name" in said(firmware, Verdict.LACKS)["console"]


def test_the_last_console_that_is_there_is_used(arm: Path) -> None:
    assert judged(asked(arm, "qemu"), Form.RAW).console == "hvc0"
    assert judged(asked(arm, "firecracker"), Form.KERNEL).console == "ttyS0"


@pytest.mark.parametrize("words", ["quiet", "quiet roothash=" + "0" * 64])
def test_a_command_line_with_another_root_hash_is_refused(tmp_path: Path, words: str) -> None:
    folder = made(tmp_path)
    (folder / "cmdline").write_text(words)
    assert "and the manifest" in refused(folder)["command line"]


def test_a_command_line_longer_than_the_kernel_takes_is_refused(tmp_path: Path) -> None:
    hash_length = len(" roothash=") + 64
    fits = "console=ttyS0 ".ljust(2047 - hash_length, "x")
    assert refused(made(tmp_path, words=fits)) == {}
    make_bootable(tmp_path / "long", words=f"{fits}x")
    assert refused(tmp_path / "long") == {"command line": "is 2048 characters long, and the kernel takes 2047"}


def test_a_console_that_is_named_beside_counts_for_the_length(tmp_path: Path) -> None:
    fits = "console=ttyAMA0 ".ljust(2047 - len(" roothash=") - 64, "x")
    folder = made(tmp_path, AARCH64, words=fits)
    assert refused(folder, "qemu") == {}
    assert "is 2060 characters long" in refused(folder, "applevirt")["command line"]


@pytest.mark.parametrize("more", [b" \xff\xfe", b" \x1b[2J", b" ".ljust(65 << 10, b"x")])
def test_what_is_no_command_line_is_refused(tmp_path: Path, more: bytes) -> None:
    folder = made(tmp_path)
    with (folder / "cmdline").open("ab") as words:
        words.write(more)
    assert set(refused(folder)) == {"command line"}
    assert "of text" in refused(folder)["command line"] or "cannot be" in refused(folder)["command line"]


@pytest.mark.parametrize(
    ("name", "row"),
    [("stereos.img", "disk"), ("bzImage", "kernel"), ("initrd", "initrd"), ("cmdline", "command line")],
)
def test_a_link_a_pipe_and_nothing_are_no_files(tmp_path: Path, name: str, row: str) -> None:
    folder = made(tmp_path)
    whole = folder / name
    aside = whole.rename(tmp_path / name)
    assert "No such file" in refused(folder)[row]
    whole.symlink_to(aside)
    assert row in refused(folder)
    whole.unlink()
    os.mkfifo(whole)
    assert "not a regular file" in refused(folder)[row]


def test_the_qcow2_disk_alone_is_enough_to_be_told_of(tmp_path: Path) -> None:
    folder = made(tmp_path)
    (folder / "stereos.img").unlink()
    assert refused(folder, form=Form.QCOW2) == {}
    assert set(refused(folder, form=Form.RAW)) == {"disk"}


def test_of_a_disk_that_is_here_compressed_alone_it_is_told_how_to_have_it(tmp_path: Path) -> None:
    folder = made(tmp_path)
    for name in ("stereos.img", "stereos.qcow2"):
        (folder / name).unlink()
        (folder / f"{name}.zst").touch()
    no = refused(folder)
    assert no["disk"].startswith(
        "stereos.img: No such file but its compressed form: `zstd -d --sparse stereos.img.zst`"
    )
    # What nobody could look at is not said to be missing.
    assert no["devices"] == "cannot be told: no disk of it can be read"
    assert set(lacking(folder).values()) == {"cannot be told: no disk of it can be read"}
    (folder / "stereos.img.zst").unlink()
    assert "No such file" in refused(folder)["disk"]


def test_a_disk_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path)
    with (folder / "stereos.img").open("r+b") as disk:
        disk.truncate((folder / "stereos.img").stat().st_size - 100)
    assert "are no whole disk" in refused(folder)["disk"]


def test_an_initrd_without_init_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path, initrd={path: node for path, node in make_initrd(*EARLY).items() if path != "/init"})
    assert refused(folder)["initrd"] == "initrd: an initrd without /init"


def test_a_dist_without_an_efi_program_boots_by_its_kernel_alone(tmp_path: Path) -> None:
    folder = made(tmp_path)
    disk = (folder / "stereos.img").read_bytes()
    name, other = ("B O O T X".replace(" ", "\0").encode(), b"B\0O\0O\0T\0Y")  # the first letters of a long name
    assert disk.count(name) == 1
    (folder / "stereos.img").write_bytes(disk.replace(name, other))
    reseal(folder)
    assert "0 files /EFI/BOOT/BOOTX64.EFI, not one" in refused(folder, form=Form.RAW)["loader"]
    assert refused(folder) == {}


def test_a_folder_that_is_not_there_is_a_wrong_request(x86: Path) -> None:
    with pytest.raises(UsageError, match="no directory"):
        read_facts(x86 / "nowhere", read_manifest(x86))


def test_a_module_list_that_never_ends_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path, root=make_system(*("x" * 100 for _ in range(11_000))))
    assert isinstance(facts(folder).builtin, Fault)
    assert "devices" in refused(folder)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["stereos.img", "stereos.qcow2", "bzImage", "initrd", "cmdline"]),
    st.lists(st.tuples(st.integers(0, 1 << 30), st.binary(min_size=1, max_size=16)), min_size=1, max_size=6),
)
def test_no_altered_byte_breaks_the_check(tmp_path: Path, name: str, changes: list[tuple[int, bytes]]) -> None:
    folder = tmp_path / "dist"
    if not folder.exists():
        make_bootable(folder)
    whole = (folder / name).read_bytes()
    altered = bytearray(whole)
    for at, data in changes:
        at %= len(altered)
        altered[at : at + len(data)] = data[: len(altered) - at]
    (folder / name).write_bytes(altered)
    try:
        for answer in answers(facts(folder), [], None, Path("/srv")):
            assert len(answer.ways) == 3
    finally:
        (folder / name).write_bytes(whole)


@given(st.lists(st.sampled_from(["virtio_blk", "erofs", "a-b", "virtio-rng"]), max_size=5, unique=True))
def test_modules_of_an_initrd_are_told_by_the_kernels_names(names: list[str]) -> None:
    found = drivers_of(Region.of_bytes(make_cpio(make_initrd(*names)), "initrd"), X86_64)
    assert found == {name.replace("-", "_") for name in names}


def test_a_module_that_is_there_and_not_loaded_is_none(tmp_path: Path) -> None:
    folder = made(tmp_path, initrd=make_initrd(*EARLY, loaded=EARLY[1:]))
    assert refused(folder)["devices"] == f"neither kernel nor initrd has {EARLY[0]}"


def test_a_module_that_the_initrd_loads_and_lacks_is_named(tmp_path: Path) -> None:
    folder = made(tmp_path, initrd=make_initrd(*EARLY, loaded=("dm-mod", *EARLY)))
    assert "without /lib/modules/dm-mod.ko, which it loads" in refused(folder)["initrd"]


SHELL = "/bin/busybox"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"/bin/sh": None}, "without /bin/sh, which runs /init"),
        ({SHELL: None}, "without /bin/sh, which runs /init"),
        ({"/bin/sh": symlink("sh")}, "without /bin/sh, which runs /init"),
        ({"/bin/sh": symlink("../../bin/./busybox")}, ""),
        ({"/bin/sh": symlink("/bin/busybox")}, ""),
        ({SHELL: file(make_elf(machine=183), 0o755)}, "/bin/sh is no program for x86_64"),
        ({SHELL: file(b"#!/bin/sh\n", 0o755)}, "/bin/sh is no program"),
        ({SHELL: file(make_elf())}, "/bin/sh is no file that may be run"),
        ({SHELL: file(make_elf(loader=b"/lib64/ld.so\0"), 0o755)}, "without /lib64/ld.so, which loads /bin/sh"),
        (
            {
                SHELL: file(make_elf(loader=b"/lib64/ld.so\0"), 0o755),
                "/lib64": symlink("lib"),
                "/lib/ld.so": file(b"ld"),
            },
            "",
        ),
        ({"/init": file(b"#!\n", 0o755)}, "without , which runs /init"),
        ({"/init": file(b"#!/bin/sh\n")}, "/init is no file that may be run"),
        ({"/init": file(make_elf(), 0o755)}, ""),
        ({"/init": file(b"nothing", 0o755)}, "/init is no program"),
    ],
)
def test_an_initrd_that_cannot_begin_is_refused(tmp_path: Path, changes: dict[str, Node | None], message: str) -> None:
    files = {**make_initrd(*EARLY), **changes}
    folder = made(tmp_path, initrd={path: node for path, node in files.items() if node})
    assert message in refused(folder).get("initrd", "")
    assert bool(refused(folder)) == bool(message)


@given(st.lists(st.sampled_from(["..", ".", "", "bin", "sh", "busybox", "init"]), max_size=8))
def test_no_link_of_an_initrd_is_followed_for_ever(steps: list[str]) -> None:
    files = {**make_initrd(*EARLY), "/bin/sh": symlink("/".join(steps))}
    with suppress(FormatError):
        drivers_of(Region.of_bytes(make_cpio(files), "initrd"), X86_64)


def test_an_initrd_without_a_list_of_modules_is_refused(tmp_path: Path) -> None:
    files = {path: node for path, node in make_initrd(*EARLY).items() if path != "/modules.list"}
    assert "an initrd without /modules.list" in refused(made(tmp_path, initrd=files))["initrd"]


@pytest.mark.parametrize(
    ("before", "missing"), [((), "dm_bufio, dm_mod"), (("dm-mod",), "dm_bufio"), (("dm-mod", "dm-bufio"), "")]
)
def test_what_a_module_needs_is_loaded_before_it(before: tuple[str, ...], missing: str, tmp_path: Path) -> None:
    """As kernel modules say it: in .modinfo."""
    files = make_initrd(*before, *EARLY)
    files["/lib/modules/dm-verity.ko"] = file(b"\x7fELF\0license=GPL\0depends=dm-mod,dm-bufio\0intree=Y\0")
    found = refused(made(tmp_path, initrd=files)).get("initrd", "")
    assert (f"/lib/modules/dm-verity.ko needs {missing}, which" in found) if missing else not found


def test_a_kernel_that_was_cut_off_is_told(tmp_path: Path) -> None:
    """By what it says as an EFI program: an arm64 Image tells its size nowhere else."""
    whole = as_kernel(make_pe([(".text", bytes(20000))], machine=0xAA64), AARCH64)
    assert "kernel" not in refused(made(tmp_path / "whole", AARCH64, bzimage=whole))
    assert "outside its" in refused(made(tmp_path / "cut", AARCH64, bzimage=whole[:-9000]))["kernel"]


def test_a_kernel_that_does_not_unpack_starts_nowhere(tmp_path: Path) -> None:
    packed = bytearray(make_bzimage(make_elf(text=200_000)))
    packed[-20:-12] = bytes(8)
    assert "is damaged" in refused(made(tmp_path, bzimage=bytes(packed)))["kernel"]


def test_a_raw_disk_that_could_be_taken_for_qcow2_is_refused(tmp_path: Path) -> None:
    """Its boot code is nobody's business but that of who guesses formats."""
    folder = made(tmp_path)
    with (folder / "stereos.img").open("r+b") as disk:
        disk.write(b"QFI\xfb\0\0\0\3")
    assert "begins as qcow2" in refused(folder, "cloud-hypervisor", Form.RAW)["disk"]
    assert "begins as qcow2" in refused(folder, "cloud-hypervisor", Form.KERNEL)["disk"]
    assert asked(folder, "qemu").fits  # as qcow2, whose content is a disk like any other
