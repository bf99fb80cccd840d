"""What the tests share that is dear: real locks, the tools tree, a built dist. Each is made once, when first asked for.

Unit tests come first and need no dist; then what only reads one; then what boots it. So failures show early.
"""

from __future__ import annotations

import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from makers.builds import Room, only_dist
from makers.command import Stereo
from makers.leftovers import clear_dead_sessions
from makers.tools import Tool, program
from stereo.build import sandbox
from stereo.build.plans import plan_of
from stereo.build.stages import Builder
from stereo.cli.lock import TEST_TOOLS
from stereo.inputs.lockfiles import LockFolder
from stereo.inputs.obtain import lock_still_fetchable, missing_of
from stereo.inputs.sources import Sources
from stereo.inputs.store import Store
from stereo.model.architecture import Architecture
from stereo.model.lock import Lock
from stereo.paths import Cache, Checkout
from stereo.process import run
from stereo.report import Silent
from stereo.scratch import scratch_folder

MIXTAPE = "opencode-mixtape"
VERSION = "2026.01.31.0"
"""Of every dist that tests build: with the revision in it, each commit would make another image."""

HERE = Architecture(platform.machine())
_COMMITTED = Checkout.containing_this_package().manifests
_LOCKED = ("tools", MIXTAPE, "base", "base-dev")
_ORDER = ("unit", "guest", "integration", "e2e")
_NOTES = pytest.StashKey[list[str]]()

Tell = Callable[[str], None]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_NOTES] = []
    clear_dead_sessions()
    # Who starts us in the background of a shell has Ctrl-C ignored, by us and by all that we start; see signal(7).
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # How long an example takes says more of the machine than of the example: pytest-timeout ends what hangs.
    settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any-machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick before slow, otherwise as collected."""
    here = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return _ORDER.index(folder) if folder in _ORDER else len(_ORDER)

    items.sort(key=rank)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for note in config.stash[_NOTES]:
        terminalreporter.write_line(note)


@pytest.fixture(scope="session", autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests build does not come into the user's local store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def tell(pytestconfig: pytest.Config) -> Tell:
    """Says something now, to whoever watches: what takes minutes must not look dead."""
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")

    def say(text: str) -> None:
        if reporter is None:
            return
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            reporter.ensure_newline()
            reporter.write_line(f"    {text}")

    return say


@pytest.fixture(scope="session")
def note(pytestconfig: pytest.Config, tell: Tell) -> Tell:
    """As `tell`, and once more when all tests have run."""

    def keep(text: str) -> None:
        tell(text)
        pytestconfig.stash[_NOTES].append(text)

    return keep


@pytest.fixture(scope="session")
def cache() -> Cache:
    """The user's own: what was downloaded or built before is used again."""
    return Cache.from_environment()


@pytest.fixture(scope="session")
def stereo(tell: Tell) -> Stereo:
    """The real command line, in processes of its own."""
    return Stereo(tell)


@pytest.fixture(scope="session")
def usable_locks(
    cache: Cache, stereo: Stereo, tell: Tell, note: Tell, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The committed locks; where mirrors have dropped what those named name, a folder of fresh ones beside them.

    `arch` is whose locks are looked at, this machine's if not told. `beside` is a folder of locks that an earlier call
    gave back, if not the committed ones: all in one folder is what a build wants.
    """

    def get(*names: str, arch: Architecture = HERE, beside: Path = _COMMITTED) -> Path:
        return _usable_locks(names, arch, LockFolder(beside), cache, stereo, tell, note, tmp_path_factory)

    return get


def _usable_locks(
    names: tuple[str, ...],
    arch: Architecture,
    committed: LockFolder,
    cache: Cache,
    stereo: Stereo,
    tell: Tell,
    note: Tell,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    sources, store = Sources.from_host(), Store(cache.store)
    stale = {}
    for name in names:
        began = time.monotonic()
        lock = committed.find(name, arch)
        if lock is None:
            stale[name] = "is not committed"
        elif gone := _gone(lock, store, sources):
            stale[name] = f"names {len(gone)} packages that no mirror has any more, such as {gone[0]}"
        tell(f"lock of {name} for {arch}: {stale.get(name, 'holds')} ({time.monotonic() - began:.1f} s)")
    if not stale:
        return committed.root
    folder = tmp_path_factory.mktemp("locks")
    for path in committed.root.glob("*.lock"):
        (folder / path.name).write_bytes(path.read_bytes())
    for name, reason in stale.items():
        note(f"the committed lock of {name} for {arch} {reason}: the tests use a fresh one")
        (folder / committed.path(name, arch).name).unlink(missing_ok=True)
        stereo("lock", name, "--arch", arch, "--locks", folder, cwd=folder)
    return folder


@pytest.fixture(scope="session")
def locks(usable_locks: Callable[..., Path]) -> Path:
    """The folder of locks to build with."""
    return usable_locks(*_LOCKED)


def _gone(lock: Lock, store: Store, sources: Sources) -> list[str]:
    missing = {row.label for row in missing_of(lock, store)}
    return sorted(missing.intersection(lock_still_fetchable(lock, sources))) if missing else []


@pytest.fixture(scope="session")
def tools_tree(cache: Cache, locks: Path, tell: Tell) -> Path:
    """The unpacked tools that images are built, checked and booted with."""
    plan = plan_of("base", arch=None, version=VERSION, locks=locks)  # every plan has the same tools
    tell(f"tools: making sure that they are in {cache.tools}")
    return Builder(cache, Store(cache.store), Sources.from_host(), Silent()).tools(plan)


@pytest.fixture(scope="session")
def test_tools(cache: Cache, usable_locks: Callable[..., Path], tell: Tell) -> Path:
    """The unpacked programs of other projects that ours is held against; see `makers.tools.program`."""
    lock = LockFolder(usable_locks(TEST_TOOLS)).read(TEST_TOOLS, Architecture(platform.machine()))
    tell(f"test-tools: making sure that they are in {cache.tools}")
    return Builder(cache, Store(cache.store), Sources.from_host(), Silent()).unpacked(lock.digest, lock)


@pytest.fixture
def tool(tools_tree: Path) -> Callable[[str], Tool]:
    """A real tool by name, of the tree that the project builds with."""

    def get(name: str) -> Tool:
        return program(tools_tree, name)

    return get


@pytest.fixture(scope="session")
def dev_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A developer's key, as ssh(1) wants it; `stereos/` beside it is the configuration that names its public half."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh-keygen on PATH: install openssh-client")
    folder = tmp_path_factory.mktemp("developer")
    config = folder / "stereos"
    config.mkdir()
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "developer", "-f", folder / "key"])
    (config / "ssh-key.pub").write_bytes((folder / "key.pub").read_bytes())
    return folder / "key"


@pytest.fixture(scope="session")
def dev_dist(stereo: Stereo, locks: Path, dev_key: Path, tell: Tell, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dist of base-dev, for the owner of `dev_key`."""
    folder = tmp_path_factory.mktemp("dev-dist")
    tell("building base-dev for all tests of the dev profile")
    words = ("build", "base-dev", "--quick", "--version", VERSION, "--locks", locks, "--output-dir", folder)
    stereo(*words, cwd=folder, env={"XDG_CONFIG_HOME": str(dev_key.parent)})
    return folder / "base-dev" / VERSION / platform.machine()


@pytest.fixture(scope="session")
def dist(stereo: Stereo, locks: Path, tell: Tell, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dist of opencode-mixtape, built by the real command line with light compression."""
    folder = tmp_path_factory.mktemp("dist")
    tell(f"building {MIXTAPE} for all tests that need a dist")
    stereo(*("build", MIXTAPE, "--quick", "--version", VERSION, "--locks", locks, "--output-dir", folder), cwd=folder)
    return folder / MIXTAPE / VERSION / platform.machine()


@pytest.fixture(scope="session")
def arm_locks(usable_locks: Callable[..., Path], locks: Path) -> Path:
    """The folder of locks to build MIXTAPE for aarch64 with, on this machine."""
    return usable_locks(MIXTAPE, arch=Architecture.AARCH64, beside=locks)


@pytest.fixture(scope="session")
def arm(stereo: Stereo, arm_locks: Path, tell: Tell, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dist of opencode-mixtape for aarch64: of another architecture than this machine's, most likely."""
    folder = tmp_path_factory.mktemp("arm")
    tell(f"building {MIXTAPE} for aarch64, for all tests that need a dist of it")
    words = ("build", MIXTAPE, "--arch", Architecture.AARCH64, "--quick", "--version", VERSION)
    stereo(*words, "--locks", arm_locks, "--output-dir", folder, cwd=folder)
    return folder / MIXTAPE / VERSION / Architecture.AARCH64


@pytest.fixture(scope="session")
def base(stereo: Stereo, locks: Path, cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dist of the smallest mixtape, built without disturbance into the user's own cache."""
    room = Room(tmp_path_factory.mktemp("base"), locks)
    stereo.tell("building base for the tests that build it again and again")
    stereo(*room.build(), cwd=room.folder, env={"STEREO_CACHE": str(cache.root)})
    return only_dist(room.out)


@pytest.fixture
def room(cache: Cache, locks: Path) -> Iterator[Room]:
    """In the cache, since parts of it are lent, and parts of one cache are hard-linked among each other."""
    with scratch_folder("test-", cache.root) as folder:
        yield Room(folder, locks)
        sandbox.remove(folder)
        folder.mkdir()
