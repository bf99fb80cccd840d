"""The workflows, as a model that knows of no particular CI: who is called when, in what order, with which rights.

Every command is a script of ci/ or stereo itself; so a workflow decides nothing that a person could not do by hand, and
another CI is another renderer of the same model (`github.py` is the one there is).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stereo.pipeline import jobs
from stereo.pipeline.jobs import Job


@dataclass(frozen=True)
class Call:
    """One command, as a shell reads it."""

    name: str
    command: str


@dataclass(frozen=True)
class Parcel:
    """Files that a job leaves for later ones, by patterns below the work folder."""

    name: str
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A job of a workflow, on a machine of its own, for at most `minutes`.

    With `each` there is one for each dist. `takes` are the parcels of earlier jobs that it needs, `gives` its own.
    Only a task that is `trusted` gets `secrets`, and it runs for nobody's fork. `publishes` lets it write to the
    registry of the CI itself.
    """

    name: str
    title: str
    calls: tuple[Call, ...]
    needs: tuple[str, ...] = ()
    each: bool = False
    takes: tuple[Parcel, ...] = ()
    gives: Parcel | None = None
    secrets: tuple[str, ...] = ()
    trusted: bool = False
    publishes: bool = False
    tells: tuple[str, ...] = ()
    minutes: int = 60


@dataclass(frozen=True)
class Workflow:
    """When, and what. `at` is a time as in crontab(5), UTC. `asks` are the names of what a person may fill in."""

    name: str
    title: str
    tasks: tuple[Task, ...]
    on_change: bool = False
    at: str | None = None
    by_hand: bool = False
    asks: Mapping[str, str] = field(default_factory=dict)

    @property
    def publishes(self) -> bool:
        return any(task.publishes for task in self.tasks)


DISTS = Parcel("dist", ("dist/",))
REBUILT = Parcel("rebuilt", ("dist/*/*/*/attestations/",))
SIGNED = Parcel("signed", ("dist/*/*/*/SHA256SUMS*", "dist/*/*/*/attestations/"))

_TOLD = ("version", "targets", "mixtapes")
_PREPARE = Call("Make the machine fit", "ci/prepare")
# Of a day's first release, seen from a folder in which nothing was ever published: nobody has to be asked for it.
_NEVER_PUBLISHED = Call("Decide", "ci/release --plan --to ./published")
_ONE = '--mixtapes "$MIXTAPE" --arch "$ARCH" --work work'
_ALL = '--mixtapes "$MIXTAPES" --work work'


def workflows() -> tuple[Workflow, ...]:
    """All of them."""
    check = Task("check", jobs.CHECK.doing, (_PREPARE, Call(jobs.CHECK.doing, "ci/check")), minutes=30)
    test = Task("test", "Test", (_PREPARE, Call("Run the test suite", "./stereo test")), needs=("check",), minutes=180)
    keep = Call(jobs.RETENTION.doing, 'ci/retention --to "$STEREO_TO"')
    return (
        Workflow("check", "Check every change", (check, test), on_change=True),
        Workflow(
            "release",
            "Release",
            _chain('ci/release --plan --to "$STEREO_TO" --version "$STEREO_VERSION"'),
            by_hand=True,
            asks={"STEREO_VERSION": "YYYY.MM.DD.N; empty: the next of today"},
        ),
        Workflow(
            "nightly",
            "Release what has changed, as nightly",
            _chain('ci/nightly --plan --to "$STEREO_TO"', " --tag nightly"),
            at="17 3 * * *",
            by_hand=True,
        ),
        Workflow(
            "everything",
            "Build, build again and boot every mixtape for every architecture",
            _proof(),
            at="37 0 * * *",
            by_hand=True,
        ),
        Workflow(
            "retention",
            "Remove old versions from the registry",
            (Task("retention", keep.name, (keep,), trusted=True, publishes=True, secrets=jobs.RETENTION.secrets),),
            at="47 4 * * 0",
            by_hand=True,
        ),
    )


def _proof() -> tuple[Task, ...]:
    """What a release does before anything is signed, for all dists that there are, and without any secret."""

    def each(job: Job, *needs: str, **more: object) -> Task:
        calls = (_PREPARE, Call(job.doing, f"ci/{job.name} {_ONE}"))
        return Task(job.name, job.doing, calls, ("plan", *needs), each=True, minutes=120, **more)  # type: ignore[arg-type]

    return (
        Task("plan", "Decide what is built", (_NEVER_PUBLISHED,), tells=_TOLD, minutes=15),
        each(jobs.BUILD, gives=DISTS),
        each(jobs.REPRODUCE, "build", takes=(DISTS,)),
        each(jobs.BOOT, "build", takes=(DISTS,)),
    )


def _chain(plan: str, tags: str = "") -> tuple[Task, ...]:
    """The jobs of a release, from deciding on a number to publishing; each dist goes through on machines of its own."""

    def task(job: Job, command: str, *needs: str, **more: object) -> Task:
        prepare = () if job.secrets and job is not jobs.REPRODUCE else (_PREPARE,)
        calls = (*prepare, Call(job.doing, command))
        return Task(job.name, job.doing, calls, ("plan", *needs), job.each, secrets=job.secrets, **more)  # type: ignore[arg-type]

    publish = f'ci/publish {_ALL} --to "$STEREO_TO"{tags}'
    asking = jobs.PUBLISH.secrets  # which versions there are, a registry may tell only those it knows
    decide = Call("Decide", plan)
    return (
        Task("plan", "Decide what is released", (decide,), secrets=asking, trusted=True, tells=_TOLD, minutes=15),
        task(jobs.CHECK, "ci/check", minutes=30),
        task(jobs.BUILD, f"ci/build {_ONE}", "check", gives=DISTS, minutes=120),
        task(
            jobs.REPRODUCE,
            f"ci/reproduce {_ONE} --rebuilder-key -",
            "build",
            takes=(DISTS,),
            gives=REBUILT,
            trusted=True,
            minutes=120,
        ),
        task(jobs.BOOT, f"ci/boot {_ONE}", "build", takes=(DISTS,), minutes=60),
        task(
            jobs.SIGN,
            f"ci/sign {_ONE} --key -",
            *("reproduce", "boot"),
            takes=(DISTS, REBUILT),
            gives=SIGNED,
            trusted=True,
            minutes=30,
        ),
        task(jobs.PUBLISH, publish, "sign", takes=(DISTS, SIGNED), trusted=True, publishes=True, minutes=90),
    )


@dataclass(frozen=True)
class Difference:
    """A workflow file that is not as it would be written. `path` is relative to the checkout."""

    path: str
    what: str


def files() -> dict[str, str]:
    """Every file that follows from the model, by path relative to the checkout."""
    from stereo.pipeline import github

    return {github.path_of(workflow): github.render(workflow) for workflow in workflows()}


def differences(checkout: Path) -> list[Difference]:
    """What `write` would change, sorted by path. Raises OSError."""
    wanted = files()
    found = []
    for path, text in wanted.items():
        file = checkout / path
        if not file.is_file():
            found.append(Difference(path, "is missing"))
        elif file.read_bytes() != text.encode():
            found.append(Difference(path, "is not what the model says"))
    for folder in {Path(path).parent for path in wanted}:
        strange = [one for one in (checkout / folder).glob("*") if str(one.relative_to(checkout)) not in wanted]
        found += [Difference(str(one.relative_to(checkout)), "does not come from the model") for one in strange]
    return sorted(found, key=lambda row: row.path)


def write(checkout: Path) -> list[str]:
    """Write what differs, each file whole. Returns the paths; what does not come from the model is left. OSError."""
    wanted = files()
    changed = [row.path for row in differences(checkout) if row.path in wanted]
    for path in changed:
        file = checkout / path
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.part")
        partial.write_text(wanted[path])
        partial.rename(file)
    return changed
