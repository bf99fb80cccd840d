"""check and vmlinux of a real dist: what its kernel and drivers are, and libvirt's own schema on the domains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from makers.bootable import make_bootable
from makers.command import Stereo
from makers.tools import program
from stereo.artifacts.elf import Elf
from stereo.artifacts.region import OpenFile
from stereo.hypervisors.answer import answers
from stereo.hypervisors.facts import Facts, read_facts
from stereo.hypervisors.start import Write
from stereo.model.architecture import Architecture
from stereo.process import CommandFailed

SCHEMA = "usr/share/libvirt/schemas/domain.rng"


@pytest.fixture(scope="module")
def answer(dist: Path, stereo: Stereo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What check says of the dist, without options: Apple's hypervisor runs no x86_64, so the status is 1."""
    said = stereo("check", dist, "--json", cwd=tmp_path_factory.mktemp("check"), status=1).stdout
    found: dict[str, Any] = json.loads(said)
    return found


def forms(answer: dict[str, Any], name: str) -> dict[str, Any]:
    (one,) = [row for row in answer["hypervisors"] if row["name"] == name]
    return {form["form"]: form for form in one["forms"]}


def test_which_forms_of_an_image_of_ours_each_hypervisor_runs(answer: dict[str, Any]) -> None:
    fitting = {row["name"]: [form["form"] for form in row["forms"] if form["fits"]] for row in answer["hypervisors"]}
    every = ["raw", "qcow2", "kernel"]
    assert fitting == {
        "applevirt": [],
        "qemu": every,
        "libvirt": every,
        "cloud-hypervisor": every,
        "firecracker": ["kernel"],
    }
    assert not answer["fits"]


@pytest.mark.parametrize("name", ["qemu", "libvirt", "cloud-hypervisor"])
def test_an_image_of_ours_lacks_nothing_there(answer: dict[str, Any], name: str) -> None:
    for form in forms(answer, name).values():
        assert {row["verdict"] for row in form["rows"]} == {"ok"}


def test_an_image_of_ours_lacks_under_firecracker_what_that_has_not(answer: dict[str, Any]) -> None:
    rows = {row["check"]: row for row in forms(answer, "firecracker")["kernel"]["rows"]}
    assert {what for what, row in rows.items() if row["verdict"] != "ok"} == {"shares", "power off"}
    assert "with a PVH entry" in rows["kernel"]["message"]
    assert rows["devices"]["message"] == "virtio by MMIO, in the initrd"


def test_the_kernel_comes_out_once_and_verify_knows_it(dist: Path, stereo: Stereo, tmp_path: Path) -> None:
    file = tmp_path / "vmlinux"
    first = json.loads(stereo("vmlinux", dist, "-o", file, "--json", cwd=tmp_path).stdout)
    again = json.loads(stereo("vmlinux", dist, "-o", file, "--json", cwd=tmp_path).stdout)
    assert (first["written"], again["written"]) == (True, False)
    with OpenFile(file) as kernel:
        assert Elf(kernel.region).pvh_entry() == first["pvh_entry"]


def _domains(facts: Facts) -> dict[str, str]:
    (answer,) = answers(facts, ["libvirt"], None, Path("/srv"))
    return {
        way.judged.form.value: next(one.content for one in way.steps if isinstance(one, Write)) for way in answer.ways
    }


@pytest.mark.parametrize("arch", list(Architecture))
def test_libvirts_own_schema_takes_every_domain(arch: Architecture, test_tools: Path, tmp_path: Path) -> None:
    xmllint = program(test_tools, "xmllint")
    folder = tmp_path / "a & b <c>"
    domains = _domains(read_facts(folder, make_bootable(folder, arch)))
    assert set(domains) == {"raw", "qcow2", "kernel"}
    for form, text in domains.items():
        (tmp_path / f"{form}.xml").write_text(text)
        xmllint("--noout", "--relaxng", test_tools / SCHEMA, tmp_path / f"{form}.xml")
    (tmp_path / "wrong.xml").write_text(domains["raw"].replace("memory", "recollection"))
    with pytest.raises(CommandFailed):
        xmllint("--noout", "--relaxng", test_tools / SCHEMA, tmp_path / "wrong.xml")
