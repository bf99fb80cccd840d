"""The machine of the other architecture: each form boots, a sandbox lives in it, what was tampered with does not pass.

Its disk, manifest and build are held by the tests of the image; here it runs, emulated by the QEMU of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from makers.command import Stereo
from makers.damage import BLOCK, Damaged, flip_in_file, flip_superblock
from makers.given import assert_for_root_alone, given
from makers.inside import Said, out
from makers.sandboxes import Desk, desk
from stereo.assemble.dist import read_manifest
from stereo.dists import dist_in, register
from stereo.errors import StereoError
from stereo.paths import Cache
from stereo.report import Silent
from stereo.vm.accel import choose
from stereo.vm.boot import BootFiles, Form, boot, make_spec
from stereo.vm.machine import MachineSpec
from stereo.vm.programs import Programs
from stereo.vm.qemu import QemuBackend

pytestmark = [pytest.mark.boot, pytest.mark.build]

OPENCODE = "/usr/lib/stereos/agent/bin/opencode"
JCARD = """
[resources]
disk = "2GiB"

[network]
mode = "none"

[[shared]]
host = "./work"
guest = "/workspace"
"""


# --- a sandbox ---


@pytest.fixture(scope="module")
def one(stereo: Stereo, arm: Path) -> Iterator[Desk]:
    """A desk whose local store has a dist of the other architecture alone."""
    found = dist_in(arm)
    with desk(stereo, Path(found.name)) as one:
        store = Path(one.variables["XDG_DATA_HOME"], "stereo/dists")
        register(arm, name=found.name, version=found.version, arch=found.arch, store=store)
        (one.home / "work").mkdir()
        (one.home / "work/from-host").write_text("hello\n")
        one.write(JCARD)
        yield one


def up(one: Desk) -> None:
    if not one.folder.exists():
        one("up", "--arch", "aarch64")


def inside(one: Desk, script: str, user: str = "root") -> str:
    up(one)
    return one("exec", "-u", user, "sh", "-c", script).stdout


def test_it_is_taken_on_request_alone(one: Desk) -> None:
    said = one("up", status=2).stderr
    assert "is there for aarch64, not for x86_64" in said
    assert "--arch aarch64 takes the other" in said
    up(one)
    assert one("exec", "uname", "-m").stdout == "aarch64\n"


def test_it_is_the_same_sandbox_without_being_asked_for_again(one: Desk) -> None:
    up(one)
    assert "nothing changed" in one("up").stderr
    assert one("apply").stdout == "nothing changed\n"


def test_the_agents_program_runs(one: Desk, arm: Path) -> None:
    up(one)
    packages = {package.name: package.version for package in read_manifest(arm).agent.packages}
    (version,) = (found for name, found in packages.items() if name.startswith("opencode"))
    assert one("exec", "opencode", "--version", timeout=120).stdout.strip() == version


def test_files_go_in_and_out_and_a_share_is_there(one: Desk, tmp_path: Path) -> None:
    up(one)
    content = bytes(range(256)) * 4096
    (tmp_path / "sent").write_bytes(content)
    one("cp", tmp_path / "sent", ":sent")
    one("cp", ":sent", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    assert inside(one, "cat /workspace/from-host; echo from inside >/workspace/from-guest", "agent") == "hello\n"
    assert (one.home / "work/from-guest").read_text() == "from inside\n"


def test_the_root_is_verified_and_the_kernel_takes_no_module(one: Desk) -> None:
    told = inside(one, "dmsetup status root; cat /proc/sys/kernel/modules_disabled; cat /sys/kernel/security/lockdown")
    verity, modules, lockdown = told.splitlines()
    assert verity.split()[-2:] == ["verity", "V"]
    assert modules == "1"
    assert "[integrity]" in lockdown


def test_every_device_is_virtio_but_the_serial_port(one: Desk) -> None:
    told = inside(
        one,
        "for each in /sys/bus/pci/devices/*; do basename $(readlink $each/driver || echo none); done | sort | uniq -c; "
        "ls /sys/class/block; cut -d' ' -f1 /proc/consoles; ls -d /sys/class/net/*",
    )
    rows = [line.split() for line in told.splitlines()]
    drivers = {row[1] for row in rows if len(row) == 2}
    assert drivers <= {"virtio-pci", "none"}  # the bridge of the bus itself has no driver
    names = {row[0] for row in rows if len(row) == 1}
    assert {name for name in names if not name.startswith(("vda", "dm-", "loop"))} == {"ttyAMA0", "/sys/class/net/lo"}


def test_it_goes_down_in_good_order(one: Desk) -> None:
    up(one)
    assert json.loads(one("down", "--json").stdout)["how"] == "it shut down"


# --- the forms, and what is given with them ---


@pytest.fixture(scope="module")
def programs(arm: Path, tools_tree: Path) -> Programs:
    return Programs.find(tools_tree, dist_in(arm).arch)


@pytest.fixture(scope="module")
def backend(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> QemuBackend:
    return QemuBackend(programs, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def spec(arm: Path, programs: Programs, cache: Cache) -> Callable[[Form], MachineSpec]:
    """The machine of a form."""
    accelerator = choose(programs, cache.probe, Silent())
    return lambda form: make_spec(BootFiles.in_folder(arm), form, programs.arch, accelerator)


@pytest.fixture(scope="module")
def copy(arm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the disk to damage."""
    target = tmp_path_factory.mktemp("damaged") / "stereos.img"
    shutil.copyfile(arm / "stereos.img", target)
    return target


@pytest.fixture(scope="module")
def damaged(copy: Path) -> Damaged:
    return flip_in_file(copy, OPENCODE)


def test_by_firmware_credentials_arrive_for_root_alone(
    spec: Callable[[Form], MachineSpec], backend: QemuBackend, tell: Callable[[str], None]
) -> None:
    tell("booting: aarch64 by UEFI, with credentials")
    found = given(spec(Form.RAW), backend, {"firmware": "ls -d /sys/firmware/efi"})
    assert out(found["firmware"]) == "/sys/firmware/efi\n"
    assert_for_root_alone(found)


@pytest.fixture(scope="module")
def direct(
    spec: Callable[[Form], MachineSpec],
    backend: QemuBackend,
    copy: Path,
    damaged: Damaged,
    tell: Callable[[str], None],
) -> dict[str, Said]:
    """What is inside of a machine without firmware, with credentials and a flipped bit in opencode."""
    machine = spec(Form.KERNEL)
    tell("booting: aarch64 by its kernel, with credentials and a flipped bit in opencode")
    read = f"dd if={damaged.file} bs={BLOCK} count=1 skip="
    scripts = {
        "there": f"{read}{damaged.offset // BLOCK}",
        "before": f"{read}{damaged.offset // BLOCK - 1}",
        "verity": "dmsetup status root",
    }
    return given(replace(machine, disk=replace(machine.disk, path=copy)), backend, scripts)


def test_by_the_kernel_credentials_arrive_for_root_alone(direct: dict[str, Said]) -> None:
    assert_for_root_alone(direct)


def test_a_flipped_bit_in_a_file_is_an_error_and_never_data(direct: dict[str, Said], damaged: Damaged) -> None:
    assert b"Input/output error" in direct["there"][0]["stderr"]
    assert direct["there"][0]["stdout"] == b""
    assert direct["before"][0]["stdout"] == damaged.before
    assert out(direct["verity"]).split()[-2:] == ["verity", "C"]


@pytest.mark.parametrize("form", [Form.QCOW2, Form.KERNEL])
def test_each_form_boots_from_the_command_line(arm: Path, stereo: Stereo, tmp_path: Path, form: Form) -> None:
    words = ("boot", arm, "--with", form.value, "--until", "ready", "--json")
    told: dict[str, Any] = json.loads(stereo(*words, cwd=tmp_path, timeout=400).stdout)
    assert (told["with"], told["accelerator"]) == (form.value, "tcg")
    assert [phase["name"] for phase in told["phases"]] == ["firmware", "kernel", "initrd", "userspace", "ready"]


# --- what is not booted ---


@pytest.mark.parametrize(
    ("damage", "message"),
    [("superblock", "the verified root cannot be mounted"), ("root hash", "no disk holds the root")],
)
def test_what_cannot_be_verified_is_not_booted_and_says_so(
    spec: Callable[[Form], MachineSpec],
    backend: QemuBackend,
    copy: Path,
    damaged: Damaged,
    tell: Callable[[str], None],
    damage: str,
    message: str,
) -> None:
    machine = spec(Form.KERNEL)
    assert damaged
    assert machine.kernel
    kernel = machine.kernel
    if damage == "superblock":
        flip_superblock(copy)
    else:
        digits = kernel.cmdline.partition("roothash=")[2][:64]
        kernel = replace(kernel, cmdline=kernel.cmdline.replace(digits, digits[::-1]))
    tell(f"booting: aarch64 with a wrong {damage}")
    console = bytearray()
    wrong = replace(machine, kernel=kernel, disk=replace(machine.disk, path=copy))
    with pytest.raises(StereoError, match="ended before it was ready"):
        boot(backend, wrong, Silent(), timeout=240, sink=console.extend)
    assert f"stereos-initrd: FATAL: {message}" in console.decode(errors="replace")
