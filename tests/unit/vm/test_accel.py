"""An accelerator is believed when a tiny guest ran on it, and only for as long as nothing changed."""

from __future__ import annotations

import json
import platform
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stereo.errors import StereoError, UsageError
from stereo.model.architecture import Architecture
from stereo.report import Silent
from stereo.vm import accel
from stereo.vm.accel import Verdict, choose, probe, verdicts
from stereo.vm.machine import Accelerator
from stereo.vm.programs import Programs
from stereo.vm.tinyguest import boot_disk, kernel_image

MakePrograms = Callable[[str], Programs]
KVM, TCG = Accelerator.KVM, Accelerator.TCG
X86, ARM = Architecture.X86_64, Architecture.AARCH64
DONE = "exits with 85"


@pytest.fixture(autouse=True)
def kvm_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "_absent", lambda _: "")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "platform", "linux")


def test_the_boot_sector_is_one() -> None:
    disk = boot_disk()
    assert len(disk) == 1 << 20
    assert disk[510:512] == b"\x55\xaa"


def test_the_tiny_kernel_is_one_as_loaders_want_it() -> None:
    head = struct.unpack("<IIQQQ24s4sI", kernel_image()[:64])
    assert head == (0x14000010, 0, 0, 2 << 20, 0b1010, bytes(24), b"ARM\x64", 0)
    assert len(kernel_image()) % 4 == 0


@pytest.mark.parametrize(("arch", "done"), [(X86, DONE), (ARM, "says stereo")])
def test_a_guest_that_ends_as_only_ours_can_makes_the_accelerator_usable(
    fake_programs: MakePrograms, arch: Architecture, done: str
) -> None:
    verdict = probe(KVM, replace(fake_programs(done), arch=arch))
    assert verdict.usable
    assert verdict.reason.startswith("a tiny guest ran")


@pytest.mark.parametrize("behaviour", ["exits with 0", "exits with 1", "exits with 134", "refuses to start"])
@pytest.mark.parametrize(("arch", "of_the_other"), [(X86, "says stereo"), (ARM, DONE)])
def test_any_other_end_makes_it_unusable(
    fake_programs: MakePrograms, arch: Architecture, of_the_other: str, behaviour: str
) -> None:
    for each in (behaviour, of_the_other):
        assert not probe(KVM, replace(fake_programs(each), arch=arch)).usable


@pytest.mark.parametrize(
    ("system", "host", "guest", "there"),
    [
        ("linux", "x86_64", X86, (KVM, TCG)),
        ("linux", "x86_64", ARM, (TCG,)),
        ("linux", "aarch64", ARM, (KVM, TCG)),
        ("linux", "aarch64", X86, (TCG,)),
        ("darwin", "arm64", ARM, (Accelerator.HVF, TCG)),
        ("darwin", "arm64", X86, (TCG,)),
    ],
)
def test_instructions_of_another_architecture_are_emulated(
    monkeypatch: pytest.MonkeyPatch, system: str, host: str, guest: Architecture, there: tuple[Accelerator, ...]
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: host)
    assert accel.candidates(guest) == there


def test_each_architecture_has_verdicts_of_its_own(fake_programs: MakePrograms, tmp_path: Path) -> None:
    native, foreign = fake_programs(DONE), replace(fake_programs("exits with 1"), arch=ARM)
    assert choose(native, tmp_path, Silent(), environment={}) is KVM
    with pytest.raises(StereoError, match="no accelerator works, not even emulation: tcg"):
        choose(foreign, tmp_path, Silent(), environment={})
    assert {path.name for path in tmp_path.glob("acc*")} == {f"accelerators-{arch}.json" for arch in Architecture}


def test_what_cannot_run_the_guest_is_not_taken_on_demand(fake_programs: MakePrograms, tmp_path: Path) -> None:
    programs = replace(fake_programs(DONE), arch=ARM)
    with pytest.raises(UsageError, match=r"STEREO_ACCEL: kvm runs x86_64 on this machine, not aarch64 .*tcg"):
        choose(programs, tmp_path, Silent(), environment={"STEREO_ACCEL": "kvm"})
    assert choose(programs, tmp_path, Silent(), environment={"STEREO_ACCEL": "tcg"}) is TCG


@pytest.mark.parametrize("environment", [{}, {"STEREO_ACCEL": "tcg"}])
def test_that_machines_of_another_architecture_are_emulated_is_told(
    fake_programs: MakePrograms, tmp_path: Path, environment: dict[str, str]
) -> None:
    class Listening(Silent):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    report = Listening()
    choose(fake_programs(DONE), tmp_path, report, environment=environment)
    assert report.notes == []
    choose(replace(fake_programs("says stereo"), arch=ARM), tmp_path, report, environment=environment)
    assert report.notes == ["Machines of aarch64 are emulated here, which is slow"]


def test_qemus_own_reason_is_kept(fake_programs: MakePrograms) -> None:
    assert probe(KVM, fake_programs("refuses to start")).reason == "QEMU failed: qemu: -device nonsense: no"


def test_a_guest_that_hangs_is_killed_even_if_it_resists(fake_programs: MakePrograms) -> None:
    began = time.monotonic()
    verdict = probe(KVM, fake_programs("hangs"), seconds=0.5)
    assert not verdict.usable
    assert "hung and was killed after 0.5 s" in verdict.reason
    assert time.monotonic() - began < 15


def test_verdicts_are_cached_until_something_changes(
    fake_programs: MakePrograms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Accelerator] = []

    def count(accelerator: Accelerator, programs: Programs, *, seconds: float) -> Verdict:
        tried.append(accelerator)
        return Verdict(accelerator, accelerator is TCG, "a reason")

    monkeypatch.setattr(accel, "probe", count)
    programs = fake_programs(DONE)
    for _ in range(2):
        assert [v.usable for v in verdicts(programs, tmp_path, Silent())] == [False, True]
    assert tried == [KVM, TCG]
    verdicts(programs, tmp_path, Silent(), refresh=True)
    assert tried == [KVM, TCG] * 2
    monkeypatch.setattr(accel, "_cpu_model", lambda: "another machine")
    verdicts(programs, tmp_path, Silent())
    assert tried == [KVM, TCG] * 3


def test_that_emulation_failed_is_not_remembered(fake_programs: MakePrograms, tmp_path: Path) -> None:
    assert not verdicts(fake_programs("exits with 1"), tmp_path, Silent())[1].usable
    stored = json.loads((tmp_path / "accelerators-x86_64.json").read_text())
    assert [row["accelerator"] for row in stored["verdicts"]] == ["kvm"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"key": 1}', '{"key": "K", "verdicts": [{"accelerator": "x"}]}'])
def test_a_damaged_cache_is_made_anew(
    fake_programs: MakePrograms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(accel, "_key", lambda _: "K")
    (tmp_path / "accelerators-x86_64.json").write_text(content)
    assert choose(fake_programs(DONE), tmp_path, Silent(), environment={}) is KVM


def test_the_best_one_that_works_is_chosen(
    fake_programs: MakePrograms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Verdict(KVM, False, "hangs"), Verdict(TCG, True, "runs")]
    monkeypatch.setattr(accel, "verdicts", lambda *_, **__: found)
    assert choose(fake_programs(DONE), tmp_path, Silent(), environment={}) is TCG


def test_the_environment_overrides_the_probe(fake_programs: MakePrograms, tmp_path: Path) -> None:
    chosen = choose(fake_programs("refuses to start"), tmp_path, Silent(), environment={"STEREO_ACCEL": "kvm"})
    assert chosen is KVM


def test_an_unknown_accelerator_in_the_environment_is_refused(fake_programs: MakePrograms, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"STEREO_ACCEL: no accelerator is called 'warp' .one of kvm, hvf, tcg"):
        choose(fake_programs(DONE), tmp_path, Silent(), environment={"STEREO_ACCEL": "warp"})


def test_if_nothing_works_every_reason_is_told(fake_programs: MakePrograms, tmp_path: Path) -> None:
    with pytest.raises(StereoError, match=r"kvm: QEMU failed.*; tcg: QEMU failed"):
        choose(fake_programs("refuses to start"), tmp_path, Silent(), environment={})
