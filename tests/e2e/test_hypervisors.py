"""What `stereo check` shows for QEMU is run as it stands, and the kernel of `stereo vmlinux` boots where it has to."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from makers.command import Stereo
from makers.shown import ready_from
from stereo.model.architecture import Architecture

pytestmark = [pytest.mark.boot, pytest.mark.build]

HERE = Architecture(platform.machine())


def commands(stereo: Stereo, dist: Path, folder: Path) -> dict[str, list[str]]:
    """What is shown for QEMU, by form."""
    (found,) = json.loads(stereo("check", dist, "--for", "qemu", "--json", cwd=folder).stdout)["hypervisors"]
    return {form["form"]: form["steps"][0]["run"] for form in found["forms"]}


@pytest.fixture(scope="module")
def shown(dist: Path, stereo: Stereo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return commands(stereo, dist, tmp_path_factory.mktemp("shown"))


@pytest.mark.parametrize("form", ["raw", "kernel"])
def test_the_command_that_is_shown_boots_to_ready(
    form: str, shown: dict[str, list[str]], tools_tree: Path, tmp_path: Path, dist: Path
) -> None:
    before = (dist / "stereos.img").stat().st_mtime_ns
    ready_from(shown[form], tools_tree, HERE, tmp_path / "machine")
    assert (dist / "stereos.img").stat().st_mtime_ns == before


@pytest.mark.skipif(HERE is not Architecture.X86_64, reason="a kernel of aarch64 is no ELF file")
def test_the_elf_kernel_boots_to_ready_in_the_place_of_bzimage(
    shown: dict[str, list[str]], dist: Path, stereo: Stereo, tools_tree: Path, tmp_path: Path
) -> None:
    """Entered by its PVH note, as QEMU and Cloud Hypervisor do it."""
    kernel = tmp_path / "vmlinux"  # not in the dist, which is everybody's
    stereo("vmlinux", dist, "-o", kernel, cwd=tmp_path)
    argv = [str(kernel) if word == str(dist / "bzImage") else word for word in shown["kernel"]]
    assert argv != shown["kernel"]
    ready_from(argv, tools_tree, HERE, tmp_path / "machine")


def test_the_command_for_aarch64_boots_to_ready_by_uefi(
    arm: Path, stereo: Stereo, tools_tree: Path, tmp_path: Path
) -> None:
    argv = commands(stereo, arm, tmp_path)["raw"]
    ready_from(argv, tools_tree, Architecture.AARCH64, tmp_path / "machine")
