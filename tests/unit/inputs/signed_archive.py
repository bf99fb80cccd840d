"""A tiny signed Debian archive in a folder: as many packages as a test needs, signed with a key of its own."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

DATE = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
HAS_TOOLS = all(shutil.which(tool) for tool in ("gpg", "gpgv", "apt-get"))


@dataclass(frozen=True)
class Package:
    """A package in the index. The .deb itself is never opened, so any bytes will do for it."""

    name: str
    version: str = "1.0"
    arch: str = "amd64"
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return f"{self.name} {self.version} {self.arch}".encode()

    @property
    def path(self) -> str:
        version = self.version.rpartition(":")[2]  # file names have no epoch
        return f"pool/main/{self.name[0]}/{self.name}/{self.name}_{version}_{self.arch}.deb"

    def stanza(self) -> str:
        fields = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": self.arch,
            "Maintainer": "Nobody <nobody@example.invalid>",
            "Description": self.name,
            "Filename": self.path,
            "Size": str(len(self.content)),
            "SHA256": hashlib.sha256(self.content).hexdigest(),
            **self.fields,
        }
        return "".join(f"{key}: {value}\n" for key, value in fields.items())


class Signer:
    """A key in a home of its own."""

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o700)
        self._gpg = [
            "gpg",
            "--homedir",
            str(home),
            "--batch",
            "--quiet",
            "--passphrase",
            "",
        ]
        self._run("--quick-generate-key", "archive@example.invalid", "ed25519", "sign", "never")
        self.keyring = home / "archive.gpg"
        self._run("--export", "--output", str(self.keyring))

    def _run(self, *words: str) -> None:
        subprocess.run([*self._gpg, *words], check=True, capture_output=True)

    def sign(self, text: Path, signed: Path) -> None:
        signed.unlink(missing_ok=True)
        self._run("--clearsign", "--output", str(signed), str(text))

    def close(self) -> None:
        """End the agent that gpg started for this home."""
        subprocess.run(["gpgconf", "--homedir", self._gpg[2], "--kill", "all"], check=False, capture_output=True)


def publish(
    root: Path,
    suite: str,
    packages: Sequence[Package],
    signer: Signer | None,
    *,
    date: datetime = DATE,
    codename: str | None = None,
) -> None:
    """Write one suite under `root`, with the .debs that it lists. Without a signer nothing is signed."""
    suite_folder = root / "dists" / suite
    entries = []
    for arch in ("amd64", "arm64"):
        stanzas = [package.stanza() for package in packages if package.arch in (arch, "all")]
        plain = "\n".join(stanzas).encode()
        packed = gzip.compress(plain, mtime=0)
        folder = f"main/binary-{arch}"
        (suite_folder / folder).mkdir(parents=True, exist_ok=True)
        (suite_folder / folder / "Packages.gz").write_bytes(packed)
        for name, index in (("Packages", plain), ("Packages.gz", packed)):
            entries.append(f" {hashlib.sha256(index).hexdigest()} {len(index)} {folder}/{name}\n")
    for package in packages:
        file = root / package.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(package.content)
    release = suite_folder / "Release"
    release.write_text(
        f"Origin: Debian\nSuite: stable\nCodename: {codename or suite}\nDate: {format_datetime(date, usegmt=True)}\n"
        f"Architectures: all amd64 arm64\nComponents: main\nSHA256:\n{''.join(entries)}"
    )
    signed = suite_folder / "InRelease"
    if signer:
        signer.sign(release, signed)
    else:
        shutil.copy(release, signed)
