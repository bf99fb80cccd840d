"""The plan: the same inputs give the same keys and bytes, and a change reaches exactly the steps that it concerns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stereo.build.files import read_repository
from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.model.lock import Deb, Lock, NpmPackage
from stereo.model.mixtape import Mixtape, load_mixtape
from stereo.paths import Checkout
from stereo.plan.packages import image_request, tools_request
from stereo.plan.plan import Plan, make_plan
from stereo.plan.render import kernel_release
from stereo.plan.tree import Entry, Kind, Tree, text, tree_digest

ARCH = Architecture.X86_64
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f developer"
FILES = read_repository(Checkout.containing_this_package())


def mixtape(name: str = "opencode-mixtape") -> Mixtape:
    return load_mixtape(name, Checkout.containing_this_package().mixtapes, dev_key=KEY)


def deb(name: str, digit: str = "a", version: str = "1") -> Deb:
    return Deb(
        name=name,
        version=version,
        arch="amd64",
        archive="main",
        path=f"pool/main/x/{name}_{version}_amd64.deb",
        size=1,
        sha256=digit * 64,
    )


def lock_of(tape: Mixtape, *debs: Deb) -> Lock:
    request = image_request(tape, ARCH)
    kernel = deb("linux-image-6.12.117+deb13-cloud-amd64", "b")
    npm = tuple(
        NpmPackage(
            path=f"node_modules/{name.partition('@')[0]}",
            name=name.partition("@")[0],
            version="1.2.3",
            integrity="sha512-" + "A" * 86 + "==",
            size=1,
            sha256="c" * 64,
        )
        for name in request.npm
    )
    requested = {**request.groups, "npm": request.npm} if request.npm else request.groups
    return Lock(
        name=tape.name, arch=ARCH, epoch=1_700_000_000, requested=requested, debian={"image": (kernel, *debs)}, npm=npm
    )


TOOLS = Lock(
    name="tools",
    arch=ARCH,
    epoch=1_700_000_000,
    requested=tools_request(ARCH).groups,
    debian={"tools": (deb("mkosi"),)},
)


def plan(
    tape: Mixtape | None = None,
    lock: Lock | None = None,
    tools: Lock = TOOLS,
    files: Tree = FILES,
    version: str = "2026.01.31.0",
    epoch: int | None = None,
    level: int = 19,
) -> Plan:
    tape = tape or mixtape()
    return make_plan(tape, lock or lock_of(tape), tools, files, version=version, epoch=epoch, level=level)


def changed(before: Plan, after: Plan) -> list[str]:
    return [name for (name, old), (_, new) in zip(before.steps, after.steps, strict=True) if old != new]


def test_the_same_inputs_give_the_same_plan() -> None:
    assert plan() == plan()


def test_a_changed_overlay_leaves_tools_and_packages_alone() -> None:
    files = {**FILES, "overlays/base/etc/new": text("x")}
    assert changed(plan(), plan(files=files)) == ["image", "dist"]


def test_a_changed_guest_daemon_leaves_tools_and_packages_alone() -> None:
    files = {**FILES, "guest/stereosd": text("x", Kind.PROGRAM)}
    assert changed(plan(), plan(files=files)) == ["image", "dist"]


def test_an_overlay_of_a_profile_that_is_not_used_changes_nothing() -> None:
    assert changed(plan(), plan(files={**FILES, "overlays/dev/etc/new": text("x")})) == []


def test_another_version_makes_another_image_from_the_same_packages() -> None:
    assert changed(plan(), plan(version="2026.01.31.1")) == ["image", "dist"]


def test_another_level_assembles_again_and_nothing_else() -> None:
    assert changed(plan(), plan(level=3)) == ["dist"]


def test_another_package_installs_again() -> None:
    assert changed(plan(), plan(lock=lock_of(mixtape(), deb("new", "d")))) == ["packages", "image", "dist"]


def test_another_tool_builds_everything_again() -> None:
    tools = TOOLS.model_copy(update={"debian": {"tools": (deb("mkosi", "e"),)}})
    assert changed(plan(), plan(tools=tools)) == ["tools", "packages", "image", "dist"]


def test_another_epoch_installs_again() -> None:
    assert changed(plan(), plan(epoch=1_700_000_001)) == ["packages", "image", "dist"]


def test_an_executable_bit_is_part_of_the_key() -> None:
    assert tree_digest({"a": Entry(b"x")}) != tree_digest({"a": Entry(b"x", Kind.PROGRAM)})


def test_names_and_contents_cannot_be_confused_in_a_digest() -> None:
    assert tree_digest({"ab": Entry(b"c")}) != tree_digest({"a": Entry(b"bc")})


def test_uuids_and_salt_differ_between_mixtapes_but_not_versions_so_that_an_update_shares_its_hash_tree() -> None:
    assert plan().seed == plan(version="2026.01.31.1").seed != plan(mixtape("base")).seed


def test_a_lock_that_does_not_answer_the_mixtape_is_refused_with_the_remedy() -> None:
    with pytest.raises(StereoError) as caught:
        plan(lock=lock_of(mixtape("base")).model_copy(update={"name": "opencode-mixtape"}))
    assert "npm: opencode-linux-x64-baseline is asked for, but not locked" in caught.value.what
    assert caught.value.hint == "stereo lock opencode-mixtape"


def test_only_the_dev_profile_brings_key_console_and_an_ssh_server_that_starts_by_itself() -> None:
    release, dev = plan(), plan(mixtape("opencode-mixtape-dev"))
    for path in ("etc/ssh/authorized_keys.d/agent", "usr/lib/systemd/system-preset/50-ssh.preset"):
        assert (f"identity/{path}" in release.image, f"identity/{path}" in dev.image) == (False, True)
    present = [any(path.startswith("overlays/dev/") for path in one.image) for one in (release, dev)]
    assert present == [False, True]
    assert b"VARIANT_ID=dev" in dev.image["identity/usr/lib/os-release"].data
    assert b"VARIANT_ID" not in release.image["identity/usr/lib/os-release"].data


def test_programs_lead_into_the_packages_that_bring_them() -> None:
    agent = json.loads(plan().packages["agent.json"].data)
    folder = "usr/lib/stereos/agent/npm/node_modules/opencode-linux-x64-baseline"
    assert agent["programs"]["opencode"] == f"/{folder}/bin/opencode"
    assert agent["programs"]["rg"] == "/usr/bin/rg"
    assert [(one["kind"], one["into"]) for one in agent["unpack"]] == [("npm", folder)]


def test_the_tree_names_no_address() -> None:
    """But for the guest's own programs, which speak HTTP."""
    for path, entry in plan().tree.items():
        assert b"http" not in entry.data or path.startswith(("image/identity/home/", "image/guest/")), path


def test_two_kernels_in_a_lock_are_refused() -> None:
    lock = lock_of(mixtape(), deb("linux-image-6.13.0+deb13-cloud-amd64", "d"))
    with pytest.raises(StereoError, match="2 kernels"):
        kernel_release(lock)


def test_identity_names_version_and_mixtape() -> None:
    image = plan().image
    assert image["identity/etc/hostname"].data == b"opencode-mixtape\n"
    assert b'PRETTY_NAME="stereOS 2026.01.31.0 (opencode-mixtape)"\n' in image["identity/usr/lib/os-release"].data
    assert image["identity/etc/motd"].data.startswith(b"stereOS 2026.01.31.0 (opencode-mixtape)\n")


def test_the_rendered_tree_holds_both_stages_and_a_script_to_build_them() -> None:
    tree = plan().tree
    assert {Path(path).parts[0] for path in tree} == {"packages", "image", "apt", "build"}
    assert tree["build"].kind is Kind.PROGRAM
