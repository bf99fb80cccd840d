"""The rows of publishing and pulling: real releases, a real registry on the loopback, and one that lies."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ci.benchmark.boots import by_turns
from ci.benchmark.figures import Figure
from ci.benchmark.measure import Timed, timed
from ci.benchmark.ours import Ours
from ci.benchmark.reference import zstd

from stereo.build.stages import Builder
from stereo.errors import ProblemsError, StereoError
from stereo.inputs.http import Http
from stereo.inputs.lockfiles import LockFolder
from stereo.inputs.npm import resolve
from stereo.model.architecture import Architecture
from stereo.model.manifest import SIGNATURE_FILES
from stereo.process import closed_environment
from stereo.report import Report, Silent
from stereo.trust.statement import file_digests

MEASURES = ("pull", "update-agent", "update-guest", "memory-pull", "memory-publish", "registry-faults")
_STEREO = (sys.executable, "-P", "-s", "-m", "stereo")
_BASE, _GUEST, _AGENT = "2026.01.31.0", "2026.01.31.1", "2026.01.31.2"
_CHANGED = "guest/stereos_guest/helpers.py"
_TRIES, _OLDER = 7, 9
Pair = tuple[Figure, Figure | None]


@dataclass
class Bench:
    """What these rows are measured with. `tests` is the folder whose `makers` start registries."""

    ours: Ours
    builder: Builder
    tools: Path
    report: Report

    @property
    def folder(self) -> Path:
        return self.ours.work / "distribution"

    def release(self, version: str) -> Path:
        """The dist of the checkout as it is now, as a release."""
        with self.report.step(f"Building {self.ours.mixtape} {version}"):
            words = ["build", self.ours.mixtape, "--level", str(self.ours.level), "--version", version]
            self.ours.stereo(*words, "--output-dir", str(self.folder / "dist"), cwd=self.folder)
        return next((self.folder / "dist" / self.ours.mixtape / version).iterdir())

    def stereo(self, *words: str) -> Timed:
        """One run of a verb, the interpreter's start included, in a home of its own."""
        import stereo
        import stereos_guest

        packages = {str(Path(str(module.__file__)).parents[1]) for module in (stereo, stereos_guest)}
        homes = {name: str(self.folder / "home" / name) for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        env = {**os.environ, **homes, "PYTHONPATH": ":".join(sorted(packages))}
        env.pop("STEREO_POLICY", None)
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # as the launcher starts it: compiled once, not in every run
        return timed([*_STEREO, *words], cwd=self.folder, env=env, log=self.folder / "log")

    def forget(self) -> None:
        """Empty the local store."""
        shutil.rmtree(self.folder / "home", ignore_errors=True)


def measured(bench: Bench, wanted: frozenset[str]) -> dict[str, Pair]:
    """The rows that are wanted, by name."""
    sys.path.insert(0, str(bench.ours.source / "tests"))  # what starts registries is the tests'
    shutil.rmtree(bench.folder, ignore_errors=True)
    bench.folder.mkdir()
    found: dict[str, Pair] = {}
    try:
        if wanted & {"registry-faults"}:
            found["registry-faults"] = _faults(bench)
        if wanted - {"registry-faults"}:
            found |= _with_registry(bench, wanted)
    finally:
        shutil.rmtree(bench.folder, ignore_errors=True)
    return found


def _with_registry(bench: Bench, wanted: frozenset[str]) -> dict[str, Pair]:
    from makers.registries import real_registry
    from stereo.cli.lock import TEST_TOOLS

    lock = LockFolder(bench.ours.source / "manifests").read(TEST_TOOLS, Architecture(os.uname().machine))
    programs = bench.builder.unpacked(lock.digest, lock)
    found: dict[str, Pair] = {}
    base = bench.release(_BASE)
    with real_registry(bench.folder / "registry", programs) as registry:
        reference = f"{registry.host}/mixtapes/{bench.ours.mixtape}"
        published = bench.stereo("publish", str(base), "--to", reference)
        if "memory-publish" in wanted:
            found["memory-publish"] = Figure((published.peak,), "B"), None
        peaks: list[int] = []
        if wanted & {"pull", "memory-pull"}:
            pulls = by_turns(
                lambda: _pull(bench, f"{reference}:{_BASE}", peaks), _theirs(bench, programs, reference, base), _TRIES
            )
            if "pull" in wanted:
                found["pull"] = pulls
            if "memory-pull" in wanted:
                found["memory-pull"] = Figure((max(peaks),), "B"), None
        if "update-guest" in wanted:
            found["update-guest"] = _update(bench, reference, _GUEST, _guest_file, _change_guest)
        if "update-agent" in wanted:
            found["update-agent"] = _update(bench, reference, _AGENT, _lock_file, _change_agent)
    return found


def _pull(bench: Bench, reference: str, peaks: list[int]) -> float:
    bench.forget()
    run = bench.stereo("pull", reference, "--quiet")
    peaks.append(run.peak)
    return run.seconds


def _theirs(bench: Bench, programs: Path, reference: str, dist: Path) -> Callable[[], float]:
    """`oras pull` of the raw manifest, `sha256sum -c`, `zstd -d`."""
    from makers.tools import program
    from stereo.assemble.dist import read_manifest
    from stereo.registry.documents import digest_of, documents_of
    from stereo.registry.media import layers_of
    from stereo.trust.sums import render_sums

    manifest = read_manifest(dist)
    text = (dist / "mixtape.toml").read_bytes()
    digests = file_digests(manifest, text)
    raw = documents_of(manifest, digests["mixtape.toml"], len(text)).manifests["raw"]
    sums = render_sums({name: digests[name] for name in layers_of("raw")})
    oras, folder = program(programs, "oras"), bench.folder / "theirs"

    def run() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / SIGNATURE_FILES[0]).write_bytes(sums)
        steps: Sequence[Sequence[str]] = (
            (*oras.argv, "pull", "--plain-http", "--output", str(folder), f"{reference}@{digest_of(raw)}"),
            ("sha256sum", "--check", "--quiet", SIGNATURE_FILES[0]),
            (*zstd(bench.tools), "--decompress", "--quiet", "stereos.img.zst"),
        )
        env = closed_environment()
        return sum(timed(step, cwd=folder, env=env, log=bench.folder / "log").seconds for step in steps)

    return run


def _update(
    bench: Bench,
    reference: str,
    version: str,
    changed: Callable[[Bench], Path],
    change: Callable[[Bench, Path], None],
) -> Pair:
    """Bytes that an update of the compressed disk fetches from a store with the base release, against all of it."""
    from stereo.distribution.frames import frames_of

    before = frames_of(bench.folder / "dist" / bench.ours.mixtape / _BASE / os.uname().machine / "stereos.img.zst")
    path = changed(bench)
    kept = path.read_bytes()
    change(bench, path)
    try:
        dist = bench.release(version)
    finally:
        path.write_bytes(kept)
    bench.stereo("publish", str(dist), "--to", reference)
    bench.forget()
    bench.stereo("pull", f"{reference}:{_BASE}", "--quiet")
    bench.stereo("pull", f"{reference}:{version}", "--quiet")
    after = frames_of(dist / "stereos.img.zst")
    here = {frame.sha256 for frame in before.frames}
    new = sum(frame.size for frame in after.frames if frame.sha256 not in here)
    return Figure((new,), "B"), Figure((after.size,), "B")


def _guest_file(bench: Bench) -> Path:
    return bench.ours.checkout / _CHANGED


def _change_guest(bench: Bench, path: Path) -> None:
    with path.open("a") as file:
        file.write(f"\n# changed by the benchmark {os.urandom(8).hex()}\n")


def _lock_file(bench: Bench) -> Path:
    locks = LockFolder(bench.ours.checkout / "manifests")
    return locks.path(bench.ours.mixtape, Architecture(os.uname().machine))


def _change_agent(bench: Bench, path: Path) -> None:
    """Have the lock name the version before of the first npm package of the mixtape."""
    arch = Architecture(os.uname().machine)
    locks = LockFolder(path.parent)
    lock = locks.read(bench.ours.mixtape, arch)
    if not lock.npm:
        raise StereoError(f"{bench.ours.mixtape} has no npm package whose version could change", hint="--mixtape")
    row = lock.npm[0]
    head, _, last = row.version.rpartition(".")
    for patch in range(int(last) - 1, max(-1, int(last) - _OLDER), -1):
        try:
            with Http() as http:
                older = resolve(
                    [f"{row.name}@{head}.{patch}"],
                    arch,
                    config=bench.builder.sources.npm,
                    http=http,
                    store=bench.builder.store,
                    report=Silent(),
                )
        except ProblemsError:
            continue  # there is no such version
        locks.write(lock.model_copy(update={"npm": (*older, *lock.npm[1:])}))
        return
    raise StereoError(f"there is no version of {row.name} shortly before {row.version}")


def _faults(bench: Bench) -> Pair:
    """Faults of a registry that were tried with `pull`, against those that it survived.

    Survived: the pull was refused, or it brought the right bytes; the old copy was whole before and after; and no
    stranger was ever asked.
    """
    from makers.hostile_registry import ANSWER_FAULTS, BLOB_FAULTS, DOCUMENT_FAULTS, HostileRegistry
    from makers.published import NEW, OLD, make_release, publish_in_layout

    folder = bench.folder / "faults"
    releases = {version: make_release(folder / version, version) for version in (OLD, NEW)}
    for dist in releases.values():
        publish_in_layout(folder / "registry", dist)
    tried = survived = 0
    for fault in (*BLOB_FAULTS, *DOCUMENT_FAULTS, *ANSWER_FAULTS):
        tried += 1
        with HostileRegistry(folder / "registry", "sample") as registry:
            registry.wrong(fault)
            survived += _survived(registry.host, folder / "here", releases[OLD], releases[NEW], OLD)
            survived -= bool(registry.stranger_requests)
    return Figure((tried,), "n"), Figure((max(survived, 1),), "n")


def _survived(host: str, here: Path, wanted: Path, old: Path, version: str) -> bool:
    from stereo.distribution.partial import Patience
    from stereo.distribution.pull import Options, pull
    from stereo.registry.reference import parse_reference
    from stereo.registry.remote import Limits, open_remote

    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(old, here)
    reference = parse_reference(f"{host}/sample:{version}")
    limits = Limits(connect=1, stalled=0.3, answer=1, attempts=2, longest_wait=0.05)
    options = Options(folder=here, force=True, patience=Patience(attempts=2, pause=0, longest_pause=0.05))
    try:
        remote = open_remote(reference, limits=limits)
        pull(reference, remote, options, policy=None, now=datetime.now(UTC), report=Silent())
    except StereoError:
        return _same(here, old)
    return _same(here, wanted)


def _same(here: Path, wanted: Path) -> bool:
    names = {path.name for path in here.iterdir()} - {"pulled.json"}
    return "mixtape.toml" in names and all((here / name).read_bytes() == (wanted / name).read_bytes() for name in names)
