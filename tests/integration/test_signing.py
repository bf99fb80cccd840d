"""A signed dist in the hands of other people's programs: sha256sum, cosign, openssl, gpgv, and systemd's own.

Each must accept what was signed, and must refuse it with a bit flipped, with another key, for another file.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from makers.altering import flipped
from makers.command import Stereo
from makers.rooted import run_rooted
from makers.served import served
from makers.tools import Tool, program
from stereo.errors import StereoError
from stereo.paths import Checkout
from stereo.process import CommandFailed, closed_environment, quote, run

ATTESTED = {"release": "https://in-toto.io/attestation/release/v0.1", "provenance": "slsaprovenance1"}
"""By our short name of a statement: what cosign calls its type."""


@dataclass(frozen=True)
class Signed:
    """A dist that the real command line has signed, and the key's files."""

    dist: Path
    key: Path

    def file(self, suffix: str) -> Path:
        """NAME.pub or NAME.gpg"""
        return self.key.with_suffix(suffix)

    def statement(self, kind: str) -> Path:
        """The one attestation of that kind."""
        (found,) = self.dist.glob(f"attestations/{kind}.*.dsse.json")
        return found


@pytest.fixture(scope="module", params=["ed25519", "ecdsa-p256"])
def signed(
    request: pytest.FixtureRequest, stereo: Stereo, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Signed]:
    folder = tmp_path_factory.mktemp(f"signed-{request.param}")
    dist = folder / "dist" / base.name
    dist.parent.mkdir()
    run(["cp", "-r", "--reflink=auto", "--sparse=always", base, dist])
    stereo("keygen", "release", "--type", request.param, "--output-dir", folder / "keys", cwd=folder)
    stereo("keygen", "other", "--type", request.param, "--output-dir", folder / "keys", cwd=folder)
    stereo("sign", dist, "--key", folder / "keys/release.key", "--expires", "400d", cwd=folder)
    yield Signed(dist, folder / "keys" / "release")
    shutil.rmtree(folder)


@pytest.fixture
def other(signed: Signed) -> Path:
    """The key of somebody who signed nothing, without a suffix."""
    return signed.key.with_name("other")


@pytest.fixture(scope="module")
def cosign(test_tools: Path) -> Tool:
    return program(test_tools, "cosign")


def test_verify_holds_a_signed_dist_for_whole_and_signing_again_changes_nothing(stereo: Stereo, signed: Signed) -> None:
    def content() -> dict[str, tuple[int, int]]:
        return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in signed.dist.rglob("*")}

    before = content()
    stereo("verify", signed.dist, "--no-policy", cwd=signed.dist)
    said = json.loads(stereo("sign", signed.dist, "--key", signed.file(".key"), "--json", cwd=signed.dist).stdout)
    assert {row["state"] for row in said["files"]} == {"kept"}
    assert content() == before


def test_sha256sum_checks_every_file_of_the_build(signed: Signed) -> None:
    def check() -> list[str]:
        argv = ["sha256sum", "--strict", "-c", "SHA256SUMS"]
        return subprocess.run(argv, cwd=signed.dist, capture_output=True, text=True).stdout.splitlines()

    beside = {"SHA256SUMS", "SHA256SUMS.sig", "SHA256SUMS.gpg", "attestations"}
    names = sorted({path.name for path in signed.dist.iterdir()} - beside)
    assert check() == [f"{name}: OK" for name in names]
    with flipped(signed.dist / "initrd", 1000):
        assert check() == [f"{name}: {'FAILED' if name == 'initrd' else 'OK'}" for name in names]


def verify_blob(cosign: Tool, signed: Signed, key: Path) -> str:
    words = ("--key", key, "--signature", "SHA256SUMS.sig", "--insecure-ignore-tlog", "SHA256SUMS")
    return cosign("verify-blob", *words, cwd=signed.dist)


def test_cosign_verifies_the_sums(cosign: Tool, signed: Signed, other: Path) -> None:
    verify_blob(cosign, signed, signed.file(".pub"))
    with pytest.raises(CommandFailed, match="signature"):
        verify_blob(cosign, signed, other.with_suffix(".pub"))
    for name, at in (("SHA256SUMS", 5), ("SHA256SUMS.sig", 40)):
        with flipped(signed.dist / name, at), pytest.raises(CommandFailed):
            verify_blob(cosign, signed, signed.file(".pub"))


def attested(cosign: Tool, signed: Signed, kind: str, *, key: Path | None = None, file: str = "stereos.img.zst") -> str:
    words = ("--key", key or signed.file(".pub"), "--type", ATTESTED[kind], "--insecure-ignore-tlog")
    return cosign("verify-blob-attestation", *words, "--signature", signed.statement(kind), file, cwd=signed.dist)


@pytest.mark.parametrize("kind", sorted(ATTESTED))
def test_cosign_verifies_the_statements(cosign: Tool, signed: Signed, other: Path, kind: str) -> None:
    attested(cosign, signed, kind)
    attested(cosign, signed, kind, file="mixtape.toml")
    with pytest.raises(CommandFailed, match="no matching subject digest"):
        attested(cosign, signed, kind, file="SHA256SUMS")
    with flipped(signed.dist / "mixtape.toml", 100), pytest.raises(CommandFailed, match="no matching subject digest"):
        attested(cosign, signed, kind, file="mixtape.toml")
    with pytest.raises(CommandFailed, match="signature"):
        attested(cosign, signed, kind, key=other.with_suffix(".pub"))
    with flipped(signed.statement(kind), 200), pytest.raises(CommandFailed):
        attested(cosign, signed, kind)


def test_cosign_does_not_take_one_statement_for_the_other(cosign: Tool, signed: Signed) -> None:
    words = ("--key", signed.file(".pub"), "--type", ATTESTED["provenance"], "--insecure-ignore-tlog")
    with pytest.raises(CommandFailed, match="invalid predicate type"):
        cosign(
            *("verify-blob-attestation", *words, "--signature", signed.statement("release"), "stereos.img.zst"),
            cwd=signed.dist,
        )


def test_openssl_verifies_the_decoded_signature(signed: Signed, other: Path, tmp_path: Path) -> None:
    signature = tmp_path / "signature"
    signature.write_bytes(base64.b64decode((signed.dist / "SHA256SUMS.sig").read_bytes()))

    def check(key: Path) -> str:
        words = ("-pubin", "-inkey", key, "-rawin", "-in", "SHA256SUMS", "-sigfile", signature)
        return run(["openssl", "pkeyutl", "-verify", *words], cwd=signed.dist).stdout

    assert "Signature Verified Successfully" in check(signed.file(".pub"))
    with pytest.raises(CommandFailed):
        check(other.with_suffix(".pub"))
    for path in (signed.dist / "SHA256SUMS", signature):
        with flipped(path, 20), pytest.raises(CommandFailed):
            check(signed.file(".pub"))


def test_gpgv_verifies_the_sums(test_tools: Path, signed: Signed, other: Path) -> None:
    gpgv = program(test_tools, "gpgv")

    def check(key: Path) -> str:
        return gpgv("--keyring", key.with_suffix(".gpg"), "SHA256SUMS.gpg", "SHA256SUMS", cwd=signed.dist)

    check(signed.key)
    with pytest.raises(CommandFailed, match="No public key"):
        check(other)
    with flipped(signed.dist / "SHA256SUMS", 5), pytest.raises(CommandFailed, match="BAD signature"):
        check(signed.key)
    size = (signed.dist / "SHA256SUMS.gpg").stat().st_size
    with flipped(signed.dist / "SHA256SUMS.gpg", size - 1), pytest.raises(CommandFailed, match="BAD signature"):
        check(signed.key)


def test_the_commands_for_strangers_work_as_they_stand_on_the_page(
    test_tools: Path, signed: Signed, tmp_path: Path
) -> None:
    page = (Checkout.containing_this_package().root / "docs/signing.md").read_text()
    commands = page.partition("```sh\n")[2].partition("```")[0].splitlines()
    assert [line.split()[0] for line in commands] == [
        *("sha256sum", "cosign", "gpgv", "base64", "openssl", "cosign", "cosign")
    ]
    here = tmp_path / "downloaded"
    here.mkdir()
    for path in (*signed.dist.iterdir(), signed.file(".pub"), signed.file(".gpg")):
        (here / path.name).symlink_to(path)
    for name in ("cosign", "gpgv"):
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f'#!/bin/sh\nexec {quote(program(test_tools, name).argv)} "$@"\n')
        command.chmod(0o755)
    environment = closed_environment(path=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for line in commands:
        run(["sh", "-ec", line], cwd=here, env=environment, timeout=60)


Systemd = Callable[..., str]


@pytest.fixture
def systemd(test_tools: Path, tmp_path: Path) -> Systemd:
    """Runs one of systemd's programs with a keyring in the place where Debian 13's systemd looks for it."""
    out = tmp_path / "out"
    out.mkdir()

    def start(name: str, *words: str, keyring: Path, **etc: bytes) -> str:
        files = {"systemd/import-pubring.gpg": keyring.read_bytes()}
        files |= {f"sysupdate.d/{file}.transfer": data for file, data in etc.items()}
        return run_rooted(test_tools, out, files, f"/usr/lib/systemd/{name}", *words, given=tmp_path / "etc")

    return start


def test_systemd_pull_takes_a_file_that_the_signed_sums_name(
    systemd: Systemd, signed: Signed, other: Path, tmp_path: Path
) -> None:
    with served(signed.dist) as url:

        def pull(name: str, key: Path = signed.key) -> str:
            (tmp_path / "out" / name).unlink(missing_ok=True)
            words = ("raw", "--direct", "--verify=signature", f"{url}/{name}", f"/out/{name}")
            return systemd("systemd-pull", *words, keyring=key.with_suffix(".gpg"))

        assert "Signature verification succeeded" in pull("initrd")
        assert (tmp_path / "out/initrd").read_bytes() == (signed.dist / "initrd").read_bytes()
        with pytest.raises(StereoError, match="Signature verification failed"):
            pull("initrd", other)
        with flipped(signed.dist / "initrd", 1000), pytest.raises(StereoError, match="DOWNLOAD INVALID"):
            pull("initrd")
        with flipped(signed.dist / "SHA256SUMS", 5), pytest.raises(StereoError, match="DOWNLOAD INVALID"):
            pull("SHA256SUMS")


def test_systemd_sysupdate_updates_from_a_signed_dist(
    systemd: Systemd, signed: Signed, other: Path, tmp_path: Path
) -> None:
    """It wants a version in a file's name; of ours, "Image" of bzImage has to do."""
    (tmp_path / "out/kernels").mkdir(parents=True)
    with served(signed.dist) as url:
        transfer = f"""
            [Source]
            Type=url-file
            Path={url}
            MatchPattern=bz@v
            [Target]
            Type=regular-file
            Path=/out/kernels
            MatchPattern=kernel-@v
            """
        kernel = "\n".join(line.strip() for line in transfer.splitlines()).encode()
        with pytest.raises(StereoError, match="Signature verification failed"):
            systemd("systemd-sysupdate", "update", keyring=other.with_suffix(".gpg"), kernel=kernel)
        assert list((tmp_path / "out/kernels").iterdir()) == []
        systemd("systemd-sysupdate", "update", keyring=signed.file(".gpg"), kernel=kernel)
    assert (tmp_path / "out/kernels/kernel-Image").read_bytes() == (signed.dist / "bzImage").read_bytes()


def test_the_statements_have_the_form_of_their_specifications(signed: Signed) -> None:
    """in-toto Statement v1; Release v0.1; SLSA provenance v1 and its ResourceDescriptors."""
    opened = {}
    for kind in ATTESTED:
        envelope = json.loads(signed.statement(kind).read_text())
        assert set(envelope) == {"payload", "payloadType", "signatures"}
        opened[kind] = json.loads(base64.b64decode(envelope["payload"]))
    for statement in opened.values():
        assert set(statement) == {"_type", "subject", "predicateType", "predicate"}
        names = {row["name"] for row in statement["subject"]}
        assert {"stereos.img.zst", "mixtape.toml", "sbom.cdx.json", "oci:raw", "oci:qcow2", "oci:index"} <= names
    made = opened["provenance"]["predicate"]
    assert made["buildDefinition"].keys() >= {"buildType", "externalParameters", "resolvedDependencies"}
    assert made["runDetails"]["builder"]["id"].startswith("urn:stereo:key:")
    rows = made["buildDefinition"]["resolvedDependencies"]
    assert all(row.get("uri") or row.get("digest") for row in rows)
    bill = json.loads((signed.dist / "sbom.cdx.json").read_text())
    assert {row["purl"] for row in bill["components"]} <= {row.get("uri") for row in rows}
    assert {"source", "manifests/base-x86_64.lock"} <= {row["name"] for row in rows}
