"""Resolving mixtapes: what a child takes from its parents, and what each architecture sees."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from stereo.errors import UsageError
from stereo.model.architecture import Architecture
from stereo.model.mixtape import Mixtape, Program, list_mixtapes, load_mixtape
from stereo.model.mixtape_file import Harness

X86, ARM = Architecture.X86_64, Architecture.AARCH64
Write = Callable[..., Path]


def public_key(comment: str = "me@here") -> str:
    """An Ed25519 key that is well formed, if of little use."""
    fields = [b"ssh-ed25519", bytes(32)]
    blob = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} {comment}"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write mixtapes NAME="text" and return their folder."""
    folder = tmp_path / "mixtapes"
    folder.mkdir()

    def write_files(**files: str) -> Path:
        for name, text in files.items():
            folder.joinpath(f"{name.replace('_', '-')}.toml").write_text(text)
        return folder

    return write_files


BASE = """
summary = "The ground"
architectures = ["x86_64", "aarch64"]
api_keys = ["A_KEY"]
packages.debian = ["tmux", "less"]
agent.extra_packages.debian = [{ name = "git", programs = ["git"] }, "ca-certificates"]
agent.environment = { EDITOR = "vi", PAGER = "less" }
"""


def load(folder: Path, name: str = "child") -> Mixtape:
    return load_mixtape(name, folder, dev_key=None)


def test_lists_of_a_parent_come_first_and_repeats_go(write: Write) -> None:
    child = 'summary = "c"\nextends = "base"\napi_keys = ["B_KEY", "A_KEY"]\npackages.debian = ["less", "htop"]'
    mixtape = load(write(base=BASE, child=child))
    assert mixtape.api_keys == ("A_KEY", "B_KEY")
    assert mixtape.system_packages == ("tmux", "less", "htop")


def test_values_of_a_child_take_the_place_of_its_parents(write: Write) -> None:
    child = """
        summary = "c"
        extends = "base"
        architectures = ["x86_64"]
        agent.environment = { EDITOR = "ed" }
    """
    mixtape = load(write(base=BASE, child=child))
    assert mixtape.summary == "c"
    assert mixtape.architectures == (X86,)
    assert mixtape.environment == {"EDITOR": "ed", "PAGER": "less"}


def test_what_a_child_leaves_out_is_its_parents(write: Write) -> None:
    mixtape = load(write(base=BASE, child='summary = "c"\nextends = "base"'))
    assert mixtape.architectures == (X86, ARM)
    assert mixtape.harness is Harness.NONE
    assert mixtape.lineage == ("child", "base")


def test_a_package_named_again_gets_the_programs_of_both_and_the_later_version(write: Write) -> None:
    base = BASE + 'agent.extra_packages.npm = [{ name = "t", version = "1.0.0", programs = ["t"] }]'
    child = """
        summary = "c"
        extends = "base"
        agent.extra_packages.npm = [{ name = "t", version = "2.0.0", programs = ["u"] }]
        agent.extra_packages.debian = [{ name = "git", programs = ["git-shell"] }]
    """
    mixtape = load(write(base=base, child=child))
    (package,) = mixtape.extra_packages(X86).npm
    assert package.requirement == "t@2.0.0"
    assert [program.name for program in mixtape.programs(X86)] == ["git", "git-shell", "t", "u"]


def test_a_package_named_again_without_version_keeps_its_parents(write: Write) -> None:
    base = BASE + 'agent.extra_packages.pypi = [{ name = "t", version = "1.0", programs = ["t"] }]'
    child = 'summary = "c"\nextends = "base"\nagent.extra_packages.pypi = [{ name = "t" }]'
    (package,) = load(write(base=base, child=child)).extra_packages(X86).pypi
    assert package.requirement == "t==1.0"


def test_a_list_of_programs_names_files_where_the_source_puts_them(write: Write) -> None:
    text = (
        BASE
        + """
        agent.extra_packages.npm = [{ name = "n", programs = ["n"] }]
        agent.extra_packages.pypi = [{ name = "py", programs = ["p"] }]
        [[agent.extra_packages.url]]
        name = "archive"
        url = "https://example.org/a.tar.gz"
        sha256 = "%s"
        archive = "tar"
        programs = ["u"]
    """
        % ("0" * 64)
    )
    files = {program.name: program.file for program in load(write(child=text)).programs(X86)}
    assert files == {"git": "usr/bin/git", "n": "bin/n", "p": "bin/p", "u": "u"}


def test_placeholders_become_each_ecosystems_name_of_the_architecture(write: Write) -> None:
    text = (
        BASE
        + """
        [[agent.extra_packages.npm]]
        name = "@a/tool-{npm_arch}"
        version = "1.2.3-{deb_arch}"
        programs = { tool = "vendor/{arch}/tool" }
    """
    )
    mixtape = load(write(child=text))
    (x86,) = mixtape.extra_packages(X86).npm
    (arm,) = mixtape.extra_packages(ARM).npm
    assert (x86.requirement, dict(x86.programs)) == ("@a/tool-x64@1.2.3-amd64", {"tool": "vendor/x86_64/tool"})
    assert (arm.requirement, dict(arm.programs)) == ("@a/tool-arm64@1.2.3-arm64", {"tool": "vendor/aarch64/tool"})


def test_a_package_for_one_architecture_is_not_on_the_other(write: Write) -> None:
    text = BASE + 'agent.extra_packages.npm = [{ name = "n", programs = ["n"], architectures = ["aarch64"] }]'
    mixtape = load(write(child=text))
    assert mixtape.extra_packages(X86).npm == ()
    assert Program("n", "npm", "n", "bin/n") in mixtape.programs(ARM)


def test_debian_packages_are_those_of_system_and_agent(write: Write) -> None:
    mixtape = load(write(child=BASE))
    assert mixtape.debian_packages(X86) == ("ca-certificates", "git", "less", "tmux")


def test_an_ssh_server_comes_with_the_first_key_and_not_before(write: Write) -> None:
    folder = write(child=BASE, open=BASE + f'ssh.authorized_keys = ["{public_key()}"]')
    assert not load(folder).ssh
    assert "openssh-server" not in load(folder).debian_packages(X86)
    assert load(folder, "open").ssh
    assert "openssh-server" in load(folder, "open").debian_packages(X86)


def test_the_dev_profile_adds_key_console_and_tools_and_marks_the_mixtape(write: Write) -> None:
    folder = write(child=BASE)
    plain, dev = load(folder), load_mixtape("child-dev", folder, dev_key=public_key() + "\n")
    assert (dev.name, dev.base_name, dev.dev) == ("child-dev", "child", True)
    assert not plain.dev
    assert dev.authorized_keys == (public_key(),)
    assert {"strace", "openssh-server"} <= set(dev.debian_packages(X86))
    assert dev.programs(X86) == plain.programs(X86)


def test_the_dev_profile_without_a_key_says_how_to_make_one(write: Write) -> None:
    with pytest.raises(UsageError) as caught:
        load_mixtape("child-dev", write(child=BASE), dev_key=None)
    assert "ssh-keygen" in str(caught.value.hint)


def test_the_dev_profile_can_be_looked_at_without_a_key(write: Write) -> None:
    mixtape = load_mixtape("child-dev", write(child=BASE), dev_key=None, need_dev_key=False)
    assert mixtape.dev
    assert mixtape.authorized_keys == ()


def test_a_developers_key_that_is_none_is_refused(write: Write) -> None:
    with pytest.raises(UsageError, match="unusable"):
        load_mixtape("child-dev", write(child=BASE), dev_key="-----BEGIN OPENSSH PRIVATE KEY-----")


def test_an_unknown_name_is_answered_with_the_nearest(write: Write) -> None:
    with pytest.raises(UsageError) as caught:
        load(write(opencode_mixtape=BASE), "opencode-mixtap")
    assert caught.value.hint == "did you mean 'opencode-mixtape'?"


@pytest.mark.parametrize("name", ["", "-dev", "../child", "/etc/passwd", "child.toml", "child-dev-dev"])
def test_a_name_is_never_a_path(write: Write, name: str) -> None:
    with pytest.raises(UsageError):
        load(write(child=BASE), name)


def test_a_missing_folder_is_an_error_of_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder of mixtapes"):
        load(tmp_path / "absent")


def test_the_list_is_sorted_and_without_dev_profiles(write: Write) -> None:
    found = list_mixtapes(write(b=BASE, a='summary = "a"\nextends = "b"'))
    assert [mixtape.name for mixtape in found] == ["a", "b"]


def test_the_order_of_keys_in_a_file_does_not_change_the_mixtape(write: Write) -> None:
    lines = BASE.strip().splitlines()
    folder = write(one="\n".join(lines), two="\n".join(reversed(lines)))
    one, two = (load(folder, name).model_dump(exclude={"name", "base_name", "lineage"}) for name in ("one", "two"))
    assert one == two


def test_architectures_know_their_other_names() -> None:
    assert [(arch.debian, arch.npm, arch.system) for arch in (X86, ARM)] == [
        ("amd64", "x64", "x86_64-linux"),
        ("arm64", "arm64", "aarch64-linux"),
    ]
    assert Architecture.from_system("aarch64-linux") is ARM


@pytest.mark.parametrize("system", ["x86_64", "x86_64-darwin", "riscv64-linux", "", "-linux"])
def test_a_foreign_system_is_no_architecture(system: str) -> None:
    with pytest.raises(ValueError):
        Architecture.from_system(system)
