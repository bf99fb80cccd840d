"""Programs come from the tools tree, started by its own loader, or else from the host."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.vm.programs import Programs, own_architecture

LOADER = "usr/lib64/ld-linux-x86-64.so.2"
ARM_LOADER = "usr/lib/ld-linux-aarch64.so.1"


@pytest.fixture(autouse=True)
def on_x86_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def make_tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    return root


def test_programs_of_a_tools_tree_run_on_its_own_libraries(tmp_path: Path) -> None:
    tree = make_tree(
        tmp_path,
        LOADER,
        "usr/bin/qemu-system-x86_64",
        "usr/bin/qemu-img",
        "usr/share/OVMF/OVMF_CODE_4M.fd",
        "usr/share/OVMF/OVMF_VARS_4M.fd",
    )
    programs = Programs.find(tree)
    prefix = (str(tree / LOADER), "--library-path", str(tree / "usr/lib/x86_64-linux-gnu"))
    assert programs.qemu_img == (*prefix, str(tree / "usr/bin/qemu-img"))
    assert programs.qemu[:4] == (*prefix, str(tree / "usr/bin/qemu-system-x86_64"))
    assert programs.qemu[4:] == ("-L", str(tree / "usr/share/qemu"), "-L", str(tree / "usr/share/seabios"))
    assert programs.closed_environment()["QEMU_MODULE_DIR"] == str(tree / "usr/lib/x86_64-linux-gnu/qemu")
    assert programs.need_firmware().code == tree / "usr/share/OVMF/OVMF_CODE_4M.fd"


def test_guests_of_another_architecture_have_a_qemu_and_firmware_of_their_own(tmp_path: Path) -> None:
    firmware = ("usr/share/AAVMF/AAVMF_CODE.fd", "usr/share/AAVMF/AAVMF_VARS.fd")
    tree = make_tree(tmp_path, LOADER, "usr/bin/qemu-system-aarch64", "usr/bin/qemu-img", *firmware)
    programs = Programs.find(tree, Architecture.AARCH64)
    assert programs.arch is Architecture.AARCH64
    assert programs.qemu[3] == str(tree / "usr/bin/qemu-system-aarch64")
    assert programs.need_firmware().code == tree / firmware[0]
    with pytest.raises(StereoError, match="qemu-system-x86_64: not in the tools tree"):
        Programs.find(tree, Architecture.X86_64)


@pytest.mark.parametrize("guest", Architecture)
def test_on_an_arm_host_the_tools_tree_is_of_that_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guest: Architecture
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    tree = make_tree(tmp_path, ARM_LOADER, f"usr/bin/qemu-system-{guest}", "usr/bin/qemu-img", "usr/bin/passt")
    prefix = (str(tree / ARM_LOADER), "--library-path", str(tree / "usr/lib/aarch64-linux-gnu"))
    programs = Programs.find(tree, guest)
    assert programs.qemu[:4] == (*prefix, str(tree / f"usr/bin/qemu-system-{guest}"))
    assert programs.need_passt()[:3] == prefix


def test_a_host_that_is_none_of_ours_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(StereoError, match=r"no machines on riscv64 .one of x86_64, aarch64"):
        own_architecture()


def test_what_serves_machines_comes_from_the_same_tree(tmp_path: Path) -> None:
    needed = (LOADER, "usr/bin/qemu-system-x86_64", "usr/bin/qemu-img")
    programs = Programs.find(make_tree(tmp_path, *needed, "usr/bin/passt", "usr/libexec/virtiofsd"))
    prefix = (str(tmp_path / LOADER), "--library-path", str(tmp_path / "usr/lib/x86_64-linux-gnu"))
    assert programs.need_passt() == (*prefix, str(tmp_path / "usr/bin/passt"))
    assert programs.need_virtiofsd() == (*prefix, str(tmp_path / "usr/libexec/virtiofsd"))
    assert programs.visible == (str(tmp_path / "usr"),)
    assert programs.lacks(sandbox=True) == ["UEFI firmware"]


def test_missing_helpers_are_told_when_they_are_needed(tmp_path: Path) -> None:
    programs = Programs.find(make_tree(tmp_path, LOADER, "usr/bin/qemu-system-x86_64", "usr/bin/qemu-img"))
    with pytest.raises(StereoError, match="no passt for the network of machines"):
        programs.need_passt()
    with pytest.raises(StereoError, match="no virtiofsd for the shares of machines"):
        programs.need_virtiofsd()
    assert programs.lacks(sandbox=True) == ["UEFI firmware", "passt", "virtiofsd"]
    assert programs.lacks(sandbox=False) == ["UEFI firmware"]


def test_a_tools_tree_without_qemu_is_told(tmp_path: Path) -> None:
    make_tree(tmp_path, LOADER)
    with pytest.raises(StereoError, match="qemu-system-x86_64: not in the tools tree"):
        Programs.find(tmp_path)


def test_without_a_tools_tree_the_hosts_programs_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree(tmp_path, "qemu-system-x86_64", "qemu-img")
    monkeypatch.setenv("PATH", str(tmp_path))
    programs = Programs.find()
    assert programs.qemu == (str(tmp_path / "qemu-system-x86_64"),)
    assert programs.origin == "the host"


@pytest.mark.parametrize(("there", "missing"), [("qemu-img", "qemu-system-x86_64"), ("qemu-system-x86_64", "qemu-img")])
def test_a_host_without_one_of_them_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str, missing: str
) -> None:
    make_tree(tmp_path, there)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StereoError, match=f"no {missing} on this machine .install qemu-system-x86"):
        Programs.find()


def test_a_host_without_the_qemu_of_another_architecture_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path, "qemu-img", "qemu-system-x86_64")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StereoError, match=r"no qemu-system-aarch64.*install qemu-system-arm, .*qemu-efi-aarch64"):
        Programs.find(None, Architecture.AARCH64)


def test_missing_firmware_is_told_when_it_is_needed(tmp_path: Path) -> None:
    make_tree(tmp_path, LOADER, "usr/bin/qemu-system-x86_64", "usr/bin/qemu-img", "usr/share/OVMF/OVMF_CODE_4M.fd")
    programs = Programs.find(tmp_path)
    with pytest.raises(StereoError, match="no UEFI firmware"):
        programs.need_firmware()


def test_the_version_is_what_qemu_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree(tmp_path, "qemu-img")
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text("#!/bin/sh\necho 'QEMU emulator version 10.0.13 (Debian 1:10)'\necho Copyright\n")
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert Programs.find().version() == "10.0.13 (Debian 1:10)"
