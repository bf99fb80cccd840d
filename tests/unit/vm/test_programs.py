"""Programs come from the tools tree, started by its own loader, or else from the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from stereo.errors import StereoError
from stereo.vm.programs import Programs

LOADER = "usr/lib64/ld-linux-x86-64.so.2"


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
