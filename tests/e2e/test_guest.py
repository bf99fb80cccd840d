"""The booted image: what it promises holds inside the running machine. One boot collects, many tests judge."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from makers.command import Stereo
from makers.damage import flip_in_file, flip_superblock
from makers.image import ORIGINAL_SETTINGS
from makers.probe import Prober
from stereo.artifacts.region import OpenFile, first_difference
from stereo.errors import StereoError
from stereo.inputs.lockfiles import LockFolder
from stereo.model.architecture import Architecture
from stereo.model.mixtape import load_mixtape
from stereo.paths import Cache, Checkout
from stereo.report import Silent
from stereo.vm.accel import choose
from stereo.vm.boot import BootFiles, Form, boot
from stereo.vm.programs import Programs
from stereo.vm.qemu import QemuBackend

pytestmark = [pytest.mark.boot, pytest.mark.build]

DISK = 2 << 30
AGENT_PATH = "/usr/lib/stereos/agent/bin"
STARTS = (
    "su - agent -c",
    "su agent -c",
    "su -P -",
    "runuser -l",
    "runuser -u",
    "login shell",
    "login sh",
    "interactive shell",
    "cron",
    "cron that goes through PAM",
    "sudo -u",
    "unit",
    "unit with a PAM session",
    "tmux",
)


@pytest.fixture(scope="module")
def prober(
    dist: Path, tools_tree: Path, cache: Cache, tell: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory
) -> Prober:
    programs = Programs.find(tools_tree)
    accelerator = choose(programs, cache.probe, Silent())
    folder = tmp_path_factory.mktemp("probe")
    return Prober(dist, QemuBackend(programs, folder / "scratch"), accelerator, folder, tell)


@pytest.fixture(scope="module")
def changes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the machine writes, over both of its boots."""
    return tmp_path_factory.mktemp("changes") / "overlay.qcow2"


@pytest.fixture(scope="module")
def guest(prober: Prober, changes: Path) -> dict[str, Any]:
    """What the probe found in the first boot, on a disk larger than the image."""
    spec = prober.spec(room=DISK)
    return prober.ask(replace(spec, disk=replace(spec.disk, changes=changes)), "the image, to look at all of it")


@pytest.fixture(scope="module")
def again(prober: Prober, changes: Path, guest: dict[str, Any]) -> dict[str, Any]:
    """What the probe found when the same machine booted once more."""
    spec = prober.spec("probe.task=lasting", room=DISK)
    return prober.ask(replace(spec, disk=replace(spec.disk, changes=changes)), "the same machine, for the second time")


def told(said: str) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in said.splitlines())


def options(guest: dict[str, Any], path: str) -> set[str]:
    """The options of the mount at `path` (proc_pid_mountinfo(5))."""
    rows = [line.split() for line in guest["mounts"].splitlines()]
    return next(set(row[5].split(",")) for row in reversed(rows) if row[4] == path)


# --- the system as a whole ---


def test_everything_starts_and_nothing_fails(guest: dict[str, Any]) -> None:
    assert guest["failed"]["out"] == "", guest["log"]
    assert guest["state"] == "running", guest["log"]


def test_the_second_boot_is_as_good_as_the_first(again: dict[str, Any]) -> None:
    assert (again["state"], again["failed"]["out"]) == ("running", ""), again["log"]


def test_the_root_is_verified_and_sound(guest: dict[str, Any]) -> None:
    assert guest["verity"]["out"].split()[-2:] == ["verity", "V"]


def test_a_change_to_the_system_is_gone_after_a_reboot(guest: dict[str, Any], again: dict[str, Any]) -> None:
    for path in ("/etc/was-here", "/usr/lib/was-here"):
        assert guest["writes"][path] == "None, written"
        assert again["writes"][path] == "None, written"


def test_work_in_the_home_of_the_agent_survives_a_reboot(guest: dict[str, Any], again: dict[str, Any]) -> None:
    for path in ("/home/agent/workspace/was-here", "/var/lib/was-here"):
        assert guest["writes"][path] == "None, written"
        assert again["writes"][path] == "by the boot before, written"


def test_a_machine_keeps_its_identity(guest: dict[str, Any], again: dict[str, Any]) -> None:
    assert len(bytes.fromhex(guest["machine_id"].strip())) == 16
    assert again["machine_id"] == guest["machine_id"]


def test_the_state_partition_takes_the_rest_of_the_disk(guest: dict[str, Any], again: dict[str, Any]) -> None:
    assert guest["partition"] > DISK - (700 << 20), guest["why"]
    assert guest["file system"] > 0.95 * guest["partition"], guest["why"]
    assert (again["partition"], again["file system"]) == (guest["partition"], guest["file system"])


def test_the_journal_is_in_memory_alone(guest: dict[str, Any]) -> None:
    assert guest["journal"] == {"/var/log/journal": False, "/run/log/journal": True}


# --- the agent ---


def test_the_agent_and_the_administrator_have_their_numbers(guest: dict[str, Any]) -> None:
    assert guest["agent"]["out"].strip() == "uid=1000(agent) gid=1000(agent) groups=1000(agent)"
    assert guest["accounts"]["agent"] == [1000, 1000, "/usr/lib/stereos/agent/shell"]
    assert guest["accounts"]["admin"] == [1001, 1001, "/bin/bash"]


@pytest.mark.parametrize("start", STARTS)
def test_the_agent_finds_the_curated_programs_and_no_others(guest: dict[str, Any], start: str) -> None:
    answer = guest["starts"][start]
    assert answer["status"] == 0, answer
    found = told(answer["out"])
    assert found["USER"] == "agent"
    assert found["PATH"] == AGENT_PATH
    for program in ("bash", "rg", "git", "opencode"):
        assert found[program] == f"{AGENT_PATH}/{program}"
    for program in ("systemctl", "nft", "sudo", "python3", "mount", "dmsetup"):
        assert found[program] == ""


def test_every_start_is_judged(guest: dict[str, Any]) -> None:
    assert sorted(guest["starts"]) == sorted(STARTS)


@pytest.mark.parametrize("start", ["su - agent -c", "su -P -", "runuser -l", "tmux"])
def test_a_login_of_the_agent_begins_in_its_workspace(guest: dict[str, Any], start: str) -> None:
    assert told(guest["starts"][start]["out"])["PWD"] == "/home/agent/workspace"


def test_the_environment_of_the_mixtape_reaches_the_agent(guest: dict[str, Any]) -> None:
    assert told(guest["starts"]["su - agent -c"]["out"])["EDITOR"] == "vi"


def test_opencode_runs_as_the_agent_from_its_own_path(guest: dict[str, Any], locks: Path) -> None:
    lock = LockFolder(locks).read("opencode-mixtape", Architecture(platform.machine()))
    (version,) = (row.version for row in lock.npm if row.name.startswith("opencode-"))
    assert guest["opencode"]["status"] == 0, guest["opencode"]
    assert guest["opencode"]["out"].strip() == version


def test_the_agent_executes_what_it_wrote_in_its_workspace(guest: dict[str, Any]) -> None:
    assert guest["own program"]["out"] == "it runs\n", guest["own program"]


def test_the_agent_cannot_execute_where_it_has_no_work(guest: dict[str, Any]) -> None:
    assert "Permission denied" in guest["tries"]["execute in /var/tmp"]["err"]
    assert "Permission denied" in guest["tries"]["execute in /dev/shm"]["err"]


@pytest.mark.parametrize(
    "attempt",
    [
        "become root by sudo",
        "become root by su",
        "read shadow",
        "read the kernel log",
        "list the state partition",
        "list secrets",
        "list the administrator's home",
        "write to /etc",
        "write to /usr",
        "talk to the control port",
        "write to the disk",
        "stop a service",
        "execute in /var/tmp",
        "execute in /dev/shm",
    ],
)
def test_the_agent_is_refused(guest: dict[str, Any], attempt: str) -> None:
    answer = guest["tries"][attempt]
    assert answer["status"] != 0, answer
    assert answer["out"] == ""


def test_the_agent_may_not_even_execute_sudo(guest: dict[str, Any]) -> None:
    assert guest["tries"]["become root by sudo"]["status"] == 126
    assert "Permission denied" in guest["tries"]["become root by sudo"]["err"]


def test_the_administrator_becomes_root_without_a_password(guest: dict[str, Any]) -> None:
    uid, path = guest["admin"]["out"].splitlines()
    assert uid == "0"
    assert path == "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"


# --- hardening ---


def test_nobody_listens(guest: dict[str, Any]) -> None:
    listening = [row for row in guest["sockets"] if row.startswith("tcp")]
    assert listening == []


def test_of_datagrams_only_dhcp_and_icmp_are_expected(guest: dict[str, Any]) -> None:
    """networkd hears the answers to its own questions: DHCP (port 68), and ICMPv6 (protocol 58)."""
    ports = {(row.split()[0], int(row.rsplit(":", 1)[1], 16)) for row in guest["sockets"]}
    assert ports <= {("udp", 68), ("raw6", 58)}


def test_the_packet_filter_drops_by_default(guest: dict[str, Any]) -> None:
    rules = json.loads(guest["nft"]["out"])["nftables"]
    chains = [item["chain"] for item in rules if "chain" in item and "hook" in item["chain"]]
    assert {chain["hook"]: chain["policy"] for chain in chains} == {"input": "drop", "forward": "drop"}


def test_the_packet_filter_opens_the_port_of_ssh_alone(guest: dict[str, Any]) -> None:
    """sshd itself is not there before a key was injected, see `test_nobody_listens`."""
    sets = [item["set"] for item in json.loads(guest["nft"]["out"])["nftables"] if "set" in item]
    assert [(row["name"], row.get("elem", [])) for row in sets] == [("inbound_tcp", [22])]


def test_no_module_can_be_loaded_after_boot(guest: dict[str, Any]) -> None:
    assert guest["modules"]["disabled"].strip() == "1"
    assert guest["modules"]["try"]["status"] != 0
    assert "Operation not permitted" in guest["modules"]["try"]["err"]


def test_what_a_machine_needs_later_was_loaded_before(guest: dict[str, Any]) -> None:
    loaded = {line.split()[0] for line in guest["modules"]["loaded"].splitlines()}
    assert {"nf_tables", "nft_ct", "virtio_net", "vmw_vsock_virtio_transport"} <= loaded


def test_the_kernel_is_locked_down(guest: dict[str, Any]) -> None:
    assert "[integrity]" in guest["lockdown"]


def test_the_kernel_settings_are_those_of_the_file(guest: dict[str, Any]) -> None:
    overlay = Checkout.containing_this_package().root / "overlays/hardening/usr/lib/sysctl.d/90-stereos.conf"
    lines = [line for line in overlay.read_text().splitlines() if line and not line.startswith("#")]
    assert guest["sysctl"] == {key: value for key, _, value in (line.partition("=") for line in lines)}
    assert {key: guest["sysctl"][key] for key in ORIGINAL_SETTINGS} == ORIGINAL_SETTINGS


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/", {"nodev"}),
        ("/var", {"nosuid", "nodev", "noexec"}),
        ("/home", {"nosuid", "nodev"}),
        ("/state", {"nosuid", "nodev", "noexec"}),
        ("/tmp", {"nosuid", "nodev"}),
        ("/run", {"nosuid", "nodev", "noexec"}),
        ("/dev", {"nosuid", "noexec"}),
        ("/dev/shm", {"nosuid", "nodev", "noexec"}),
        ("/proc", {"nosuid", "nodev", "noexec"}),
        ("/sys", {"nosuid", "nodev", "noexec"}),
    ],
)
def test_a_mount_allows_no_more_than_it_must(guest: dict[str, Any], path: str, wanted: set[str]) -> None:
    assert wanted <= options(guest, path)


def test_only_the_home_and_temporary_files_of_the_agent_can_be_executed(guest: dict[str, Any]) -> None:
    assert not {"noexec"} & (options(guest, "/home") | options(guest, "/tmp"))


def test_the_root_is_an_overlay_over_the_verified_root(guest: dict[str, Any]) -> None:
    row = next(line for line in guest["mounts"].splitlines() if line.split()[4] == "/")
    assert " - overlay " in row
    assert "lowerdir=/verified" in row


def test_only_sudo_raises_privileges_in_the_live_tree(guest: dict[str, Any]) -> None:
    assert guest["files"]["raising"] == ["/usr/bin/sudo 4750 0:1001"]


def test_nothing_in_the_live_tree_may_be_written_by_everybody(guest: dict[str, Any]) -> None:
    assert guest["files"]["writable"] == []


@pytest.mark.parametrize(
    ("capability", "bit"), [("sys_module", 16), ("sys_rawio", 17), ("sys_boot", 22), ("perfmon", 38), ("bpf", 39)]
)
def test_the_daemon_and_what_it_starts_have_no_hand_on_the_kernel(
    guest: dict[str, Any], capability: str, bit: int
) -> None:
    """It mounts and gives sessions to admin and root, so it is root; see capabilities(7) for what is left out."""
    status = {key: value.strip() for key, _, value in (row.partition(":") for row in guest["daemon"].splitlines())}
    for kind in ("CapEff", "CapBnd"):
        assert not int(status[kind], 16) >> bit & 1, capability


# --- damage ---


@pytest.fixture
def copy(dist: Path, tmp_path: Path) -> Path:
    """A copy of the disk to damage."""
    target = tmp_path / "stereos.img"
    shutil.copyfile(dist / "stereos.img", target)
    return target


def test_a_flipped_bit_in_a_file_is_an_error_and_never_data(prober: Prober, copy: Path) -> None:
    damaged = flip_in_file(copy, f"{AGENT_PATH}/opencode")
    words = f"probe.task=damaged probe.file={damaged.file} probe.offset={damaged.offset}"
    found = prober.ask(prober.spec(words, copy), "a disk with a flipped bit in opencode")
    assert found["there"] == "Input/output error"
    assert found["before"] == hashlib.sha256(damaged.before).hexdigest()
    assert found["verity"]["out"].split()[-2:] == ["verity", "C"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [("superblock", "the verified root cannot be mounted"), ("table", "no disk holds the root")],
)
def test_what_cannot_be_verified_is_not_booted(
    dist: Path, prober: Prober, copy: Path, tell: Callable[[str], None], damage: str, message: str
) -> None:
    """With the initrd as it is released: it says why, and switches off."""
    spec = prober.spec("", copy)
    assert spec.kernel
    kernel = replace(spec.kernel, initrd=BootFiles.in_folder(dist).initrd)
    if damage == "superblock":
        flip_superblock(copy)
    else:
        digits = kernel.cmdline.partition("roothash=")[2][:64]
        kernel = replace(kernel, cmdline=kernel.cmdline.replace(digits, digits[::-1]))
    tell(f"booting: a machine with a wrong {damage}")
    console = bytearray()
    with pytest.raises(StereoError, match="ended before it was ready"):
        boot(prober.backend, replace(spec, kernel=kernel), Silent(), timeout=240, sink=console.extend)
    assert f"stereos-initrd: FATAL: {message}" in console.decode(errors="replace")


# --- the three forms, by the command line ---


@pytest.mark.parametrize("form", list(Form))
def test_each_form_boots_and_leaves_nothing_behind(dist: Path, stereo: Stereo, tmp_path: Path, form: Form) -> None:
    before = {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in dist.iterdir()}
    log = tmp_path / "console"
    words = ("boot", dist, "--with", form.value, "--until", "ready", "--timeout", "300", "--json", "--log", log)
    done = stereo(*words, cwd=tmp_path, timeout=400)
    told = json.loads(done.stdout)
    assert (told["with"], told["until"]) == (form.value, "ready")
    assert [phase["name"] for phase in told["phases"]] == ["firmware", "kernel", "initrd", "userspace", "ready"]
    assert abs(sum(phase["seconds"] for phase in told["phases"]) - told["total_seconds"]) < 1
    assert {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in dist.iterdir()} == before
    assert [pid for pid, line in processes() if str(dist) in line] == []


def processes() -> list[tuple[int, str]]:
    """Every process of this machine with its command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append((int(path.parent.name), path.read_bytes().replace(b"\0", b" ").decode(errors="replace")))
        except OSError:
            continue
    return found


def test_boots_leave_the_artifacts_as_they_were(dist: Path) -> None:
    """After all boots of this file: the qcow2 still holds what the raw disk does, and both what the manifest says."""
    from stereo.artifacts.qcow2 import Qcow2
    from stereo.assemble.dist import read_manifest

    manifest = read_manifest(dist)
    with OpenFile(dist / "stereos.img") as raw, OpenFile(dist / "stereos.qcow2") as qcow2:
        assert hashlib.file_digest((dist / "stereos.img").open("rb"), "sha256").hexdigest() == (
            manifest.artifacts.raw.sha256
        )
        assert first_difference(raw.region, Qcow2(qcow2.region).content()) is None


def test_the_prober_knows_the_mixtape() -> None:
    """The programs that the probe asks for are among those of the mixtape; else its tests would prove nothing."""
    mixtape = load_mixtape("opencode-mixtape", Checkout.containing_this_package().mixtapes, dev_key=None)
    names = {program.name for program in mixtape.programs(Architecture(platform.machine()))}
    assert {"bash", "rg", "git", "opencode"} <= names
    assert not names & {"systemctl", "nft", "sudo", "python3", "mount", "dmsetup"}
