"""The command line is a pure function of specification and wiring: here it is, word for word."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.vm.machine import Accelerator, Bridged, Disk, Forward, Gated, KernelBoot, MachineSpec, Nat, Share
from stereo.vm.qemu_command import Wiring, command_arguments

WIRING = Wiring(
    qmp=3,
    console=4,
    control=5,
    overlay="/dev/fdset/6",
    disk="/dev/fdset/7",
    kernel="/kernel",
    initrd="/initrd",
    descriptors=(6, 7),
)
UEFI = replace(WIRING, firmware_code="/dev/fdset/8", firmware_variables="/dev/fdset/9")
RAW = MachineSpec(Disk(Path("/dist/stereos.img"), "raw"), Architecture.X86_64)
KERNEL = replace(
    RAW,
    kernel=KernelBoot(Path("/dist/bzImage"), Path("/dist/initrd"), "quiet roothash=ab"),
    accelerator=Accelerator.KVM,
)


def golden(spec: MachineSpec, wiring: Wiring) -> list[str]:
    return command_arguments(spec, wiring, seccomp=True)


ARM = replace(KERNEL, arch=Architecture.AARCH64, accelerator=Accelerator.TCG)


def values(arguments: list[str], option: str) -> list[str]:
    return [value for name, value in pairwise(arguments) if name == option]


def test_direct_kernel_boot_word_for_word() -> None:
    assert " ".join(golden(KERNEL, WIRING)) == (
        "-nodefaults -no-user-config -display none "
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny "
        "-name stereo,debug-threads=on -machine q35,smm=off -accel kvm -cpu host -smp 2 -m 1024M -no-reboot "
        "-add-fd fd=6,set=6 -add-fd fd=7,set=7 "
        "-kernel /kernel -initrd /initrd -append quiet roothash=ab "
        '-blockdev {"node-name": "disk", "driver": "qcow2", '
        '"file": {"driver": "file", "filename": "/dev/fdset/6", "read-only": false}, '
        '"backing": {"driver": "raw", "read-only": true, '
        '"file": {"driver": "file", "filename": "/dev/fdset/7", "read-only": true}}, '
        '"cache": {"no-flush": true}, "discard": "unmap"} '
        "-device virtio-blk-pci,drive=disk "
        "-chardev socket,id=qmp,fd=3 -mon chardev=qmp,mode=control "
        "-chardev socket,id=console,fd=4 -serial chardev:console "
        "-chardev socket,id=control,fd=5 -device virtio-serial-pci,id=ports,max_ports=2 "
        "-device virtserialport,bus=ports.0,chardev=control,name=io.stereos.control "
        "-object rng-builtin,id=entropy -device virtio-rng-pci,rng=entropy"
    )


def test_arm_differs_in_the_machine_and_the_processor_alone() -> None:
    x86, arm = golden(replace(KERNEL, accelerator=Accelerator.TCG), WIRING), golden(ARM, WIRING)
    assert [pair for pair in zip(x86, arm, strict=True) if pair[0] != pair[1]] == [
        ("q35,smm=off", "virt,gic-version=max"),
        ("max,erms=off,fsrm=off,la57=off", "max,pauth=off,sve=off,sme=off,lpa2=off"),
    ]


def test_arm_has_its_firmware_and_shares_as_x86_has_them() -> None:
    spec = replace(ARM, kernel=None, shares=(Share("data", Path("/srv")),))
    arguments = golden(spec, replace(UEFI, shares=(9,)))
    assert values(arguments, "-machine") == [
        "virt,gic-version=max,pflash0=code,pflash1=variables,memory-backend=memory"
    ]


def test_with_an_accelerator_the_processor_is_the_hosts_own() -> None:
    for arch in Architecture:
        for accelerator in (Accelerator.KVM, Accelerator.HVF):
            arguments = golden(replace(KERNEL, arch=arch, accelerator=accelerator), WIRING)
            assert (values(arguments, "-accel"), values(arguments, "-cpu")) == ([accelerator], ["host"])


@pytest.mark.parametrize("arch", Architecture)
def test_there_is_no_device_that_was_not_asked_for(arch: Architecture) -> None:
    arguments = golden(replace(KERNEL, arch=arch, network=Nat()), replace(WIRING, network=9))
    devices = {word.partition(",")[0] for word in values(arguments, "-device")}
    assert devices == {"virtio-blk-pci", "virtio-serial-pci", "virtserialport", "virtio-rng-pci", "virtio-net-pci"}
    assert "-nodefaults" in arguments


def test_uefi_boot_has_the_firmware_read_only_and_variables_of_its_own() -> None:
    arguments = golden(RAW, UEFI)
    code, variables, _ = (json.loads(value) for value in values(arguments, "-blockdev"))
    assert values(arguments, "-machine") == ["q35,smm=off,pflash0=code,pflash1=variables"]
    assert code == {
        "node-name": "code",
        "driver": "raw",
        "read-only": True,
        "file": {"driver": "file", "filename": "/dev/fdset/8", "read-only": True},
    }
    assert variables["file"]["filename"] == "/dev/fdset/9"
    assert "virtio-blk-pci,drive=disk,bootindex=0" in arguments
    assert "-kernel" not in arguments


def test_a_qcow2_is_never_allowed_to_name_another_file() -> None:
    spec = MachineSpec(Disk(Path("/dist/stereos.qcow2"), "qcow2"), Architecture.X86_64)
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


def test_behind_nat_frames_go_over_a_socket_to_passt() -> None:
    arguments = golden(replace(RAW, network=Nat((Forward(2222, 22),))), replace(WIRING, network=9))
    assert values(arguments, "-netdev") == ["stream,id=net0,server=off,addr.type=fd,addr.str=9"]
    assert "virtio-net-pci,netdev=net0,romfile=" in arguments
    assert not any("2222" in word for word in arguments)


def test_a_gated_guest_has_the_network_of_a_qemu_that_has_none() -> None:
    arguments = golden(replace(RAW, network=Gated((8080,))), WIRING)
    assert values(arguments, "-netdev") == ["user,id=net0,ipv6=off"]


def test_on_a_bridge_the_guest_has_an_address_of_its_own() -> None:
    arguments = golden(replace(RAW, network=Bridged("br0")), replace(WIRING, network=9, mac="52:54:00:01:02:03"))
    assert values(arguments, "-netdev") == ["tap,id=net0,fd=9,vhost=off"]
    assert "virtio-net-pci,netdev=net0,romfile=,mac=52:54:00:01:02:03" in arguments


def test_shares_come_from_virtiofsd_and_the_memory_is_shared_with_it() -> None:
    arguments = golden(replace(RAW, shares=(Share("data", Path("/home/a,b=c/data")),)), replace(WIRING, shares=(9,)))
    assert values(arguments, "-object")[0] == "memory-backend-memfd,id=memory,size=1024M,share=on"
    assert values(arguments, "-machine") == ["q35,smm=off,memory-backend=memory"]
    assert "socket,id=share-data,fd=9" in arguments
    assert '{"driver": "vhost-user-fs-pci", "chardev": "share-data", "tag": "data"}' in arguments
    assert not any("/home" in word for word in arguments)


def test_credentials_come_from_files_and_never_stand_in_the_command_line() -> None:
    spec = replace(RAW, credentials={"stereos.token": "very secret"})
    arguments = golden(spec, replace(WIRING, credentials=("/credential0",)))
    assert values(arguments, "-smbios") == ["type=11,path=/credential0"]
    assert not any("secret" in word or "token" in word for word in arguments)


def test_changes_that_stay_are_flushed_when_the_guest_asks_for_it() -> None:
    spec = replace(RAW, disk=replace(RAW.disk, changes=Path("/kept/overlay.qcow2")))
    overlay = json.loads(values(golden(spec, UEFI), "-blockdev")[-1])
    assert overlay["cache"] == {"no-flush": False}


def test_no_path_of_the_host_is_in_the_command_line() -> None:
    hostile = Path('/dist/a,read-only=off,"x.img')
    spec = replace(KERNEL, disk=Disk(hostile, "raw", changes=hostile), kernel=KernelBoot(hostile, hostile, "quiet"))
    assert not any("dist" in word for word in golden(spec, WIRING))


def test_without_seccomp_there_is_no_sandbox_option() -> None:
    assert "-sandbox" not in command_arguments(RAW, UEFI, seccomp=False)


def test_a_command_line_with_a_nul_byte_is_refused() -> None:
    spec = replace(KERNEL, kernel=KernelBoot(Path("/k"), Path("/i"), "quiet\0init=/bin/sh"))
    with pytest.raises(StereoError, match="NUL"):
        golden(spec, WIRING)


def test_the_same_machine_gives_the_same_words() -> None:
    assert golden(KERNEL, WIRING) == golden(KERNEL, WIRING)
