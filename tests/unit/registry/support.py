"""A manifest to publish, without a dist."""

from __future__ import annotations

import hashlib

from stereo.model.manifest import Manifest, parse_manifest, render_manifest

_ROOT = "ab" * 32
_FILES = ("bzImage", "initrd", "cmdline", "init")


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sample(version: str = "2026.01.02.0", arch: str = "x86_64-linux") -> Manifest:
    """A valid manifest whose files have the digests of their names."""
    disks = {
        name: {
            "file": f"stereos.{end}",
            "sha256": sha(end),
            "size": 8192,
            "compressed_file": f"stereos.{end}.zst",
            "compressed_sha256": sha(f"{end}.zst"),
            "compressed_size": 1024,
        }
        for name, end in (("raw", "img"), ("qcow2", "qcow2"))
    }
    plain = {name.lower(): {"file": name, "sha256": sha(name), "size": 100} for name in _FILES}
    sboms = {"cyclonedx": "sbom.cdx.json", "spdx": "sbom.spdx.json"}
    return Manifest.model_validate(
        {
            "schema": 2,
            "name": "sample-mixtape",
            "version": version,
            "arch": arch,
            "dev": False,
            "artifacts": {**disks, "kernel": plain},
            "sbom": {name: {"file": file, "sha256": sha(file), "size": 50} for name, file in sboms.items()},
            "build": {
                "source_revision": "abcdef",
                "plan_key": "0" * 64,
                "lock_sha256": "1" * 64,
                "tools_lock_sha256": "2" * 64,
                "epoch": 1_700_000_000,
                "level": 3,
                "tools": {"mkosi": "27.1"},
            },
            "image": {
                "kernel_version": "6.12.0",
                "root_hash": _ROOT,
                "disk_uuid": "99999999-8888-7777-6666-555555555555",
                "partition": [
                    {
                        "label": "root",
                        "type": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
                        "uuid": "99999999-8888-7777-6666-444444444444",
                        "offset": 512,
                        "size": 4096,
                        "sha256": "3" * 64,
                    }
                ],
            },
            "agent": {"harness": "none", "api_keys": [], "packages": []},
        }
    )


def sample_with_digest(version: str = "2026.01.02.0", arch: str = "x86_64-linux") -> tuple[Manifest, str, int]:
    """The same, with the digest and size of its mixtape.toml: what `documents` asks for."""
    text = render_manifest(sample(version, arch)).encode()
    return parse_manifest(text, "mixtape.toml"), hashlib.sha256(text).hexdigest(), len(text)
