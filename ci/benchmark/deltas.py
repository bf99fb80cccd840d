"""ci/deltas: bytes that an update from one dist to another transfers, by frames and by what other tools offer."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import click
from ci.benchmark.figures import table
from ci.benchmark.measure import timed
from ci.benchmark.reference import zstd

from stereo.build.stages import Builder
from stereo.cli.lock import TEST_TOOLS, TOOLS
from stereo.cli.measure import amount
from stereo.cli.plain import PlainReport
from stereo.distribution import frames
from stereo.inputs.lockfiles import LockFolder
from stereo.inputs.sources import Sources
from stereo.inputs.store import Store
from stereo.model.architecture import Architecture
from stereo.paths import Cache, Checkout
from stereo.process import closed_environment

_IMAGE, _PACKED = "stereos.img", "stereos.img.zst"
_folder = click.Path(path_type=Path, file_okay=False, exists=True, resolve_path=True)


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  ci/deltas dist/coder/2026.01.31.0/x86_64 dist/coder/2026.01.31.1/x86_64

Exit status: 0 measured, 1 failed, 2 wrong usage.""",
)
@click.argument("old", type=_folder)
@click.argument("new", type=_folder)
def main(old: Path, new: Path) -> None:
    """Print what an update from the dist OLD to the dist NEW transfers, in each way, and what making that takes."""
    report, checkout = PlainReport(sys.stderr, quiet=False), Checkout.containing_this_package()
    cache, locks = Cache.from_environment(), LockFolder(checkout.manifests)
    sys.path.insert(0, str(checkout.root / "tests"))
    builder = Builder(cache, Store(cache.store), Sources.from_host(), report)
    arch = Architecture(os.uname().machine)
    tests, tools = (
        builder.unpacked(lock.digest, lock) for lock in (locks.read(TEST_TOOLS, arch), locks.read(TOOLS, arch))
    )
    with tempfile.TemporaryDirectory(prefix="stereo-deltas-") as name:
        rows = [_full(new), _frames(old, new)]
        rows += [_patch(old, new, level, tools, Path(name)) for level in (3, 19)]
        rows += [_casync(old, new, size, tests, Path(name)) for size in (16, 64, 256)]
    full = rows[0][1]
    cells = [
        (way, amount(size, "B"), f"{size / full:.4f}", f"{took:.1f} s" if took else "") for way, size, took in rows
    ]
    click.echo(table(("way", "transferred", "of the .zst", "to make"), cells))


Row = tuple[str, int, float]


def _full(new: Path) -> Row:
    return "all of the .zst", (new / _PACKED).stat().st_size, 0


def _frames(old: Path, new: Path) -> Row:
    """What is sent: the new frames, and the index that tells which these are."""
    here = {frame.sha256 for frame in frames.frames_of(old / _PACKED).frames}
    index = frames.frames_of(new / _PACKED)
    sent = sum(frame.size for frame in index.frames if frame.sha256 not in here)
    return "frames of the .zst, and their index", sent + len(frames.render(index)), 0


def _patch(old: Path, new: Path, level: int, tools: Path, folder: Path) -> Row:
    patch = folder / "patch"
    words = [f"--patch-from={old / _IMAGE}", f"-{level}", "--long=31", "-f", "-q", str(new / _IMAGE), "-o", str(patch)]
    took = timed([*zstd(tools), *words], cwd=folder, env=closed_environment(), log=folder / "log").seconds
    return f"`zstd --patch-from -{level}` of the disks", patch.stat().st_size, took


def _casync(old: Path, new: Path, size: int, tests: Path, folder: Path) -> Row:
    """New chunks of casync, compressed each, as its store has them, and its index."""
    from makers.tools import program  # of the tests, like what it starts

    casync = program(tests, "casync")
    stores, took = [], 0.0
    for dist in (old, new):
        store, index = folder / f"{dist.parent.name}.castr", folder / "index.caibx"
        shutil.rmtree(store, ignore_errors=True)
        words = ["make", f"--store={store}", f"--chunk-size={size * 1024}", str(index), str(dist / _IMAGE)]
        took = timed([*casync.argv, *words], cwd=folder, env=casync.environment, log=folder / "log").seconds
        stores.append({path.name: path.stat().st_size for path in store.rglob("*.cacnk")})
    sent = sum(bytes_ for name, bytes_ in stores[1].items() if name not in stores[0])
    return f"casync, chunks of {size} KiB on average", sent + (folder / "index.caibx").stat().st_size, took
