"""The command line is a pure function of specification and wiring: here it is, word for word."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from stereo.errors import StereoError
from stereo.vm.machine import Accelerator, Disk, Forward, KernelBoot, MachineSpec, Nat
from stereo.vm.qemu_command import Wiring, command_arguments

WIRING = Wiring(qmp=3, console=4, control=5, overlay=Path("/run/m/overlay.qcow2"))
UEFI = replace(WIRING, firmware_code=Path("/fw/CODE.fd"), firmware_variables=Path("/run/m/variables.fd"))
RAW = MachineSpec(Disk(Path("/dist/stereos.img"), "raw"))
KERNEL = replace(
    RAW,
    kernel=KernelBoot(Path("/dist/bzImage"), Path("/dist/initrd"), "quiet roothash=ab"),
    accelerator=Accelerator.KVM,
)


def golden(spec: MachineSpec, wiring: Wiring) -> list[str]:
    return command_arguments(spec, wiring, seccomp=True)


def values(arguments: list[str], option: str) -> list[str]:
    return [value for name, value in pairwise(arguments) if name == option]


def test_direct_kernel_boot_word_for_word() -> None:
    assert " ".join(golden(KERNEL, WIRING)) == (
        "-nodefaults -no-user-config -display none "
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny "
        "-name stereo,debug-threads=on -machine q35,smm=off -accel kvm -cpu host -smp 2 -m 1024M -no-reboot "
        "-kernel /dist/bzImage -initrd /dist/initrd -append quiet roothash=ab "
        '-blockdev {"node-name": "disk", "driver": "qcow2", '
        '"file": {"driver": "file", "filename": "/run/m/overlay.qcow2", "read-only": false}, '
        '"backing": {"driver": "raw", "read-only": true, '
        '"file": {"driver": "file", "filename": "/dist/stereos.img", "read-only": true}}, '
        '"cache": {"no-flush": true}, "discard": "unmap"} '
        "-device virtio-blk-pci,drive=disk "
        "-chardev socket,id=qmp,fd=3 -mon chardev=qmp,mode=control "
        "-chardev socket,id=console,fd=4 -serial chardev:console "
        "-chardev socket,id=control,fd=5 -device virtio-serial-pci,id=ports,max_ports=2 "
        "-device virtserialport,bus=ports.0,chardev=control,name=io.stereos.control "
        "-object rng-builtin,id=entropy -device virtio-rng-pci,rng=entropy"
    )


def test_uefi_boot_has_the_firmware_read_only_and_variables_of_its_own() -> None:
    arguments = golden(RAW, UEFI)
    code, variables, _ = (json.loads(value) for value in values(arguments, "-blockdev"))
    assert values(arguments, "-machine") == ["q35,smm=off,pflash0=code,pflash1=variables"]
    assert code == {
        "node-name": "code",
        "driver": "raw",
        "read-only": True,
        "file": {"driver": "file", "filename": "/fw/CODE.fd", "read-only": True},
    }
    assert variables["file"]["filename"] == "/run/m/variables.fd"
    assert "virtio-blk-pci,drive=disk,bootindex=0" in arguments
    assert "-kernel" not in arguments


def test_a_qcow2_is_never_allowed_to_name_another_file() -> None:
    spec = MachineSpec(Disk(Path("/dist/stereos.qcow2"), "qcow2"))
    disk = json.loads(values(golden(spec, UEFI), "-blockdev")[-1])
    assert disk["backing"]["driver"] == "qcow2"
    assert disk["backing"]["backing"] is None


@pytest.mark.parametrize("spec", [RAW, KERNEL])
def test_the_artifact_is_opened_read_only(spec: MachineSpec) -> None:
    base = json.loads(values(golden(spec, UEFI), "-blockdev")[-1])["backing"]
    assert base["read-only"] is True
    assert base["file"]["read-only"] is True


def test_emulation_uses_a_thread_per_cpu() -> None:
    assert values(golden(RAW, UEFI), "-accel") == ["tcg,thread=multi"]


def test_there_is_no_network_unless_asked_for() -> None:
    assert not any("net" in word for word in golden(RAW, WIRING))
    assert "virtio-net-pci,netdev=net0,romfile=" in golden(replace(RAW, network=Nat()), WIRING)


def test_a_forwarded_port_is_open_on_loopback_alone() -> None:
    arguments = golden(replace(RAW, network=Nat((Forward(2222, 22),))), WIRING)
    assert values(arguments, "-netdev") == ["user,id=net0,hostfwd=tcp:127.0.0.1:2222-:22"]


def test_changes_that_stay_are_flushed_when_the_guest_asks_for_it() -> None:
    spec = replace(RAW, disk=replace(RAW.disk, changes=Path("/kept/overlay.qcow2")))
    overlay = json.loads(values(golden(spec, UEFI), "-blockdev")[-1])
    assert overlay["cache"] == {"no-flush": False}


def test_a_path_cannot_smuggle_in_options() -> None:
    spec = MachineSpec(Disk(Path('/dist/a,read-only=off,"x.img'), "raw"))
    disk = json.loads(values(golden(spec, UEFI), "-blockdev")[-1])
    assert disk["backing"]["file"]["filename"] == '/dist/a,read-only=off,"x.img'


def test_without_seccomp_there_is_no_sandbox_option() -> None:
    assert "-sandbox" not in command_arguments(RAW, UEFI, seccomp=False)


def test_a_command_line_with_a_nul_byte_is_refused() -> None:
    spec = replace(KERNEL, kernel=KernelBoot(Path("/k"), Path("/i"), "quiet\0init=/bin/sh"))
    with pytest.raises(StereoError, match="NUL"):
        golden(spec, WIRING)


def test_the_same_machine_gives_the_same_words() -> None:
    assert golden(KERNEL, WIRING) == golden(KERNEL, WIRING)
