"""Shares: where they may go, how they are mounted, and that the kernel's table is the only list of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from makers.guest import MOUNTINFO, Machine
from stereos_guest import protocol

ROW = "{number} 21 0:40 / {path} {options},nosuid,nodev - virtiofs {tag} rw\n"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


def share(path: str, tag: str = "share0", **more: object) -> dict[str, object]:
    return {"tag": tag, "guest_path": path, "fs_type": "virtiofs", **more}


def mounted(machine: Machine, *paths: str) -> None:
    rows = [ROW.format(number=30 + n, path=path, options="rw", tag=f"share{n}") for n, path in enumerate(paths)]
    machine.mountinfo(MOUNTINFO + "".join(rows))


def test_a_share_is_mounted_inside_the_folder_that_was_opened(machine: Machine) -> None:
    assert machine.error("mount", share("/workspace")) == ""
    mount, chown = machine.ran
    assert mount == [
        *("/usr/bin/mount", "--no-canonicalize", "-t", "virtiofs", "-o", "nosuid,nodev", "--", "share0", "."),
        str(machine.root / "workspace"),
    ]
    assert chown == ["/usr/bin/chown", "agent:agent", ".", str(machine.root / "workspace")]


def test_a_read_only_share_and_one_of_9p_get_their_options(machine: Machine) -> None:
    machine.error("mount", share("/workspace", read_only=True))
    machine.error("mount", share("/data", tag="share1", fs_type="9p"))
    options = [argv[argv.index("-o") + 1] for argv in machine.ran if "-o" in argv]
    assert options == ["nosuid,nodev,ro", "trans=virtio,version=9p2000.L,nosuid,nodev"]


def test_a_host_that_said_hello_maps_owners_itself(machine: Machine) -> None:
    assert machine.ask(machine.greeted(), "mount", share("/workspace"))[0]["payload"]["ok"]
    assert [Path(argv[0]).name for argv in machine.ran] == ["mount"]


def test_missing_folders_are_made(machine: Machine) -> None:
    assert machine.error("mount", share("/home/agent/workspace/deep/er/")) == ""
    assert (machine.root / "home/agent/workspace/deep/er").is_dir()


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/nix", "/etc", "/bin", "/boot", "/dev", "/proc", "/sys", "/run", "/usr", "/lib", "/lib64", "/sbin"),
        *("/var", "/root", "/state", "/home", "/tmp", "/etc/ssh", "/run/stereos/secrets", "/usr/lib/stereos/x"),
        *("//etc//ssh", "/workspace/../etc", "/home/..", "/./etc/.", "/.."),
    ],
)
def test_nothing_is_mounted_over_the_system(machine: Machine, path: str) -> None:
    assert machine.error("mount", share(path)).startswith("nothing may be mounted at ")
    assert machine.ran == []


@pytest.mark.parametrize(
    "wrong",
    [
        share("workspace"),
        share(""),
        share("/workspace", tag=""),
        share("/workspace", tag="-o"),
        share("/workspace", tag="LABEL=x"),
        share("/workspace", tag="a b"),
        share("/workspace", tag="x" * 40),
        share("/workspace", fs_type="ext4"),
        share("/workspace", fs_type=""),
        share("/workspace", read_only="yes"),
        share("/work\nspace"),
        {},
    ],
)
def test_a_share_needs_its_fields(machine: Machine, wrong: dict[str, object]) -> None:
    refused = machine.error("mount", wrong)
    if wrong.get("tag") == "-o":  # letters, digits and - are a tag, which mount(8) gets after "--"
        assert machine.ran[0][-4:-1] == ["--", "-o", "."]
    else:
        assert refused
        assert machine.ran == []


def test_no_link_is_followed_to_where_a_share_goes(machine: Machine) -> None:
    (machine.root / "home/agent/mine").symlink_to(machine.root / "etc")
    assert "is not a folder" in machine.error("mount", share("/home/agent/mine"))
    assert "is not a folder" in machine.error("mount", share("/home/agent/mine/ssh"))
    assert machine.ran == []


def test_a_place_is_mounted_once(machine: Machine) -> None:
    mounted(machine, "/workspace")
    assert machine.error("mount", share("/workspace/", tag="other")) == "/workspace is mounted already"
    machine.says["mount"] = None
    host = machine.greeted()
    machine.ask(host, "mount", share("/data"), 1)
    assert not machine.ask(host, "mount", share("/data"), 2)[0]["payload"]["ok"]
    machine.going_on[0]("wrong fs type")
    [told] = machine.ask(host, "list_mounts", id=3)[:1]
    assert told["payload"] == {"reply_to": "mount", "ok": False, "error": "wrong fs type"}
    machine.says["mount"] = ""
    assert machine.ask(host, "mount", share("/data"), 4)[0]["payload"]["ok"]


def test_a_slow_mount_holds_up_nobody_who_numbers_requests(machine: Machine) -> None:
    machine.says["mount"] = None
    host = machine.greeted()
    assert machine.ask(host, "mount", share("/data"), 1) == []
    assert machine.ask(host, "ping", id=2) == [{"type": "pong", "id": 2}]
    assert machine.ask(machine.session(), "ping") == [{"type": "pong"}]


def test_what_mount_says_of_its_failure_is_told(machine: Machine) -> None:
    machine.says["mount"] = "mount: .: wrong fs type, bad option, bad superblock on share0"
    assert "bad superblock" in machine.error("mount", share("/workspace"))


def test_what_is_mounted_is_what_the_kernel_says(machine: Machine) -> None:
    machine.mountinfo(
        MOUNTINFO
        + ROW.format(number=30, path="/workspace", options="rw", tag="share0")
        + ROW.format(number=31, path="/home/agent/a\\040b", options="ro", tag="share1").replace("virtiofs", "9p")
    )
    [told] = machine.ask(machine.greeted(), "list_mounts", id=1)
    assert told["payload"]["mounts"] == [
        {"tag": "share0", "guest_path": "/workspace", "fs_type": "virtiofs", "read_only": False},
        {"tag": "share1", "guest_path": "/home/agent/a b", "fs_type": "9p", "read_only": True},
    ]


def test_one_share_is_taken_away(machine: Machine) -> None:
    mounted(machine, "/workspace")
    host = machine.greeted()
    assert machine.ask(host, "unmount", {"guest_path": "/workspace/"})[0]["payload"]["ok"]
    assert machine.ran == [["/usr/bin/umount", "--no-canonicalize", "--", "/workspace"]]


@pytest.mark.parametrize("path", ["/data", "/proc", "", "/"])
def test_only_shares_are_taken_away(machine: Machine, path: str) -> None:
    mounted(machine, "/workspace")
    assert not machine.ask(machine.greeted(), "unmount", {"guest_path": path})[0]["payload"]["ok"]
    assert machine.ran == []


def test_before_the_end_all_shares_are_taken_away_the_last_first_whatever_goes_wrong(machine: Machine) -> None:
    mounted(machine, "/workspace", "/workspace/deeper")
    machine.says["umount"] = "target is busy"
    machine.ask(machine.session(), protocol.SHUTDOWN)
    machine.turn()
    assert [argv[-1] for argv in machine.ran] == ["/workspace/deeper", "/workspace", "/usr/bin/sync"]
    assert machine.switched_off == 1
