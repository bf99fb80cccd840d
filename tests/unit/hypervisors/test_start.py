"""The commands that are shown: as each hypervisor documents, writing to no dist, and a shell reads them as meant."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from makers.bootable import make_bootable
from makers.vfkit import arguments as vfkit
from stereo.hypervisors.answer import Way, answers
from stereo.hypervisors.facts import Facts, Fault, read_facts
from stereo.hypervisors.start import Run, Write
from stereo.model.architecture import Architecture
from stereo.vm.boot import Form

X86_64, AARCH64 = Architecture.X86_64, Architecture.AARCH64
PLACE = Path("/srv/machine")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[Architecture, Facts]:
    found = {}
    for arch in Architecture:
        folder = tmp_path_factory.mktemp("dists") / "with a space"
        found[arch] = read_facts(folder, make_bootable(folder, arch))
    return found


def ways(facts: Facts, name: str) -> Iterator[Way]:
    (answer,) = answers(facts, [name], None, PLACE)
    yield from (way for way in answer.ways if way.judged.fits)


def commands(way: Way) -> list[tuple[str, ...]]:
    return [step.argv for step in way.steps if isinstance(step, Run)]


def cmdline(facts: Facts) -> str:
    assert not isinstance(facts.files.cmdline, Fault)
    return facts.files.cmdline


def after(argv: tuple[str, ...], option: str) -> str:
    assert argv.count(option) == 1
    return argv[argv.index(option) + 1]


@pytest.mark.parametrize("arch", list(Architecture))
@pytest.mark.parametrize("name", ["applevirt", "qemu", "libvirt", "cloud-hypervisor", "firecracker"])
def test_a_disk_of_the_dist_is_copied_or_what_is_written_to_it_thrown_away(
    known: dict[Architecture, Facts], arch: Architecture, name: str
) -> None:
    for way in ways(known[arch], name):
        source = known[arch].folder / ("stereos.qcow2" if way.judged.form is Form.QCOW2 else "stereos.img")
        naming = [argv for argv in commands(way) if any(str(source) in word for word in argv)]
        assert len(naming) == 1
        assert naming[0][0] == "cp" or any("snapshot=on" in word for word in naming[0] if str(source) in word)
        assert not any(str(source) in step.content for step in way.steps if isinstance(step, Write))


@pytest.mark.parametrize("arch", list(Architecture))
def test_a_domain_writes_to_the_copy_and_has_acpi_where_libvirt_takes_it(
    known: dict[Architecture, Facts], arch: Architecture
) -> None:
    """Without UEFI libvirt refuses ACPI on aarch64: "ACPI requires UEFI on this architecture"."""
    for way in ways(known[arch], "libvirt"):
        (copy, start), (written,) = commands(way), [step for step in way.steps if isinstance(step, Write)]
        domain = ElementTree.fromstring(written.content)
        source = domain.find("devices/disk/source")
        assert source is not None
        assert source.get("file") == f"{PLACE}/{copy[-1]}"
        assert start == ("virsh", "create", written.name, "--console")
        by_kernel = way.judged.form is Form.KERNEL
        assert (domain.find("features/acpi") is None) == (by_kernel and arch is AARCH64)
        assert (domain.find("os/kernel") is not None) == by_kernel


@pytest.mark.parametrize("arch", list(Architecture))
def test_qemus_command(known: dict[Architecture, Facts], arch: Architecture) -> None:
    facts = known[arch]
    found = {way.judged.form: commands(way)[0] for way in ways(facts, "qemu")}
    assert set(found) == set(Form)
    for form, argv in found.items():
        assert argv[0] == f"qemu-system-{arch}"
        assert after(argv, "-drive").startswith(f"if=virtio,format={'qcow2' if form is Form.QCOW2 else 'raw'},")
        assert "virtserialport,chardev=control,name=io.stereos.control" in argv
        assert ("-bios" in argv) == (form is not Form.KERNEL)
    assert after(found[Form.KERNEL], "-kernel") == str(facts.folder / "bzImage")
    assert after(found[Form.KERNEL], "-append") == cmdline(facts)


def test_a_comma_in_a_path_is_none_of_qemus_syntax(tmp_path: Path) -> None:
    folder = tmp_path / "a,b"
    facts = read_facts(folder, make_bootable(folder))
    way = next(ways(facts, "qemu"))
    assert after(commands(way)[0], "-drive").endswith(f"file={tmp_path}/a,,b/stereos.img")


def test_vfkit_takes_its_command(known: dict[Architecture, Facts]) -> None:
    facts = known[AARCH64]
    for way in ways(facts, "applevirt"):
        copy, start = commands(way)
        assert copy == ("cp", "-c", str(facts.folder / "stereos.img"), f"{PLACE}/disk.img")
        options = vfkit.parse(start[1:])
        assert options.disks == [f"{PLACE}/disk.img"]
        assert [(one.port, one.listen) for one in options.vsocks] == [(1024, False)]
        assert options.cmdline == (cmdline(facts) if way.judged.form is Form.KERNEL else "")


def test_what_vfkit_cannot_be_told_is_said_in_place_of_a_command(tmp_path: Path) -> None:
    folder = tmp_path / "a,b"
    facts = read_facts(folder, make_bootable(folder, AARCH64))
    (answer,) = answers(facts, ["applevirt"], None, PLACE)
    direct = next(way for way in answer.ways if way.judged.form is Form.KERNEL)
    assert direct.judged.fits
    assert direct.steps == ()
    assert "comma" in direct.note


@pytest.mark.parametrize("arch", list(Architecture))
def test_cloud_hypervisors_command_is_what_it_documents(known: dict[Architecture, Facts], arch: Architecture) -> None:
    """Options and values of its README, docs/device_model.md, docs/uefi.md and docs/vsock.md (v51)."""
    for way in ways(known[arch], "cloud-hypervisor"):
        copy, argv = commands(way)
        options = dict(zip(argv[1::2], argv[2::2], strict=True))
        boot = {"--kernel", "--initramfs", "--cmdline"} if way.judged.form is Form.KERNEL else {"--firmware"}
        assert set(options) == {"--cpus", "--memory", "--disk", "--serial", "--console", "--vsock", *boot}
        assert options["--disk"] == f"path={copy[-1]}"
        assert options["--vsock"] == "cid=3,socket=control.sock"
        seen = {"ttyS0": ("tty", "off"), "hvc0": ("null", "tty")}[way.judged.console or ""]
        assert (options["--serial"], options["--console"]) == seen


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _BootSource(_Strict):
    kernel_image_path: str
    initrd_path: str | None = None
    boot_args: str | None = None


class _Drive(_Strict):
    drive_id: str
    is_root_device: bool
    is_read_only: bool
    path_on_host: str
    cache_type: Literal["Unsafe", "Writeback"] = "Unsafe"
    io_engine: Literal["Sync", "Async"] = "Sync"


class _Machine(_Strict):
    vcpu_count: int = Field(ge=1, le=32)
    mem_size_mib: int = Field(ge=1)
    smt: bool = False


class _Vsock(_Strict):
    guest_cid: int = Field(ge=3)
    uds_path: str


class _Entropy(_Strict):
    pass


class FirecrackerConfig(_Strict):
    """What of `FullVmConfiguration` in the swagger of Firecracker's API (1.17) a machine of ours may have."""

    boot_source: _BootSource = Field(alias="boot-source")
    drives: list[_Drive]
    machine_config: _Machine = Field(alias="machine-config")
    vsock: _Vsock | None = None
    entropy: _Entropy | None = None


@pytest.mark.parametrize("arch", list(Architecture))
def test_firecrackers_configuration_is_what_its_api_documents(
    known: dict[Architecture, Facts], arch: Architecture
) -> None:
    facts = known[arch]
    (way,) = ways(facts, "firecracker")
    (written,) = [step for step in way.steps if isinstance(step, Write)]
    config = FirecrackerConfig.model_validate_json(written.content)
    kernel = {X86_64: "vmlinux", AARCH64: "bzImage"}[arch]
    assert config.boot_source.kernel_image_path == str(facts.folder / kernel)
    words = {X86_64: cmdline(facts), AARCH64: f"{cmdline(facts)} console=ttyS0"}[arch]
    assert config.boot_source.boot_args == words
    assert not config.drives[0].is_root_device
    before = {X86_64: [("stereo", "vmlinux", str(facts.folder))], AARCH64: []}[arch]
    copy = ("cp", "--reflink=auto", "--sparse=always", str(facts.folder / "stereos.img"), config.drives[0].path_on_host)
    start = ("firecracker", "--no-api", "--config-file", written.name)
    assert commands(way) == [*before, copy, start]


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60), min_size=1))
def test_a_shell_reads_a_command_as_it_was_meant(words: list[str]) -> None:
    argv = ("printf", "%s\\0", *words)
    said = subprocess.run(["sh", "-c", str(Run(argv))], capture_output=True, check=True).stdout
    assert said.decode().split("\0")[:-1] == words


def test_a_shell_writes_a_file_as_it_was_meant(tmp_path: Path) -> None:
    content = json.dumps({"boot_args": "a $HOME `b` \\ 'c'"}, indent=2)
    subprocess.run(["sh", "-c", str(Write("vm x.json", content))], cwd=tmp_path, check=True)
    assert (tmp_path / "vm x.json").read_text() == f"{content}\n"


@pytest.mark.parametrize("folder", ["-rf", "nbd:server", "--help/x"])
def test_no_path_is_taken_for_an_option_or_a_server(known: dict[Architecture, Facts], folder: str) -> None:
    for name in ("applevirt", "qemu", "cloud-hypervisor", "firecracker"):
        for way in ways(replace(known[AARCH64], folder=Path(folder)), name):
            words = [word for argv in commands(way) for word in argv if folder in word]
            assert words
            assert all(f"./{folder}" in word or f"/{folder}" in word for word in words)


@pytest.mark.parametrize("folder", ["two\nlines", "an \x1b escape", "no \udcff UTF-8", "a line\u2028separator"])
def test_a_path_that_is_not_shown_as_it_is_is_told_in_place_of_a_command(
    known: dict[Architecture, Facts], folder: str
) -> None:
    for name in ("applevirt", "qemu", "libvirt", "cloud-hypervisor", "firecracker"):
        for way in ways(replace(known[AARCH64], folder=Path(folder)), name):
            assert not way.steps
            assert "is no path that can be shown" in way.note
