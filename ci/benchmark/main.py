"""ci/bench itself: which rows are wanted, what has to be built for them, and the table in the end."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

import click
from ci.benchmark import boots, crossing, distribution, reference, sandboxes
from ci.benchmark.crossing import Crossing
from ci.benchmark.figures import Figure, Row, table
from ci.benchmark.measure import Timed, timed
from ci.benchmark.ours import Ours
from ci.benchmark.reference import Reference

from stereo.build.plans import DEFAULT_LEVEL, plan_of
from stereo.build.stages import Builder
from stereo.cli.measure import amount
from stereo.cli.options import mirror_option
from stereo.cli.plain import PlainReport
from stereo.dists import dist_in
from stereo.errors import StereoError
from stereo.inputs.sources import Overrides, Sources
from stereo.inputs.store import Store
from stereo.paths import Cache, Checkout
from stereo.process import closed_environment
from stereo.report import Report
from stereo.vm.boot import Form
from stereo.vm.programs import Programs

# name -> title, limit: the numbers that the project promises.
ROWS: dict[str, tuple[str, float]] = {
    "build": ("full build with packages cached", 0.60),
    "overlay": ("rebuild after one overlay file changed, against our full build", 0.35),
    "unchanged": ("nothing changed, against our full build", 0.01),
    "download": ("bytes to download (`stereos.img.zst`)", 0.60),
    "boot-kernel": ("QEMU start to `ready`, direct kernel, against UEFI boot to multi-user", 0.20),
    "boot-uefi": ("QEMU start to `ready`, UEFI raw, against the same", 0.30),
    "verify": ("`stereo verify`, against `sha256sum` and `zstd -t`", 0.70),
    "memory": ("peak memory of the builder's own process", 200e6),
    "first-command": ("`stereo up` to the end of a first command, against QEMU start to `ready` alone", 1.3),
    "exec": ("`stereo exec true`, against `ssh HOST true` to the same guest", 0.5),
    "copy-in": ("`stereo cp` of 100 MB into the guest, against scp", 1.0),
    "copy-out": ("`stereo cp` of 100 MB out of it, against scp", 1.0),
    "daemons": ("resident memory of both daemons in the idle guest", 40e6),
    "pings": ("10,000 pings of 50 clients: the 99th percentile, against the median", 10.0),
    "fuzz-parser": ("memory left behind by 1,000,000 broken lines in the parser", 4e6),
    "fuzz-live": ("memory left behind by 100,000 broken lines in a live daemon that still answers", 4e6),
    "pull": ("`stereo pull` from a registry, against `oras pull`, `sha256sum -c` and `zstd -d`", 0.8),
    "update-agent": ("bytes for an update after an agent package's version changed, against the full .zst", 0.5),
    "update-guest": ("bytes for an update after one file of `guest/` changed, against the same", 0.05),
    "memory-pull": ("peak memory of `stereo pull`", 150e6),
    "memory-publish": ("peak memory of `stereo publish`", 150e6),
    crossing.CROSS: ("cross-build for aarch64, against the build for x86_64", 3.5),
    crossing.BOOT: ("aarch64: QEMU start to `ready`, direct kernel, against UEFI boot to multi-user", 0.20),
    crossing.DOWNLOAD: ("bytes to download for aarch64, against those for x86_64", 1.25),
    "registry-faults": ("faults of a registry tried, against those survived", 1.0),
}
_SANDBOX = tuple(sandboxes.MEASURES)
_DISTRIBUTION = distribution.MEASURES
_WITH_REFERENCE = ("build", "download", "boot-kernel", "boot-uefi")
_STATE = "state.json"
_UNCHANGED_RUNS = 5


@dataclass
class Bench:
    """One run of the benchmark."""

    ours: Ours
    work: Path
    report: Report
    builder: Builder
    tools: Path
    only: frozenset[str]
    runs: int
    boots: int
    level: int
    steps: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.crossing = Crossing(self.ours, self.builder, self.tools, self.report)

    def wants(self, *rows: str) -> bool:
        return not self.only.isdisjoint(rows)

    @property
    def reference(self) -> Reference:
        """The last reference build."""
        arch = dist_in(self.ours.dist).arch
        return Reference(reference.folder_of(self.work, arch), self.steps[-1])

    def build(self) -> None:
        """Build both sides in turn, `runs` times, and ours again after a change and after none."""
        plan = plan_of(self.ours.mixtape, arch=None, version=None, locks=None, level=self.level)
        needs_reference = self.wants(*_WITH_REFERENCE)
        if not needs_reference:  # it is what puts our packages into the store
            reference.obtain_packages(plan, self.builder, self.work)
        if self.wants(*crossing.MEASURES):
            self.crossing.obtain()
        self.ours.prepare()
        if self.wants(crossing.BOOT):
            self.crossing.build_reference()
        for number in range(self.runs):
            if self.wants(*crossing.MEASURES):
                self.crossing.build(f"{number + 1} of {self.runs}")
            if needs_reference:
                made = reference.build(plan, self.builder, self.tools, self.work, level=self.level)
                self.steps.append(made.steps)
            self.ours.empty_cache()
            with self.report.step(f"Building ours ({number + 1} of {self.runs})"):
                self.ours.full.append(self.ours.build())
            if self.wants("unchanged"):
                with self.report.step("Building ours again, nothing changed"):
                    self.ours.unchanged += [self.ours.build() for _ in range(_UNCHANGED_RUNS)]
            if self.wants("overlay"):
                self.ours.change_overlay()
                with self.report.step("Building ours again, one overlay file changed"):
                    self.ours.overlay.append(self.ours.build())

    def rows(self) -> list[Row]:
        """Everything that is wanted, measured."""
        found: dict[str, tuple[Figure, Figure | None]] = {}
        full = Figure(tuple(run.seconds for run in self.ours.full), "s")
        if self.wants("build"):
            found["build"] = full, Figure(tuple(sum(steps.values()) for steps in self.steps), "s")
        if self.wants("overlay"):
            found["overlay"] = Figure(tuple(run.seconds for run in self.ours.overlay), "s"), full
        if self.wants("unchanged"):
            found["unchanged"] = Figure(tuple(run.seconds for run in self.ours.unchanged), "s"), full
        if self.wants("download"):
            theirs = reference.artifacts(self.reference)[f"{reference.DISK}.zst"]
            mine = (self.ours.dist / "stereos.img.zst").stat().st_size
            found["download"] = Figure((mine,), "B"), Figure((theirs,), "B")
        if self.wants("memory"):
            found["memory"] = Figure((max(run.peak for run in self.ours.full),), "B"), None
        found |= self._booted()
        if self.wants("verify"):
            found["verify"] = self._verified()
        if self.wants(*crossing.MEASURES):
            found |= self.crossing.measured(self.only, self.boots)
        if self.wants(*_SANDBOX):
            found |= sandboxes.measured(self.ours.dist, self.only, self.report)
        if self.wants(*_DISTRIBUTION):
            desk = distribution.Bench(self.ours, self.builder, self.tools, self.report)
            found |= distribution.measured(desk, self.only & {*_DISTRIBUTION})
        return [Row(name, ROWS[name][0], *found[name], ROWS[name][1]) for name in ROWS if name in found]

    def _booted(self) -> dict[str, tuple[Figure, Figure | None]]:
        forms = {"boot-kernel": Form.KERNEL, "boot-uefi": Form.RAW}
        specs = {row: boots.ours(self.ours.dist, form) for row, form in forms.items() if self.wants(row)}
        if not specs:
            return {}
        specs[reference.NAME] = boots.theirs(self.reference.folder, dist_in(self.ours.dist).arch)
        taken = boots.alternate(Programs.find(self.tools), self.work / "scratch", self.report, specs, self.boots)
        return {row: (taken[row], taken[reference.NAME]) for row in specs if row != reference.NAME}

    def _verified(self) -> tuple[Figure, Figure]:
        files = [str(path) for path in self.ours.files()]
        compressed = [name for name in files if name.endswith(".zst")]

        def plain(*argv: str) -> float:
            return timed(argv, cwd=self.work, env=closed_environment(), log=self.work / "steps.log").seconds

        with self.report.step("Verifying"):
            plain("sha256sum", *files)  # so that both sides find the files in memory
            return boots.by_turns(
                lambda: self.ours.verify().seconds,
                lambda: plain("sha256sum", *files) + plain(*reference.zstd(self.tools), "-t", "-q", *compressed),
                3,
            )

    def sizes(self) -> dict[str, dict[str, int]]:
        """Sizes in bytes of what each side publishes."""
        theirs = reference.artifacts(self.reference) if self.steps else {}
        return {"ours": {path.name: path.stat().st_size for path in self.ours.files()}, reference.NAME: theirs}

    def save(self) -> None:
        """Keep what the builds took, for --reuse."""
        ours = {name: [asdict(run) for run in getattr(self.ours, name)] for name in ("full", "overlay", "unchanged")}
        ours["crossing"] = [asdict(run) for run in self.crossing.taken]
        state = {"mixtape": self.ours.mixtape, "level": self.level, "steps": self.steps, **ours}
        (self.work / _STATE).write_text(json.dumps(state, indent=1) + "\n")

    def restore(self) -> None:
        """Take up the builds of an earlier run that was told to --keep them. Raises StereoError."""
        try:
            state = json.loads((self.work / _STATE).read_text())
        except FileNotFoundError:
            raise StereoError("there are no kept builds", where=str(self.work), hint="run once with --keep") from None
        if (state["mixtape"], state["level"]) != (self.ours.mixtape, self.level):
            raise StereoError(
                f"the kept builds are of {state['mixtape']}, level {state['level']}", where=str(self.work)
            )
        self.steps = state["steps"]
        for name in ("full", "overlay", "unchanged"):
            setattr(self.ours, name, [Timed(**run) for run in state[name]])
        self.crossing.taken = [Timed(**run) for run in state.get("crossing", [])]
        lacking = {"overlay": not self.ours.overlay, "unchanged": not self.ours.unchanged}
        lacking |= dict.fromkeys(_WITH_REFERENCE, not self.steps)
        lacking |= dict.fromkeys(crossing.MEASURES, not self.crossing.taken)
        lacking[crossing.BOOT] |= not reference.folder_of(self.work, crossing.ARCH).is_dir()
        if missing := [row for row in ROWS if row in self.only and lacking.get(row)]:
            raise StereoError(f"the kept builds were made without {', '.join(missing)}", where=str(self.work))

    def remove(self) -> None:
        reference.remove(self.work)
        self.ours.remove()
        (self.work / _STATE).unlink(missing_ok=True)


@click.command(
    epilog=f"""\b
Rows: {", ".join(ROWS)}

Exit status: 0 every ratio is reached, 1 one is not or something failed, 2 wrong usage."""
)
@click.option("--only", metavar="ROWS", help="Rows to measure, separated by commas; default: all.")
@click.option("--runs", type=click.IntRange(1, 20), default=1, show_default=True, help="Full builds of each side.")
@click.option("--boots", "boot_count", type=click.IntRange(1, 50), default=3, show_default=True, help="Boots of each.")
@click.option("--mixtape", default="opencode-mixtape", show_default=True, metavar="NAME")
@click.option(
    "--level", type=click.IntRange(1, 22), default=DEFAULT_LEVEL, show_default=True, help="Of zstd, for both."
)
@click.option("--keep", is_flag=True, help="Leave the builds of both sides, for --reuse.")
@click.option("--reuse", is_flag=True, help="Take the builds, and their times, from a run with --keep.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures here.")
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), help="Work folder; default: in the cache.")
@mirror_option
def main(
    only: str | None,
    runs: int,
    boot_count: int,
    mixtape: str,
    level: int,
    keep: bool,
    reuse: bool,
    json_file: Path | None,
    work: Path | None,
    mirror: tuple[str, ...],
) -> None:
    """Build a plain mkosi recipe beside ours from the same packages, and compare; see docs/benchmark.md."""
    left_out = frozenset() if crossing.is_possible() else frozenset(crossing.MEASURES)
    wanted = frozenset(filter(None, only.split(",")) if only else ROWS.keys() - left_out)
    if unknown := sorted(wanted - ROWS.keys()):
        raise click.BadParameter(f"no such row: {', '.join(unknown)}", param_hint="--only")
    if foreign := sorted(wanted & left_out):
        raise click.BadParameter(f"only a machine with x86_64 can tell {', '.join(foreign)}", param_hint="--only")
    cache = Cache.from_environment()
    folder = (work or cache.root / "bench").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    report = PlainReport(sys.stderr, quiet=False)
    try:
        held = _hold(folder)
        builder = Builder(cache, Store(cache.store), Sources.from_host(Overrides(mirror=mirror)), report)
        tools = builder.tools(plan_of(mixtape, arch=None, version=None, locks=None))
        ours = Ours(Checkout.containing_this_package().root, cache, folder, mixtape, level)
        bench = Bench(ours, folder, report, builder, tools, wanted, runs, boot_count, level)
        if reuse:
            bench.restore()
        else:
            bench.remove()
            bench.build()
            bench.save()
        rows = bench.rows()
        sizes = bench.sizes()
        if not keep and not reuse:
            bench.remove()
        held.close()
    except StereoError as error:
        raise click.ClickException(f"{error.where or 'bench'}: {error.what}" + _hint(error)) from error
    _tell(rows, sizes, bench)
    if json_file:
        document = {
            "machine": _machine(),
            "mixtape": mixtape,
            "level": level,
            "reused": reuse,
            "rows": [row.as_dict() for row in rows],
            "sizes": sizes,
            "reference_steps": bench.steps,
        }
        json_file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    sys.exit(0 if all(row.reached for row in rows) else 1)


def _hold(folder: Path) -> TextIO:
    """Keep a second benchmark out of the work folder, and out of the figures, for as long as this is open."""
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StereoError("another benchmark is running here", where=str(folder)) from None
    return lock


def _hint(error: StereoError) -> str:
    return f"\nhint: {error.hint}" if error.hint else ""


def _tell(rows: list[Row], sizes: dict[str, dict[str, int]], bench: Bench) -> None:
    head = ("", "ours", "against", "ratio", "to reach", "reached")
    click.echo(table(head, [row.cells() for row in rows]))
    for side, files in sizes.items():
        if files:
            click.echo(f"\n{side}: " + ", ".join(f"{name} {amount(size, 'B')}" for name, size in files.items()))
    if bench.steps:
        click.echo("\nreference: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in bench.steps[-1].items()))
    click.echo("\n" + ", ".join(f"{key} {value}" for key, value in _machine().items()))
    if bench.level != DEFAULT_LEVEL:
        click.echo(f"zstd level {bench.level}: the ratios of build, overlay, unchanged and download mean nothing")


def _machine() -> dict[str, object]:
    """What the figures depend on."""
    load = os.getloadavg()[0]
    return {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version(), "load": load}
