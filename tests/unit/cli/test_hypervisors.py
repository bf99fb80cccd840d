"""`stereo check` and `stereo vmlinux`: what they answer in words and as JSON, and with which status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from makers.bootable import make_bootable
from makers.kernels import PVH_ENTRY, make_elf
from makers.published import publish_in_layout
from stereo.assemble.dist import read_manifest
from stereo.cli import check as check_module
from stereo.cli.app import run
from stereo.hypervisors.known import HYPERVISORS
from stereo.model.architecture import Architecture

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arm") / "dist"
    make_bootable(folder, Architecture.AARCH64)
    return folder


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    make_bootable(tmp_path / "dist")
    return tmp_path / "dist"


def said(capsys: Capture, status: int, *words: str | Path) -> str:
    capsys.readouterr()
    assert run([str(word) for word in words]) == status
    return capsys.readouterr().out


def answered(capsys: Capture, status: int, *words: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said(capsys, status, *words, "--json"))
    return found


def test_every_known_hypervisor_can_be_asked_and_no_other() -> None:
    assert tuple(one.name for one in HYPERVISORS) == check_module._NAMES


def test_the_status_says_whether_it_fits_all_that_were_asked(dist: Path, arm: Path, capsys: Capture) -> None:
    said(capsys, 0, "check", arm)
    said(capsys, 1, "check", dist)
    said(capsys, 0, "check", dist, "--for", "qemu", "--for", "firecracker")
    said(capsys, 1, "check", dist, "--for", "qemu", "--for", "applevirt")
    said(capsys, 2, "check", dist, "--for", "xen")
    said(capsys, 2, "check", dist / "nowhere")
    said(capsys, 1, "check", dist.parent)


def test_what_does_not_fit_is_told_row_by_row(dist: Path, capsys: Capture) -> None:
    lines = said(capsys, 0, "check", dist, "--for", "firecracker").splitlines()
    assert lines[0] == "sample-mixtape 2026.01.02.0 x86_64-linux"
    assert "firecracker: fits, as kernel" in lines
    assert "  no     raw, qcow2: loader: has no UEFI: a kernel must be given" in lines
    assert "  lacks  raw, qcow2, kernel: shares: has no virtiofs and no 9p, so no shares" in lines
    assert not any(line.startswith("  ok") for line in lines)
    assert "# firecracker, kernel" in lines
    assert f"stereo vmlinux {dist}" in lines


def test_with_v_what_holds_is_told_too(dist: Path, capsys: Capture) -> None:
    lines = said(capsys, 0, "check", dist, "--for", "qemu", "-v").splitlines()
    assert "  ok     raw, qcow2, kernel: architecture: x86_64" in lines


def test_another_architecture_than_is_wanted_is_told(dist: Path, capsys: Capture) -> None:
    text = said(capsys, 1, "check", dist, "--for", "qemu", "--arch", "aarch64")
    assert "architecture: aarch64 is wanted, and its manifest says x86_64" in text


def test_json_has_every_row_and_every_step(arm: Path, capsys: Capture) -> None:
    found = answered(capsys, 0, "check", arm, "--for", "libvirt")
    assert (found["name"], found["arch"], found["fits"]) == ("sample-mixtape", "aarch64-linux", True)
    (libvirt,) = found["hypervisors"]
    assert [form["form"] for form in libvirt["forms"]] == ["raw", "qcow2", "kernel"]
    for form in libvirt["forms"]:
        assert len(form["rows"]) == 13
        assert {row["verdict"] for row in form["rows"]} == {"ok"}
        copy, domain, start = form["steps"]
        assert (copy["run"][0], start["run"][0]) == ("cp", "virsh")
        assert domain["content"].startswith("<domain")


def test_text_of_a_hostile_dist_reaches_no_terminal(dist: Path, capsys: Capture) -> None:
    (dist / "cmdline").write_bytes(b"roothash=\x1b[2J\x07")
    assert "\x1b" not in said(capsys, 0, "check", dist, "--for", "qemu", "-v")
    (dist / "cmdline").write_bytes("roothash=\u202e".encode())
    assert "\u202e" not in said(capsys, 0, "check", dist, "--for", "qemu", "-v")


def test_vmlinux_says_what_it_did(dist: Path, capsys: Capture) -> None:
    size = len(make_elf())
    assert said(capsys, 0, "vmlinux", dist) == f"{dist}/vmlinux: written, {size} bytes\n"
    assert said(capsys, 0, "vmlinux", dist) == f"{dist}/vmlinux: was there already, {size} bytes\n"
    found = answered(capsys, 0, "vmlinux", dist, "-o", dist.parent / "kernel")
    assert (found["file"], found["size"], found["written"]) == (str(dist.parent / "kernel"), size, True)
    assert found["pvh_entry"] == PVH_ENTRY


def test_vmlinux_of_aarch64_is_a_wrong_request_and_of_an_altered_dist_a_failure(
    dist: Path, arm: Path, capsys: Capture
) -> None:
    assert run(["vmlinux", str(arm)]) == 2
    assert "take the uncompressed Image, which its bzImage is" in capsys.readouterr().err
    (dist / "bzImage").write_bytes(b"another")
    assert run(["vmlinux", str(dist)]) == 1
    assert "not the file that the manifest describes" in capsys.readouterr().err


def test_verify_tells_of_an_altered_vmlinux(dist: Path, capsys: Capture) -> None:
    said(capsys, 0, "vmlinux", dist)
    said(capsys, 0, "verify", dist, "--no-policy")
    (dist / "vmlinux").write_bytes(make_elf()[:-1] + b"x")
    assert answered(capsys, 1, "verify", dist, "--no-policy")["failed"] == ["vmlinux"]


def test_diff_knows_nothing_of_vmlinux(dist: Path, capsys: Capture) -> None:
    make_bootable(dist.parent / "other")
    said(capsys, 0, "vmlinux", dist)
    said(capsys, 0, "diff", dist, dist.parent / "other")


def test_vmlinux_is_not_published(dist: Path, tmp_path: Path, capsys: Capture) -> None:
    digest = answered(capsys, 0, "vmlinux", dist)["sha256"]
    publish_in_layout(tmp_path / "layout", dist)
    blobs = {path.name for path in (tmp_path / "layout/blobs/sha256").iterdir()}
    assert read_manifest(dist).artifacts.kernel.bzimage.sha256 in blobs
    assert digest not in blobs
