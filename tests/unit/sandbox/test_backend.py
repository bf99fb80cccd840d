"""What of a sandbox depends on its backend and on the system: its disk, its network, and what a Mac does not have."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import stereo
import stereos_guest
from stereo.errors import StereoError
from stereo.sandbox.job import Job, differences
from stereo.sandbox.machines import machine_spec
from stereo.sandbox.peers import kill_peer, peer_uid
from stereo.sandbox.provision import network
from stereo.sandbox.state import Folder, Record
from stereo.sandbox.supervisor import _check_fits

JOB = Job(
    *("box", "/j", "base:1", "/dist", "0" * 64, "aarch64"),
    cpus=1,
    memory=512,
    disk=1 << 30,
    mode="nat",
    config="",
    agents=(),
    backend="applevirt",
    accelerator="hvf",
)
# What a Mac's Python does not have, as far as somebody may use it without a thought.
LINUX_ONLY = """
import asyncio, os, select, signal, socket, sys
import sysconfig, urllib.request
sysconfig.get_config_vars()  # of this system, for what libraries of others look for
for module, names in (
    (os, "pidfd_open memfd_create O_PATH O_TMPFILE posix_fadvise copy_file_range sched_getaffinity setns unshare"),
    (signal, "pidfd_send_signal"),
    (socket, "SO_PEERCRED AF_VSOCK SO_BINDTODEVICE SOCK_CLOEXEC"),
    (select, "epoll EPOLLIN EPOLLOUT EPOLLHUP"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
sys.platform = "darwin"
import importlib, pkgutil, stereo
for name in "check cli distribution dists egress hypervisors registry sandbox trust vm".split():
    package = importlib.import_module(f"stereo.{name}")
    for module in pkgutil.walk_packages(package.__path__, f"stereo.{name}."):
        importlib.import_module(module.name)
print("all there")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder("box", tmp_path / "stereo/sandboxes")
    folder.make()
    return folder


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/cmdline").write_text("quiet")
    return tmp_path / "dist"


def record(backend: str) -> Record:
    return Record("box", "/j", "base:1", "/dist", "0" * 64, 0.0, disk=1 << 30, proven=True, backend=backend)


def test_a_disk_stays_with_the_backend_that_made_it(folder: Folder) -> None:
    folder.write(record("qemu"))
    folder.disks["qemu"].touch()
    with pytest.raises(StereoError, match="made by the backend qemu, and applevirt cannot read it") as caught:
        _check_fits(JOB, folder)
    assert caught.value.hint
    assert "--backend qemu" in caught.value.hint
    _check_fits(replace(JOB, backend="qemu"), folder)


def test_without_a_disk_another_backend_may_begin(folder: Folder) -> None:
    folder.write(record("qemu"))
    _check_fits(JOB, folder)


def test_a_record_of_a_time_before_backends_is_qemus(folder: Folder) -> None:
    folder.write(record("qemu"))
    path = folder.path / "sandbox.json"
    path.write_text(path.read_text().replace('"backend": "qemu",', ""))
    found = folder.record()
    assert found
    assert found.backend == "qemu"


def test_a_record_with_another_word_is_none_of_ours(folder: Folder) -> None:
    folder.write(record("../../etc"))
    with pytest.raises(StereoError, match="not a backend"):
        folder.record()


def test_each_backend_has_a_disk_of_its_own_kind(folder: Folder, dist: Path) -> None:
    for backend, name in (("qemu", "overlay.qcow2"), ("applevirt", "disk.raw")):
        spec = machine_spec(replace(JOB, dist=str(dist), backend=backend), folder)
        assert spec.disk.changes == folder.path / name


def test_only_who_is_told_an_address_is_told_one() -> None:
    assert "address" in network(replace(JOB, backend="qemu"))
    assert network(JOB) == {"proxy": "", "no_proxy": "", "hosts": {}, "nameservers": []}
    assert "address" not in network(replace(JOB, mode="none"))


def test_a_running_sandbox_does_not_change_its_backend() -> None:
    assert [(one.what, one.live) for one in differences(JOB, replace(JOB, backend="qemu"))] == [("backend", False)]


def test_the_digest_of_what_was_asked_for_does_not_depend_on_the_backend() -> None:
    assert JOB.digest() == replace(JOB, backend="qemu").digest()


def test_the_socket_is_reached_by_a_short_path_elsewhere_too(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    deep = Folder("box", folder.root / ("x" * 120) / "y")
    deep.root.mkdir(parents=True)
    deep.path.mkdir(mode=0o700)
    with deep.listen() as listener, deep.connect() as one:
        other, _ = listener.accept()
        with other:
            one.sendall(b"hello")
            assert other.recv(5) == b"hello"
    assert deep.socket.is_socket()


def test_who_is_at_the_other_end_is_known_and_can_be_killed(tmp_path: Path) -> None:
    near, far = socket.socketpair()
    with near, far:
        assert peer_uid(near) == os.geteuid()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        script = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(tmp_path / 's')!r}); s.recv(1)"
        with subprocess.Popen([sys.executable, "-c", script]) as child:
            with listener.accept()[0] as sock:
                kill_peer(sock, 20)
            assert child.wait(20) == -9


def test_what_a_mac_needs_can_be_imported_without_linux() -> None:
    packages = ":".join(str(Path(package.__path__[0]).parent) for package in (stereo, stereos_guest))
    done = subprocess.run(
        [sys.executable, "-c", LINUX_ONLY], env={**os.environ, "PYTHONPATH": packages}, capture_output=True, check=False
    )
    assert done.stdout == b"all there\n", done.stderr.decode()
