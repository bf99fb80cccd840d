"""Each ecosystem's names of an architecture."""

from __future__ import annotations

import pytest

from stereo.model.architecture import Architecture


@pytest.mark.parametrize(
    ("machine", "arch"),
    [
        ("x86_64", Architecture.X86_64),
        ("AMD64", Architecture.X86_64),
        ("aarch64", Architecture.AARCH64),
        ("arm64", Architecture.AARCH64),  # as macOS says it
    ],
)
def test_a_host_is_known_by_what_its_system_calls_it(machine: str, arch: Architecture) -> None:
    assert Architecture.from_machine(machine) is arch


@pytest.mark.parametrize("machine", ["i686", "armv7l", "riscv64"])
def test_another_host_is_none_of_ours(machine: str) -> None:
    with pytest.raises(ValueError, match=machine):
        Architecture.from_machine(machine)
