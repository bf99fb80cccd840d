"""Debian's docker-registry, started on a free port of the loopback: plain, with TLS, with a password."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from makers.token_server import TokenServer
from makers.tools import program

USER, PASSWORD = "publisher", "correct-horse-battery"
_LISTENING = re.compile(r"listening on (127\.0\.0\.1:[0-9]+)")
_PATIENCE = 30  # seconds


@dataclass(frozen=True)
class RealRegistry:
    """A running registry. `host` is HOST:PORT, `storage` where it keeps things, `log` what it says and was asked."""

    host: str
    folder: Path
    storage: Path
    log: Path
    certificate: Path | None
    password: bool
    process: subprocess.Popen[bytes]

    def environment(self) -> dict[str, str]:
        """What a client's environment needs: the CA, and the credentials in a docker configuration."""
        found = {"DOCKER_CONFIG": str(self.folder / "docker")}
        if self.certificate is not None:
            found |= {"SSL_CERT_FILE": str(self.certificate), "REQUESTS_CA_BUNDLE": str(self.certificate)}
        return found

    def asked(self) -> list[str]:
        """The requests so far, as "METHOD PATH STATUS"."""
        rows = re.findall(r'"([A-Z]+ \S+) HTTP/[0-9.]+" ([0-9]{3})', self.log.read_text())
        return [f"{request} {status}" for request, status in rows]


@contextmanager
def real_registry(
    folder: Path,
    test_tools: Path,
    *,
    tls: bool = False,
    auth: tuple[str, str] | None = None,
    tokens: TokenServer | None = None,
) -> Iterator[RealRegistry]:
    """A registry that keeps its things in `folder` and knows the user and password `auth`. It ends with the block.

    With `tokens` it is that server who knows them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    storage, docker = folder / "storage", folder / "docker"
    docker.mkdir(exist_ok=True)
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "info", "formatter": "text"},
        "storage": {
            "filesystem": {"rootdirectory": str(storage)},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": "127.0.0.1:0"},
    }
    certificate = None
    if tls:
        certificate, key = make_certificate(folder)
        config["http"] = {"addr": "127.0.0.1:0", "tls": {"certificate": str(certificate), "key": str(key)}}
    if tokens is not None:
        config["auth"] = tokens.configuration()
    elif auth is not None:
        user, password = auth
        line = program(test_tools, "htpasswd")("-niB", user, input_text=f"{password}\n").strip()
        (folder / "htpasswd").write_text(f"{line}\n")
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    settings = folder / "config.yml"
    settings.write_text(json.dumps(config))  # YAML holds JSON
    tool, log = program(test_tools, "docker-registry"), folder / "log"
    with log.open("wb") as out:
        argv = [*tool.argv, "serve", str(settings)]
        process = subprocess.Popen(
            argv, env=tool.environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        host = _where(process, log)
        write_docker_config(docker, host, auth)
        yield RealRegistry(host, folder, storage, log, certificate, auth is not None, process)
    finally:
        process.terminate()
        process.wait(timeout=_PATIENCE)


def write_docker_config(folder: Path, host: str, auth: tuple[str, str] | None) -> None:
    """A docker configuration in `folder` with the credentials for `host`."""
    folder.mkdir(parents=True, exist_ok=True)
    word = {} if auth is None else {host: {"auth": base64.b64encode(":".join(auth).encode()).decode()}}
    (folder / "config.json").write_text(json.dumps({"auths": word}))


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost and 127.0.0.1 that signs itself, and its key, as files in `folder`."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stereo tests")])
    today = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    alternatives = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .sign(secret, hashes.SHA256())
    )
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key.write_bytes(secret.private_bytes(*form))
    return certificate, key


def _where(process: subprocess.Popen[bytes], log: Path) -> str:
    """HOST:PORT, when it listens. Its log says so; the socket is open then."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and process.poll() is None:
        if found := _LISTENING.search(log.read_text()):
            return found[1]
        time.sleep(0.02)
    raise AssertionError(f"docker-registry does not start:\n{log.read_text()}")
