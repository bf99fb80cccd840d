"""What vfkit is told, word for word; and that it understands what was meant, by the rules of its own parser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from makers.vfkit.arguments import Options, Refused, parse
from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.vm.machine import Bridged, Disk, Forward, Gated, KernelBoot, MachineSpec, Nat, Share
from stereo.vm.vfkit_command import Wiring, command_arguments

WIRING = Wiring(
    disk=Path("/state/desk/disk.raw"),
    console=Path("/tmp/stereo-vm-ab12/serial.log"),
    rest=Path("/tmp/stereo-vm-ab12/rest.sock"),
    control=Path("/tmp/stereo-vm-ab12/control.sock"),
)
KERNEL = MachineSpec(
    Disk(Path("/dist/stereos.img"), "raw"),
    Architecture.AARCH64,
    KernelBoot(Path("/dist/bzImage"), Path("/dist/initrd"), "quiet console=hvc0 lsm=landlock,lockdown"),
    cpus=4,
    memory=2048,
)
EFI = replace(KERNEL, kernel=None)
SHARE = Share("share0", Path("/home/me/my work"))


def understood(spec: MachineSpec, wiring: Wiring = WIRING) -> Options:
    return parse(command_arguments(spec, wiring))


def test_the_linux_loader_word_for_word() -> None:
    assert command_arguments(KERNEL, WIRING) == [
        *("--cpus", "4", "--memory", "2048"),
        "--bootloader",
        'linux,kernel=/dist/bzImage,initrd=/dist/initrd,cmdline="quiet console=hvc0 lsm=landlock,lockdown"',
        *("--device", "virtio-blk,path=/state/desk/disk.raw"),
        *("--device", "virtio-rng"),
        *("--device", "virtio-serial,logFilePath=/tmp/stereo-vm-ab12/serial.log"),
        *("--device", "virtio-vsock,port=1024,socketURL=/tmp/stereo-vm-ab12/control.sock,connect"),
        *("--restful-uri", "unix:///tmp/stereo-vm-ab12/rest.sock"),
    ]


def test_the_efi_loader_keeps_its_variables_where_it_is_told() -> None:
    arguments = command_arguments(EFI, replace(WIRING, variables=Path("/scratch/efi-variables")))
    assert arguments[4:6] == ["--bootloader", "efi,variable-store=/scratch/efi-variables,create"]
    assert not any("kernel" in word for word in arguments)


def test_nat_is_a_card_with_an_address_that_stays() -> None:
    arguments = command_arguments(replace(KERNEL, network=Nat()), replace(WIRING, mac="52:54:00:01:02:03"))
    assert "virtio-net,mac=52:54:00:01:02:03,nat" in arguments


@pytest.mark.parametrize("network", [None, Gated(), Gated((8080,))])
def test_without_a_network_and_behind_a_gate_there_is_no_card(network: Gated | None) -> None:
    assert understood(replace(KERNEL, network=network)).cards == []


def test_the_gate_is_what_the_guest_connects_to() -> None:
    wiring = replace(WIRING, gate={3128: Path("/tmp/stereo-vm-ab12/gate-3128.sock")})
    arguments = command_arguments(replace(KERNEL, network=Gated()), wiring)
    assert "virtio-vsock,port=3128,socketURL=/tmp/stereo-vm-ab12/gate-3128.sock,listen" in arguments
    assert [(each.port, each.listen) for each in parse(arguments).vsocks] == [(1024, False), (3128, True)]


def test_shares_by_tag() -> None:
    assert understood(replace(KERNEL, shares=(SHARE,))).shares == [("share0", "/home/me/my work")]


def test_an_initrd_that_was_made_for_this_start_goes_before_that_of_the_dist() -> None:
    assert understood(KERNEL, replace(WIRING, initrd=Path("/scratch/initrd"))).initrd == "/scratch/initrd"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (replace(KERNEL, arch=Architecture.X86_64), "runs aarch64, not x86_64"),
        (replace(KERNEL, disk=Disk(Path("/dist/stereos.qcow2"), "qcow2")), "raw disks only"),
        (replace(KERNEL, network=Bridged("br0")), "no bridged network"),
        (replace(KERNEL, network=Nat((Forward(5353, 53, "udp"),))), "cannot forward 5353/udp"),
        (replace(EFI, credentials={"a": "b"}), "no credentials with UEFI"),
        (replace(KERNEL, shares=(replace(SHARE, read_only=True),)), "opens every share for writing"),
        (replace(KERNEL, shares=(replace(SHARE, path=Path("/a,readonly")),)), "a comma"),
        (replace(KERNEL, shares=(replace(SHARE, path=Path("/a\udcff")),)), "UTF-8"),
        (replace(KERNEL, kernel=KernelBoot(Path('/a"b'), Path("/initrd"), "")), "a quotation mark"),
        (replace(KERNEL, kernel=KernelBoot(Path("/k"), Path("/initrd"), 'a="b c"')), "command line"),
        (replace(KERNEL, kernel=KernelBoot(Path("/k"), Path("/initrd"), "a\0b")), "command line"),
    ],
)
def test_what_vfkit_cannot_be_told_is_refused(spec: MachineSpec, words: str) -> None:
    with pytest.raises(StereoError, match=words):
        command_arguments(spec, replace(WIRING, variables=Path("/scratch/efi-variables")))


@pytest.mark.parametrize("path", ["/tmp/with space/s", "/tmp/%41", "/tmp/a?b", f"/tmp/{'x' * 99}", "relative"])
def test_sockets_have_plain_and_short_paths(path: str) -> None:
    for broken in (replace(WIRING, rest=Path(path)), replace(WIRING, control=Path(path))):
        with pytest.raises(StereoError, match="socket"):
            command_arguments(KERNEL, broken)


TEXTS = st.text(st.characters(exclude_characters="/"), min_size=1, max_size=30).filter(lambda text: text not in "..")


@given(folder=TEXTS, file=TEXTS, cmdline=st.text(max_size=40))
def test_what_is_not_refused_is_understood_as_meant(folder: str, file: str, cmdline: str) -> None:
    disk, kernel = Path("/", folder, file), Path("/", file)
    spec = replace(KERNEL, kernel=KernelBoot(kernel, disk, cmdline), shares=(Share("t", disk),), network=Nat())
    try:
        arguments = command_arguments(spec, replace(WIRING, disk=disk, console=kernel))
    except StereoError:
        return
    heard = parse(arguments)
    assert (heard.disks, heard.consoles, heard.shares) == ([str(disk)], [str(kernel)], [("t", str(disk))])
    assert (heard.kernel, heard.initrd, heard.cmdline) == (str(kernel), str(disk), cmdline)
    assert (heard.cards, heard.rng, heard.rest) == ([""], True, str(WIRING.rest))


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--bootloader", "bios"],
        ["--bootloader", "linux,firmware=/x"],
        ["--bootloader", 'linux,cmdline="a'],
        ["--bootloader", "efi,create=yes"],
        ["--bootloader", "efi", "--cpus", "-1"],
        ["--bootloader", "efi", "--device", "virtio-9p"],
        ["--bootloader", "efi", "--device", "virtio-fs,sharedDir=/x,readonly"],
        ["--bootloader", "efi", "--device", "virtio-blk"],
        ["--bootloader", "efi", "--device", "virtio-net"],
        ["--bootloader", "efi", "--device", "virtio-net,nat,mac=1"],
        ["--bootloader", "efi", "--device", "virtio-vsock,port=x,socketURL=/s"],
        ["--bootloader", "efi", "--restful-uri", "unix://host/path"],
        ["--bootloader", "efi", "--machine", "virt"],
    ],
)
def test_the_fake_refuses_what_vfkit_refuses(words: list[str]) -> None:
    with pytest.raises(Refused):
        parse(words)
