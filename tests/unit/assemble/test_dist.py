"""From an image directory to a dist: equal bytes for everyone, whole or not at all, and a release keeps its bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stereo.assemble import compress
from stereo.assemble.dist import assemble, is_current, read_manifest
from stereo.errors import ProblemsError, StereoError
from stereo.model.manifest import ATTESTATIONS, PULLED, SIGNATURE_FILES, parse_manifest
from stereo.process import CommandFailed
from stereo.report import Silent
from unit.assemble.support import DOCUMENTS, EPOCH, FACTS, KEY, STAND_IN, build, make_image

FILES = [
    "bzImage",
    "cmdline",
    "init",
    "initrd",
    "mixtape.toml",
    "sbom.cdx.json",
    "sbom.spdx.json",
    "stereos.img",
    "stereos.img.zst",
    "stereos.qcow2",
    "stereos.qcow2.zst",
]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path / "image")


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    return tmp_path / "dist" / "opencode-mixtape" / "v" / "x86_64"


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return tmp_path / "frames"


def digests(dist: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(dist.iterdir())}


def beside(dist: Path) -> list[str]:
    return sorted(path.name for path in dist.parent.iterdir() if path.name != f".{dist.name}.lock")


def test_the_dist_holds_the_files_of_the_contract(image: Path, dist: Path, frames: Path) -> None:
    build(image, dist, frames)
    assert sorted(path.name for path in dist.iterdir()) == FILES
    for path in dist.iterdir():
        status = path.lstat()
        assert stat.S_ISREG(status.st_mode)
        assert (status.st_mode & 0o7777, status.st_mtime) == (0o644, EPOCH)


def test_the_manifest_tells_what_is_there(image: Path, dist: Path, frames: Path) -> None:
    manifest = build(image, dist, frames)
    assert parse_manifest((dist / "mixtape.toml").read_bytes(), "mixtape.toml") == manifest
    found = digests(dist)
    for file, sha256, size in manifest.files():
        assert (sha256, size) == (found[file], (dist / file).stat().st_size)
    disk = (image / "image.raw").read_bytes()
    for one in manifest.image.partition:
        assert one.sha256 == hashlib.sha256(disk[one.offset : one.end]).hexdigest()
    assert manifest.build.level == 1
    assert (dist / "stereos.img").read_bytes() == disk


def test_jobs_umask_cache_and_place_do_not_matter(image: Path, dist: Path, tmp_path: Path) -> None:
    build(image, dist, tmp_path / "cold", jobs=1)
    other = tmp_path / "elsewhere" / "x86_64"
    before = os.umask(0o077)
    try:
        build(image, other, tmp_path / "frames", jobs=8)
        build(image, other, tmp_path / "cold", jobs=3)
    finally:
        os.umask(before)
    assert digests(other) == digests(dist)
    assert {path.stat().st_mode & 0o777 for path in other.iterdir()} == {0o644}


def test_a_dist_is_current_for_its_own_plan_alone(image: Path, dist: Path, frames: Path) -> None:
    build(image, dist, frames)
    assert is_current(dist, KEY)
    assert not is_current(dist, "00" * 32)
    assert not is_current(dist.with_name("none"), KEY)


def test_a_dist_that_was_signed_or_pulled_is_still_current(image: Path, dist: Path, frames: Path) -> None:
    build(image, dist, frames)
    for name in (*SIGNATURE_FILES, PULLED):
        (dist / name).write_text("beside")
    (dist / ATTESTATIONS).mkdir()
    assert is_current(dist, KEY)


@pytest.mark.parametrize("harm", ["touch", "truncate", "remove", "link", "add", "manifest"])
def test_a_dist_that_was_tampered_with_is_not_current(image: Path, dist: Path, frames: Path, harm: str) -> None:
    build(image, dist, frames)
    victim = dist / "stereos.img.zst"
    match harm:
        case "touch":
            os.utime(victim, (1, 1))
        case "truncate":
            os.truncate(victim, 5)
            os.utime(victim, (EPOCH, EPOCH))
        case "remove":
            victim.unlink()
        case "link":
            moved = victim.rename(dist.parent / "elsewhere")
            victim.symlink_to(moved)
        case "add":
            (dist / "surplus").touch()
        case "manifest":
            (dist / "mixtape.toml").write_text("schema = 2\n")
    assert not is_current(dist, KEY)


def test_looking_whether_a_dist_is_current_is_quick(image: Path, dist: Path, frames: Path) -> None:
    build(image, dist, frames)
    began = time.process_time()
    assert is_current(dist, KEY)
    assert time.process_time() - began < 0.05


def test_a_release_keeps_its_bytes(image: Path, dist: Path, frames: Path, tmp_path: Path) -> None:
    build(image, dist, frames, version="2026.11.21.0")
    before = digests(dist)
    other = make_image(tmp_path / "other", seed=2)
    with pytest.raises(StereoError, match=r"2026\.11\.21\.0 exists with other bytes"):
        build(other, dist, frames, version="2026.11.21.0")
    assert digests(dist) == before
    assert beside(dist) == ["x86_64"]
    build(other, dist, frames, version="2026.11.21.0", force=True)
    assert digests(dist) != before


def test_a_release_may_be_built_again_with_equal_bytes(image: Path, dist: Path, frames: Path) -> None:
    build(image, dist, frames, version="2026.11.21.0")
    (dist / "stereos.img").write_bytes(b"spoilt")
    build(image, dist, frames, version="2026.11.21.0")
    assert is_current(dist, KEY)


def test_a_development_version_is_replaced(image: Path, dist: Path, frames: Path, tmp_path: Path) -> None:
    build(image, dist, frames)
    before = digests(dist)
    build(make_image(tmp_path / "other", seed=2), dist, frames)
    assert digests(dist) != before
    assert beside(dist) == ["x86_64"]


@pytest.mark.parametrize("missing", ["image.raw", "vmlinuz", "initrd", "cmdline", "init"])
def test_an_image_directory_that_lacks_a_file_is_refused(image: Path, dist: Path, frames: Path, missing: str) -> None:
    (image / missing).unlink()
    with pytest.raises(StereoError, match=f"{missing}.*No such file"):
        build(image, dist, frames)
    assert beside(dist) == []


def test_a_link_in_the_image_directory_is_refused(image: Path, dist: Path, frames: Path) -> None:
    (image / "initrd").unlink()
    (image / "initrd").symlink_to("/etc/passwd")
    with pytest.raises(StereoError, match="symbolic link"):
        build(image, dist, frames)


def test_a_command_line_with_a_newline_is_refused(image: Path, dist: Path, frames: Path) -> None:
    (image / "cmdline").write_bytes(b"quiet\n")
    with pytest.raises(StereoError, match="newline"):
        build(image, dist, frames)


def test_facts_that_no_reader_would_accept_are_refused_before_the_work(image: Path, dist: Path, frames: Path) -> None:
    facts = replace(FACTS, arch="mips", root_hash="none")
    with pytest.raises(ProblemsError) as caught:
        assemble(
            image,
            facts,
            dist,
            documents=DOCUMENTS,
            jobs=1,
            qemu_img=STAND_IN,
            frames=frames,
            report=Silent(),
        )
    assert {problem.key for problem in caught.value.problems} == {"arch", "image.root_hash"}
    assert beside(dist) == []
    assert not frames.exists()


def test_a_partition_beyond_the_disk_is_refused(image: Path, dist: Path, frames: Path) -> None:
    os.truncate(image / "image.raw", 10 << 20)
    with pytest.raises(ProblemsError, match="partition 'root' ends after the disk"):
        build(image, dist, frames)


def test_a_disk_that_shrinks_under_our_hands_is_an_error(image: Path, dist: Path, frames: Path) -> None:
    shrink = f"import os, sys; os.truncate({str(image / 'image.raw')!r}, 0); open(sys.argv[-1], 'wb').write(b'x')"
    with pytest.raises(ProblemsError, match="size"):
        build(image, dist, frames, qemu_img=[sys.executable, "-c", shrink])


def test_a_qemu_img_that_fails_is_quoted(image: Path, dist: Path, frames: Path) -> None:
    with pytest.raises(CommandFailed, match="no room for a qcow2"):
        build(image, dist, frames, qemu_img=[sys.executable, "-c", "raise SystemExit('no room for a qcow2')"])
    assert beside(dist) == []


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"), (errno.EROFS, "who may write")]
)
def test_a_full_disk_leaves_the_older_dist_and_a_hint(
    image: Path, dist: Path, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    build(image, dist, frames)
    before = digests(dist)

    def full(target: int, block: object) -> None:
        raise OSError(number, os.strerror(number))

    other = make_image(tmp_path / "other", seed=2)
    with monkeypatch.context() as patched:
        patched.setattr(compress, "_write_at", full)
        with pytest.raises(StereoError, match=hint):
            build(other, dist, frames)
    assert digests(dist) == before
    assert beside(dist) == ["x86_64"]
    build(other, dist, frames)
    assert is_current(dist, KEY)


def test_two_builds_at_once_both_end_well(image: Path, dist: Path, frames: Path, tmp_path: Path) -> None:
    failures = []

    def once() -> None:
        try:
            build(image, dist, frames)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=once) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert failures == []
    assert is_current(dist, KEY)
    assert beside(dist) == ["x86_64"]


_DIE_AT = """
import os, signal, sys
from pathlib import Path
from stereo.assemble import compress, dist
from unit.assemble.support import build
def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
owner, _, name = sys.argv[4].rpartition(".")
setattr(eval(owner), name, die)
build(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), level=19)
"""


@pytest.mark.parametrize(
    "place", ["dist.convert", "compress.Compressor.finish", "compress.Compressor.join", "dist.settle", "dist.publish"]
)
def test_a_build_that_was_killed_leaves_no_dist_and_the_next_succeeds(
    image: Path, dist: Path, frames: Path, tmp_path: Path, place: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", _DIE_AT, str(image), str(dist), str(frames), place]
    victim = subprocess.Popen(argv, env=environment)
    assert victim.wait(timeout=30) == -signal.SIGKILL
    assert not dist.exists()
    assert beside(dist) != []
    deadline = time.monotonic() + 10
    while _workers_of(victim.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _workers_of(victim.pid) == []
    build(image, dist, frames, level=19)
    other = tmp_path / "other" / "x86_64"
    build(image, other, tmp_path / "other-frames", level=19)
    assert digests(dist) == digests(other)
    assert beside(dist) == ["x86_64"]


def _workers_of(pid: int) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.endswith(b"assemble/worker.py") for word in words) and str(pid).encode() in words:
            found.append(entry.parent.name)
    return found


def test_read_manifest_follows_no_link(image: Path, dist: Path, frames: Path) -> None:
    build(image, dist, frames)
    moved = (dist / "mixtape.toml").rename(dist.parent / "elsewhere.toml")
    (dist / "mixtape.toml").symlink_to(moved)
    with pytest.raises(StereoError, match="symbolic link"):
        read_manifest(dist)
