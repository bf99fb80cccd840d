"""The built image, read with our own readers: each claim about what is in it, without booting it."""

from __future__ import annotations

import platform
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from makers.image import ORIGINAL_SETTINGS, UKI, Files, Image
from makers.tools import Tool
from stereo.artifacts import gpt
from stereo.artifacts.region import OpenFile, first_difference
from stereo.artifacts.tree import Kind
from stereo.assemble.dist import read_manifest
from stereo.inputs.lockfiles import LockFolder
from stereo.model.architecture import Architecture
from stereo.model.lock import Lock
from stereo.model.mixtape import Mixtape, load_mixtape
from stereo.paths import Checkout

pytestmark = pytest.mark.build

ROOT = Checkout.containing_this_package().root
AGENT = "/usr/lib/stereos/agent"
READ_ONLY = 1 << 60  # an attribute of the Discoverable Partitions Specification


@pytest.fixture(scope="module")
def image(dist: Path) -> Iterator[Image]:
    with Image(dist) as opened:
        yield opened


@pytest.fixture(scope="module")
def dev(dev_dist: Path) -> Iterator[Image]:
    with Image(dev_dist) as opened:
        yield opened


@pytest.fixture(scope="module")
def root(image: Image) -> Files:
    return image.root


@pytest.fixture(scope="module")
def mixtape() -> Mixtape:
    return load_mixtape("opencode-mixtape", ROOT / "mixtapes", dev_key=None)


@pytest.fixture(scope="module")
def lock(locks: Path) -> Lock:
    return LockFolder(locks).read("opencode-mixtape", Architecture(platform.machine()))


def table_of(root: Files, path: str) -> dict[str, list[str]]:
    """passwd(5) and its relatives: rows by their first field."""
    return {row.split(":")[0]: row.split(":") for row in root.text(path).splitlines() if row}


def settings_of(text: str) -> dict[str, str]:
    """KEY=VALUE lines, comments and quotes left out."""
    rows = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip('"') for key, _, value in rows}


# --- the disk ---


def test_the_partitions_are_those_of_the_layout_with_state_last(image: Image) -> None:
    system = read_manifest(image.dist).arch
    rows = sorted(image.table.partitions, key=lambda row: row.offset)
    assert [(row.number, row.label, row.type) for row in rows] == [
        (1, "esp", gpt.ESP),
        (2, "root", gpt.ROOT[system]),
        (3, "root-verity", gpt.ROOT_VERITY[system]),
        (4, "state", gpt.LINUX_GENERIC),
    ]


def test_the_verified_partitions_are_marked_read_only_and_the_others_are_not(image: Image) -> None:
    read_only = {row.label for row in image.table.partitions if row.attributes & READ_ONLY}
    assert read_only == {"root", "root-verity"}


def test_the_root_hash_names_the_partitions(image: Image) -> None:
    root_hash = read_manifest(image.dist).image.root_hash
    by_label = {row.label: UUID(row.uuid) for row in image.table.partitions}
    assert (by_label["root"], by_label["root-verity"]) == (UUID(root_hash[:32]), UUID(root_hash[32:]))


def test_the_uki_is_at_the_removable_path_and_nothing_is_beside_it(image: Image) -> None:
    assert [path for path, entry in image.esp.entries.items() if entry.kind is Kind.FILE] == [UKI]


@pytest.mark.parametrize(("section", "name"), [(".linux", "bzImage"), (".initrd", "initrd"), (".cmdline", "cmdline")])
def test_the_uki_holds_what_direct_boot_uses(image: Image, section: str, name: str) -> None:
    inside = image.uki.content(image.uki.only(section))
    with OpenFile(image.dist / name) as file:
        trailing = inside.size - file.size
        assert first_difference(inside.part(0, file.size), file.region) is None
        assert inside.read(file.size, trailing).strip(b"\0") == b""


def test_the_uki_says_which_system_it_starts(image: Image) -> None:
    section = image.uki.content(image.uki.only(".osrel"))
    assert settings_of(section.read(0, section.size).decode())["ID"] == "stereos"


def test_the_command_line_locks_the_kernel_down_and_names_the_root(image: Image) -> None:
    words = (image.dist / "cmdline").read_text().split()
    assert "lockdown=integrity" in words
    assert f"roothash={read_manifest(image.dist).image.root_hash}" in words
    assert not [word for word in words if word.startswith(("root=", "init=", "systemd.debug", "rd."))]


def test_the_init_file_names_what_the_initrd_starts(image: Image) -> None:
    init = (image.dist / "init").read_text()
    assert f"exec switch_root /root {init}\n" in image.initrd.text("/init")
    assert image.root.resolve(init)


# --- the initrd ---


def test_the_initrd_is_busybox_dmsetup_the_modules_and_one_script(image: Image) -> None:
    files = {path for path, entry in image.initrd.entries.items() if entry.kind is Kind.FILE}
    libraries = {path for path in files if re.fullmatch(r"/lib(64)?/[\w.+-]+\.so[\w.]*", path)}
    modules = set(image.initrd.text("/modules.list").split())
    assert files == {"/init", "/modules.list", "/bin/busybox", "/bin/dmsetup"} | libraries | modules
    assert len(libraries) < 12
    links = {entry.target for entry in image.initrd.entries.values() if entry.kind is Kind.SYMLINK}
    assert links == {"busybox"}


def test_the_modules_of_the_initrd_are_the_few_that_lead_to_the_root(image: Image) -> None:
    names = {Path(name).stem.replace("-", "_") for name in image.initrd.text("/modules.list").split()}
    assert {"virtio_blk", "erofs", "overlay", "dm_mod", "dm_verity"} <= names
    assert len(names) <= 12


def test_the_script_is_the_one_of_the_repository(image: Image) -> None:
    assert image.initrd.data("/init") == (ROOT / "mkosi/image/initrd/init").read_bytes()
    assert image.initrd["/init"].mode == 0o755


def test_the_initrd_uses_only_programs_that_it_has(image: Image) -> None:
    """Whoever adds a command to the script must add its applet."""
    script = re.sub(r"#.*", "", image.initrd.text("/init"))
    here = {path.removeprefix("/bin/") for path in image.initrd.below("/bin")}
    known = (
        "mount mkdir mv cat tr od dd chmod chown chroot insmod modprobe dmsetup sleep reboot grep switch_root readlink "
        "blockdev cut sed awk cp ln rm umount head tail find stat sync touch mknod losetup"
    )
    used = {name for name in known.split() if re.search(rf"(^|[\s;|&(!]){name}\s", script)}
    assert used <= here


def test_nothing_in_the_initrd_may_be_written_by_others(image: Image) -> None:
    assert [
        path for path, row in image.initrd.entries.items() if row.mode & 0o022 and row.kind is not Kind.SYMLINK
    ] == []


# --- users and privileges ---


def test_the_users_have_their_numbers_shells_and_homes(root: Files) -> None:
    users = table_of(root, "/etc/passwd")
    assert users["admin"][2:4] + users["admin"][5:] == ["1001", "1001", "/home/admin", "/bin/bash"]
    assert users["agent"][2:4] + users["agent"][5:] == ["1000", "1000", "/home/agent", f"{AGENT}/shell"]
    assert [name for name, row in users.items() if row[2] == "0"] == ["root"]


def test_nobody_else_can_log_in(root: Files) -> None:
    shells = {name: row[6] for name, row in table_of(root, "/etc/passwd").items()}
    assert {name for name, shell in shells.items() if not shell.endswith(("nologin", "/bin/sync"))} == {
        *("root", "admin", "agent")
    }


def test_no_account_has_a_password(root: Files) -> None:
    assert {row[1] for row in table_of(root, "/etc/shadow").values()} == {"!*"}
    assert {row[1] for row in table_of(root, "/etc/passwd").values()} == {"x"}
    assert root["/etc/shadow"].mode == 0o640


def test_the_agent_is_in_no_group_but_its_own(root: Files) -> None:
    groups = table_of(root, "/etc/group")
    assert [name for name, row in groups.items() if "agent" in row[3].split(",")] == []
    assert groups["agent"][2] == "1000"


def test_sudo_is_for_the_administrator_alone(root: Files) -> None:
    assert root["/usr/bin/sudo"].gid == int(table_of(root, "/etc/group")["admin"][2])
    rules = root.text("/etc/sudoers.d/stereos").splitlines()
    assert "admin ALL=(ALL:ALL) NOPASSWD: ALL" in rules
    assert "agent ALL=(ALL:ALL) !ALL" in rules
    assert root["/etc/sudoers.d/stereos"].mode == 0o440
    assert root.children("/etc/sudoers.d") == ["README", "stereos"] or root.children("/etc/sudoers.d") == ["stereos"]


def test_only_sudo_raises_privileges(image: Image) -> None:
    found = [
        (path, f"{entry.mode:o}", entry.uid, entry.gid)
        for tree in (image.root, image.state)
        for path, entry in tree.entries.items()
        if entry.mode & 0o6000 and entry.kind is not Kind.SYMLINK
    ]
    assert found == [("/usr/bin/sudo", "4750", 0, 1001)]


def test_no_file_has_capabilities_or_other_attributes(image: Image) -> None:
    assert [path for tree in (image.root, image.state) for path, row in tree.entries.items() if row.xattrs] == []


def test_nothing_may_be_written_by_everybody_but_temporary_folders(image: Image) -> None:
    found = {
        path
        for tree in (image.root, image.state)
        for path, entry in tree.entries.items()
        if entry.mode & 0o002 and entry.kind is not Kind.SYMLINK
    }
    assert found == {"/tmp", "/var/tmp"}
    assert image.root["/tmp"].mode == image.state["/var/tmp"].mode == 0o1777


def test_all_of_the_system_belongs_to_root(root: Files) -> None:
    """What belongs to another user could be changed by it, were the file system writable, as its overlay is."""
    assert [path for path, entry in root.entries.items() if entry.uid != 0] == []


# --- identity ---


def test_the_image_says_what_it_is(image: Image) -> None:
    version = image.dist.parent.name
    release = settings_of(image.root.text("/usr/lib/os-release"))
    assert (release["NAME"], release["ID"], release["ID_LIKE"]) == ("stereOS", "stereos", "debian")
    assert (release["VERSION_ID"], release["VERSION_CODENAME"]) == (version, "opencode-mixtape")
    assert image.root["/etc/os-release"].target == "../usr/lib/os-release"
    assert image.root.text("/etc/hostname") == "opencode-mixtape\n"
    assert image.root.text("/etc/motd").startswith(f"stereOS {version} (opencode-mixtape)\n")


def test_the_image_has_no_identity_of_a_machine(image: Image) -> None:
    assert image.root["/etc/machine-id"].size == 0
    assert "/machine-id" not in image.state
    every = {**image.root.entries, **image.state.entries}
    own = re.compile(r"/(random-seed|ssh_host_\w+|credential\.secret|\.bash_history)$")
    assert [path for path in every if own.search(path)] == []


def test_the_image_holds_no_secret(image: Image) -> None:
    """Private keys by their headline; what sits in a home or in /etc is all small."""
    headline = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
    for tree in (image.root, image.state):
        for path in (*tree.below("/etc"), *tree.below("/home"), *tree.below("/root"), *tree.below("/var")):
            entry = tree[path]
            if entry.kind is Kind.FILE and entry.size < 1 << 20:
                assert not headline.search(tree.data(path)), path


# --- what is there, and what is not ---


def test_the_ssh_server_sleeps_until_a_key_was_injected(root: Files) -> None:
    starts = re.compile(r"/systemd/system/[^/]+\.(wants|requires|upholds)/sshd?\b[^/]*\.(service|socket)$")
    assert [path for path in root.entries if starts.search(path)] == []
    assert root.resolve("/usr/sbin/sshd")


def test_a_release_lets_nobody_in_by_a_key_of_its_own(root: Files) -> None:
    assert [path for path in root.entries if re.search(r"authorized_keys(\.d/.|$)|ssh_host_", path)] == []


def test_there_is_no_package_manager(root: Files) -> None:
    programs = re.compile(r"^/usr/s?bin/(apt|apt-get|aptitude|dpkg|dpkg-deb|dpkg-query)$")
    assert [path for path in root.entries if programs.search(path)] == []
    assert [path for path in ("/etc/apt", "/var/lib/dpkg", "/usr/lib/dpkg", "/usr/share/man") if path in root] == []


def test_there_is_no_kernel_and_no_mount_point_of_the_builder_in_the_root(root: Files) -> None:
    assert [path for path in root.entries if "vmlinuz" in path or path == "/work"] == []
    assert root.children("/boot") == []


def test_every_absolute_link_of_the_top_leads_somewhere(root: Files) -> None:
    top = [entry for path, entry in root.entries.items() if path.count("/") == 1 and entry.kind is Kind.SYMLINK]
    assert [entry.path for entry in top if root.resolve(entry.path) is None] == []


def test_the_kernel_modules_are_only_those_that_a_machine_of_ours_can_use(root: Files) -> None:
    modules = [path for path in root.below("/usr/lib/modules") if ".ko" in path]
    assert 20 < len(modules) < 150
    unwanted = re.compile(
        r"/(sound|drivers/(gpu|usb|bluetooth|media|infiniband|ata|nvme|scsi)|net/(sctp|dccp|tipc|rds))/"
    )
    assert [path for path in modules if unwanted.search(path)] == []
    names = {Path(path).name.partition(".")[0].replace("-", "_") for path in modules}
    wanted = (ROOT / "overlays/hardening/usr/lib/modules-load.d/stereos.conf").read_text().splitlines()
    assert {line for line in wanted if line and not line.startswith("#")} <= names


def test_all_byte_code_is_trusted_without_looking_at_times(root: Files) -> None:
    """PEP 552: flags of 1 mean a hash, and that nobody compares it with the source."""
    compiled = [path for path in root.entries if path.endswith(".pyc")]
    assert compiled
    flags = {struct.unpack_from("<I", root.region(path).read(0, 16), 4)[0] for path in compiled}
    assert flags == {1}


def test_every_module_of_the_guest_package_has_byte_code(root: Files) -> None:
    package = "/usr/lib/stereos/stereos_guest"
    sources = {name.removesuffix(".py") for name in root.children(package) if name.endswith(".py")}
    assert sources == {path.stem for path in (ROOT / "guest/stereos_guest").glob("*.py")}
    assert {name.partition(".")[0] for name in root.children(f"{package}/__pycache__")} == sources


# --- the agent's world ---


def test_the_path_of_the_agent_has_exactly_the_programs_of_the_mixtape(root: Files, mixtape: Mixtape) -> None:
    wanted = {program.name for program in mixtape.programs(Architecture(platform.machine()))}
    assert root.children(f"{AGENT}/bin") == sorted(wanted)


def test_every_program_of_the_agent_is_an_executable_of_the_image(root: Files) -> None:
    for path in root.below(f"{AGENT}/bin"):
        found = root.resolve(path)
        assert found is not None, f"{path} leads nowhere"
        assert found.kind is Kind.FILE, path
        assert found.mode & 0o111 == 0o111, path


def test_the_environment_of_the_agent_is_that_of_the_mixtape(root: Files, mixtape: Mixtape) -> None:
    assert settings_of(root.text(f"{AGENT}/environment")) == {"PATH": f"{AGENT}/bin", **mixtape.environment}


def test_the_shell_of_the_agent_can_be_executed(root: Files) -> None:
    assert root[f"{AGENT}/shell"].mode == 0o755


@pytest.mark.parametrize("path", ["/home/agent", "/home/agent/workspace"])
def test_the_home_and_the_workspace_belong_to_the_agent(image: Image, path: str) -> None:
    entry = image.state[path]
    assert (entry.kind, entry.uid, entry.gid) == (Kind.DIRECTORY, 1000, 1000)


def test_the_home_files_of_the_mixtape_are_in_place_and_its_own(image: Image, mixtape: Mixtape) -> None:
    assert mixtape.home_files
    for name, content in mixtape.home_files.items():
        path = f"/home/agent/{name}"
        assert image.state.text(path) == content
        assert {image.state[path].uid, image.state[path].gid} == {1000}


def test_the_manifest_tells_the_version_of_the_agent(image: Image, lock: Lock) -> None:
    agent = read_manifest(image.dist).agent
    told = {row.name: row.version for row in agent.packages if row.source == "npm"}
    assert told == {row.name: row.version for row in lock.npm}
    assert agent.harness == "opencode"


# --- hardening ---


def test_the_kernel_settings_are_at_least_those_of_the_original(root: Files) -> None:
    settings = settings_of(root.text("/usr/lib/sysctl.d/90-stereos.conf"))
    assert {key: settings[key] for key in ORIGINAL_SETTINGS} == ORIGINAL_SETTINGS
    stricter = {"kernel.unprivileged_bpf_disabled": "1", "kernel.kexec_load_disabled": "1", "kernel.sysrq": "0"}
    assert {key: settings[key] for key in stricter} == stricter


def test_no_later_file_loosens_a_kernel_setting(root: Files) -> None:
    """sysctl.d(5): files apply in the order of their names, whatever their folder."""
    folders = ("/etc/sysctl.d", "/usr/lib/sysctl.d", "/usr/local/lib/sysctl.d")
    later = [path for folder in folders for path in root.below(folder) if Path(path).name > "90-stereos.conf"]
    ours = settings_of(root.text("/usr/lib/sysctl.d/90-stereos.conf"))
    contradicting = {
        f"{path}: {key}"
        for path in later
        for key, value in settings_of(root.text(path)).items()
        if key in ours and ours[key] != value
    }
    assert contradicting == set()


def test_the_packet_filter_drops_what_was_not_asked_for(root: Files) -> None:
    rules = root.text("/etc/nftables.conf")
    assert "hook input priority filter; policy drop;" in rules
    assert "hook forward priority filter; policy drop;" in rules
    assert root.children("/etc/nftables.d") == ["README", "ssh.nft"]


def test_generators_that_could_add_units_are_masked(root: Files) -> None:
    have = root.children("/usr/lib/systemd/system-generators")
    masked = set(root.children("/etc/systemd/system-generators"))
    assert masked
    for name in masked:
        assert root[f"/etc/systemd/system-generators/{name}"].target == "/dev/null"
    assert set(have) <= masked


def test_the_system_boots_to_the_multi_user_target(root: Files) -> None:
    found = root.resolve("/usr/lib/systemd/system/default.target")
    assert found
    assert found.path == "/usr/lib/systemd/system/multi-user.target"
    assert "/etc/systemd/system/default.target" not in root


def test_our_units_are_enabled(root: Files) -> None:
    wanted = "/etc/systemd/system"
    for target, unit in (
        ("sysinit", "stereos-harden"),
        ("multi-user", "stereosd"),
        ("multi-user", "stereos-grow"),
        ("multi-user", "systemd-networkd"),
    ):
        assert root.resolve(f"{wanted}/{target}.target.wants/{unit}.service"), unit


def test_core_dumps_and_the_journal_are_not_kept(root: Files) -> None:
    assert "* hard core 0" in root.text("/etc/security/limits.d/90-stereos.conf")
    assert settings_of(root.text("/usr/lib/systemd/journald.conf.d/stereos.conf"))["Storage"] == "volatile"


OUR_UNITS = (
    *("agentd.service", "stereosd.service", "stereos-harden.service", "stereos-grow.service"),
    *("stereos-ssh-host-key.service", "stereos-gateway.service"),
)
IN_THE_PLACE_OF_SYSTEMDS = ("serial-getty@.service",)
"""As open as what it replaces, in dev images alone: a person's session starts there."""


def test_all_of_our_units_are_judged() -> None:
    services = (ROOT / "overlays").glob("*/usr/lib/systemd/system/*.service")
    assert sorted(path.name for path in services) == sorted((*OUR_UNITS, *IN_THE_PLACE_OF_SYSTEMDS))


@pytest.mark.parametrize("unit", OUR_UNITS)
def test_a_unit_of_ours_is_closed_or_says_why_not(
    dev: Image, tool: Callable[[str], Tool], tmp_path: Path, unit: str
) -> None:
    """`systemd-analyze security` rates from 0 (closed) to 10; the dev image has all of our units."""
    text = dev.root.text(f"/usr/lib/systemd/system/{unit}")
    (tmp_path / unit).write_text(text)
    said = tool("systemd-analyze")("security", "--offline=true", "--no-pager", "--threshold=100", tmp_path / unit)
    rated = re.search(rf"Overall exposure level for {re.escape(unit)}: ([0-9.]+)", said)
    assert rated, said
    reason = [line for line in text.splitlines() if line.startswith("#") and re.search(r"\broot\b", line)]
    assert float(rated[1]) < 3.0 or reason


# --- the dev profile ---


def test_a_release_is_not_marked_as_dev_and_a_dev_image_is(image: Image, dev: Image) -> None:
    assert read_manifest(image.dist).dev is False
    assert "VARIANT_ID" not in settings_of(image.root.text("/usr/lib/os-release"))
    assert read_manifest(dev.dist).dev is True
    assert read_manifest(dev.dist).name == "base-dev"
    assert settings_of(dev.root.text("/usr/lib/os-release"))["VARIANT_ID"] == "dev"


def test_a_dev_image_lets_its_developer_in_and_nobody_else(dev: Image, dev_key: Path) -> None:
    public = dev_key.with_suffix(".pub").read_text().split()[:2]
    for user in ("admin", "agent"):
        path = f"/etc/ssh/authorized_keys.d/{user}"
        assert [line.split()[:2] for line in dev.root.text(path).splitlines()] == [public]
        assert (dev.root[path].uid, dev.root[path].mode & 0o022) == (0, 0)


def test_the_ssh_server_of_a_dev_image_takes_keys_alone(dev: Image) -> None:
    rows = (line.split(None, 1) for line in dev.root.text("/etc/ssh/sshd_config.d/stereos.conf").splitlines())
    settings: dict[str, Any] = {row[0]: row[1] for row in rows if len(row) == 2}
    for key in ("PasswordAuthentication", "KbdInteractiveAuthentication", "PermitRootLogin", "PermitEmptyPasswords"):
        assert settings[key] == "no"
    assert settings["AllowUsers"] == "admin agent"
    assert dev.root.resolve("/usr/sbin/sshd")


def test_a_dev_image_carries_no_host_key(dev: Image) -> None:
    assert [path for path in (*dev.root.entries, *dev.state.entries) if "ssh_host_" in path] == []


def test_the_packet_filter_opens_the_port_of_ssh_alone(root: Files) -> None:
    assert root.text("/etc/nftables.d/ssh.nft").split("{")[1].split("}")[0].split() == ["22"]


@pytest.mark.parametrize("console", ["ttyS0", "ttyAMA0", "hvc0"])
def test_a_dev_image_has_a_login_on_every_console_that_there_may_be_and_a_release_has_none(
    image: Image, dev: Image, console: str
) -> None:
    wanted = f"/usr/lib/systemd/system/multi-user.target.wants/serial-getty@{console}.service"
    assert dev.root[wanted].kind is Kind.SYMLINK  # systemd ignores anything else there
    unit = dev.root.resolve(wanted)
    assert unit
    assert "BindsTo" not in dev.root.text(unit.path)  # which would wait for consoles that are not there
    assert wanted not in image.root
    assert image.root["/etc/systemd/system/getty.target"].target == "/dev/null"


def test_only_sudo_raises_privileges_in_a_dev_image_too(dev: Image) -> None:
    found = [path for path, row in dev.root.entries.items() if row.mode & 0o6000 and row.kind is not Kind.SYMLINK]
    assert found == ["/usr/bin/sudo"]
