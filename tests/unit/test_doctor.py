"""What the doctor says of machines that lack one thing."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from stereo import doctor
from stereo.build import foreign, sandbox
from stereo.build.foreign import Emulator
from stereo.doctor import Check, Status, largest_range, namespace_limits, run_checks
from stereo.errors import StereoError
from stereo.inputs.npmrc import NpmConfig
from stereo.inputs.sources import Sources
from stereo.model.architecture import Architecture
from stereo.paths import Cache
from stereo.report import Silent
from stereo.vm import accel, enclosure
from stereo.vm.accel import Verdict
from stereo.vm.machine import Accelerator
from stereo.vm.programs import Firmware, Programs, own_architecture

Diagnose = Callable[[], dict[str, Check]]


@pytest.fixture
def well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Diagnose:
    """A machine on which all is well; tests break it."""
    keyring = tmp_path / "debian-archive-keyring.gpg"
    keyring.touch()
    sources = Sources(
        main=("file:///mirror/debian/",),
        security=("file:///mirror/security/",),
        keyring=keyring,
        snapshot="file:///mirror/snapshot",
        npm=NpmConfig(registry="http://user:secret@registry.invalid/"),
    )
    monkeypatch.setattr(Sources, "from_host", lambda: sources)
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000_000_000))
    monkeypatch.setattr(sandbox, "check", lambda: None)
    monkeypatch.setattr(foreign, "check", lambda arch, _: Emulator(arch, tmp_path / "emulator"))
    monkeypatch.setattr(enclosure, "check", lambda: None)
    monkeypatch.setattr(doctor, "_subordinate_ids", lambda _: Check("subordinate ids", Status.OK, ""))
    monkeypatch.setattr(doctor, "_pip", lambda: Check("pip", Status.OK, ""))
    monkeypatch.setattr(Programs, "version", lambda _: "10.0")
    monkeypatch.setattr(accel, "verdicts", lambda *_, **__: [Verdict(Accelerator.TCG, True, "ran")])
    programs = Programs(
        qemu=("qemu",),
        qemu_img=("qemu-img",),
        firmware=Firmware(tmp_path / "code", tmp_path / "vars"),
        origin="the tools tree",
        arch=Architecture.X86_64,
        passt=("passt",),
        virtiofsd=("virtiofsd",),
    )

    def diagnose() -> dict[str, Check]:
        return {
            check.name: check
            for check in run_checks(Cache(tmp_path), Silent(), lambda arch: replace(programs, arch=arch))
        }

    return diagnose


FOREIGN = f"programs of {next(arch for arch in Architecture if arch != platform.machine())}"


def test_where_programs_of_the_other_architecture_do_not_run_the_command_that_mends_it_is_told(
    well: Diagnose, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Emulator:
        raise StereoError("this machine runs no programs of riscv", hint="sudo modprobe binfmt_misc")

    monkeypatch.setattr(foreign, "check", refuse)
    found = well()[FOREIGN]
    assert (found.status, found.fix) == (Status.WARN, "sudo modprobe binfmt_misc")


def test_who_runs_programs_of_the_other_architecture_is_told(well: Diagnose, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "of their own" in well()[FOREIGN].detail
    monkeypatch.setattr(foreign, "check", lambda arch, _: Emulator(arch, None))
    assert well()[FOREIGN].detail.startswith("the host runs them")


@pytest.fixture
def other() -> str:
    return next(f"machines of {arch}" for arch in Architecture if arch is not own_architecture())


def test_what_runs_machines_of_the_other_architecture_is_tried(well: Diagnose, other: str) -> None:
    assert (well()[other].status, well()[other].detail) == (Status.OK, "emulated; ran")


def test_without_what_runs_those_a_build_brings_it(tmp_path: Path, other: str, well: Diagnose) -> None:
    programs = Programs(("qemu",), ("qemu-img",), None, "the host", own_architecture())

    def own_alone(arch: Architecture) -> Programs:
        if arch is not own_architecture():
            raise StereoError(f"no qemu-system-{arch} on this machine")
        return programs

    for find in (own_alone, lambda arch: replace(programs, arch=arch)):
        check = {check.name: check for check in run_checks(Cache(tmp_path), Silent(), find)}[other]
        assert check.status is Status.WARN
        assert check.fix
        assert "a build brings what runs them" in check.fix


def test_where_machines_cannot_be_shut_in_that_is_told(well: Diagnose, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise StereoError("python exited with status 125:\nthe enclosure of QEMU: Operation not permitted")

    monkeypatch.setattr(enclosure, "check", refuse)
    found = well()["namespaces for machines"]
    assert found.status is Status.MISSING
    assert found.detail == "the enclosure of QEMU: Operation not permitted"
    assert found.fix


def test_what_serves_machines_is_found_where_qemu_is(well: Diagnose) -> None:
    assert [well()[name].detail for name in ("passt", "virtiofsd")] == ["passt", "virtiofsd"]


def test_on_a_machine_that_has_everything_all_is_well(well: Diagnose) -> None:
    assert [check for check in well().values() if check.status is not Status.OK or check.fix] == []


def test_what_the_doctor_says_holds_no_password(well: Diagnose) -> None:
    assert "secret" not in str(well())


def test_this_very_machine_can_be_diagnosed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "verdicts", lambda *_, **__: [])
    checks = run_checks(Cache(tmp_path / "not" / "there"), Silent(), lambda arch: Programs.find(None, arch))
    assert all(check.detail and (check.fix or check.status is Status.OK) for check in checks)


@pytest.mark.parametrize(
    ("program", "status", "package"),
    [
        ("apt-get", Status.MISSING, "apt"),
        ("dpkg-deb", Status.MISSING, "dpkg"),
        ("unshare", Status.MISSING, "util-linux"),
        ("mount", Status.MISSING, "mount"),
        ("git", Status.WARN, "git"),
    ],
)
def test_a_missing_program_is_named_with_its_package(
    well: Diagnose, monkeypatch: pytest.MonkeyPatch, program: str, status: Status, package: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda asked: None if asked == program else f"/usr/bin/{asked}")
    check = well()[program]
    assert (check.status, check.fix) == (status, f"install the package {package}")


def test_a_python_that_is_too_old_is_missing(well: Diagnose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PYTHON", (99, 0))
    assert well()["Python"].status is Status.MISSING


def test_namespaces_that_cannot_be_made_are_missing(well: Diagnose, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise StereoError("cannot make namespaces\nlong story", hint="do this")

    monkeypatch.setattr(sandbox, "check", fail)
    monkeypatch.setattr(doctor, "namespace_limits", lambda _: [])
    check = well()["namespaces"]
    assert (check.status, check.detail, check.fix) == (Status.MISSING, "cannot make namespaces", "do this")


@pytest.mark.parametrize(
    ("setting", "value", "fix"),
    [
        ("user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=15000"),
        ("kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ],
)
def test_a_setting_that_forbids_namespaces_is_named(tmp_path: Path, setting: str, value: str, fix: str) -> None:
    (tmp_path / setting).parent.mkdir()
    (tmp_path / setting).write_text(value + "\n")
    assert namespace_limits(tmp_path) == [fix]


def test_settings_that_allow_namespaces_are_not_named(tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    (tmp_path / "user/max_user_namespaces").write_text("95994\n")
    assert namespace_limits(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("me:100000:65536\n", 65536),
        ("1000:100000:65536\n", 65536),
        ("you:100000:65536\n", 0),
        ("me:1:10\nme:100:70000\n", 70000),
        ("me:1\nme:1:x\nme\n:::\n\xff", 0),
        ("", 0),
    ],
)
def test_the_largest_range_of_subordinate_ids_counts(tmp_path: Path, text: str, size: int) -> None:
    (tmp_path / "subuid").write_text(text)
    assert largest_range(tmp_path / "subuid", "me", 1000) == size


def test_without_the_file_there_are_no_subordinate_ids(tmp_path: Path) -> None:
    assert largest_range(tmp_path / "subuid", "me", 1000) == 0


def test_an_ordinary_user_without_subordinate_ids_is_told_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    check = doctor._subordinate_ids(tmp_path)
    assert check.status is Status.MISSING
    assert check.fix
    assert "usermod --add-subuids" in check.fix


def test_an_ordinary_user_without_newuidmap_is_told_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert doctor._subordinate_ids(tmp_path).fix == "install the package uidmap"


def test_a_disk_that_is_nearly_full_is_told(well: Diagnose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_500_000_000))
    check = well()["disk space here"]
    assert check.status is Status.WARN
    assert check.detail.startswith("1.5 GB free")


@pytest.mark.parametrize(
    ("change", "name", "status"),
    [
        ({"main": ()}, "Debian's main archive", Status.MISSING),
        ({"security": ()}, "Debian's security archive", Status.MISSING),
        ({"keyring": Path("/nowhere")}, "Debian's keyring", Status.MISSING),
        ({"snapshot": None}, "snapshot archive", Status.WARN),
        ({"npm": NpmConfig()}, "npm registry", Status.MISSING),
    ],
)
def test_a_missing_source_is_told(
    well: Diagnose, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], name: str, status: Status
) -> None:
    lacking = replace(Sources.from_host(), **change)  # type: ignore[arg-type]
    monkeypatch.setattr(Sources, "from_host", lambda: lacking)
    check = well()[name]
    assert check.status is status
    assert check.fix


def test_a_keyring_from_before_trixie_is_told(well: Diagnose, tmp_path: Path) -> None:
    (tmp_path / "debian-archive-bookworm-stable.gpg").touch()
    assert well()["Debian's keyring"].status is Status.MISSING
    (tmp_path / "debian-archive-trixie-stable.gpg").touch()
    assert well()["Debian's keyring"].status is Status.OK


def test_without_qemu_builds_still_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: Architecture) -> Programs:
        raise StereoError("no qemu-system-x86_64 on this machine")

    check = {check.name: check for check in run_checks(Cache(tmp_path), Silent(), none)}["QEMU"]
    assert check.status is Status.WARN
    assert check.fix
    assert "the first build brings one" in check.fix


@pytest.mark.parametrize(
    ("verdict", "status", "fix"),
    [
        (Verdict(Accelerator.KVM, False, "a tiny guest hung"), Status.WARN, "run emulated"),
        (Verdict(Accelerator.KVM, False, "no access to /dev/kvm"), Status.WARN, "--groups kvm"),
        (Verdict(Accelerator.TCG, False, "QEMU failed"), Status.MISSING, "--refresh"),
    ],
)
def test_an_accelerator_that_does_not_work_is_told(
    well: Diagnose, monkeypatch: pytest.MonkeyPatch, verdict: Verdict, status: Status, fix: str
) -> None:
    monkeypatch.setattr(accel, "verdicts", lambda *_, **__: [verdict])
    check = well()[f"accelerator {verdict.accelerator}"]
    assert check.status is status
    assert check.fix
    assert fix in check.fix
