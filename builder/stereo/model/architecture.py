"""The machines that we build for, and what each ecosystem calls them."""

from __future__ import annotations

from enum import StrEnum


class Architecture(StrEnum):
    """A CPU architecture under its kernel name (`uname -m`)."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"

    @property
    def debian(self) -> str:
        """Debian's name, as in `dpkg --print-architecture`."""
        return {"x86_64": "amd64", "aarch64": "arm64"}[self]

    @property
    def npm(self) -> str:
        """Node's name, as in `process.arch`."""
        return {"x86_64": "x64", "aarch64": "arm64"}[self]

    @property
    def system(self) -> str:
        """The name in mixtape.toml, as existing consumers know it."""
        return f"{self.value}-linux"

    @classmethod
    def from_machine(cls, machine: str) -> Architecture:
        """What `platform.machine()` tells, on macOS too. Raises ValueError for one that is not ours."""
        return cls({"arm64": "aarch64", "amd64": "x86_64"}.get(machine.lower(), machine))

    @classmethod
    def from_system(cls, system: str) -> Architecture:
        """The architecture of a mixtape.toml's `arch`. Raises ValueError for any other text."""
        value, dash, kernel = system.rpartition("-")
        if not dash or kernel != "linux":
            raise ValueError(f"{system!r} is not ARCH-linux")
        return cls(value)
