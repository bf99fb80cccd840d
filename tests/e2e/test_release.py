"""ci/release, whole: killed in the middle and run again, it publishes what a stranger believes, and repeats nothing."""

from __future__ import annotations

import json
import platform
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from makers.builds import BASE, digests
from makers.command import Stereo
from makers.jobs import Script
from makers.processes import SOON, mentioning, settled
from makers.running import running
from stereo.pipeline.jobs import JOBS

pytestmark = [pytest.mark.build, pytest.mark.boot]

POLICY = """
schema = 1
[[key]]
name = "release"
public_key = "release.pub"
roles = ["release", "provenance"]
mixtapes = ["*"]
[[key]]
name = "second"
public_key = "second.pub"
roles = ["rebuild"]
mixtapes = ["*"]
[require]
release = 1
provenance = 1
rebuilders = 1
"""


@pytest.fixture(scope="module")
def keys(stereo: Stereo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of a release and of a second builder, and the policy of somebody who believes both."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("release", "second"):
        stereo("keygen", name, "--output-dir", folder, cwd=folder)
    (folder / "policy.toml").write_text(POLICY)
    return folder


def test_a_release_is_made_whole_though_it_was_killed(
    stereo: Stereo, base: Path, locks: Path, keys: Path, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    """The fixture `base` is of another version; what the two share is in the cache."""
    root, work = tmp_path / "published", tmp_path / "work"
    where: list[str | Path] = ["--to", root, "--mixtapes", BASE, "--arch", platform.machine(), "--locks", locks]
    trying: list[str | Path] = ["--quick", "--allow-dirty"]
    signing: list[str | Path] = ["--key", keys / "release.key", "--rebuilder-key", keys / "second.key"]
    signing += ["--policy", keys / "policy.toml"]
    words: list[str | Path] = [
        *where,
        *trying,
        "--work",
        work,
        *signing,
        "--tag",
        "latest",
        "--tag",
        "nightly",
        "--no-lint",
    ]

    with running(Script(tell, "release"), *words, cwd=tmp_path, env={}) as first:
        first.until(f"Boot {BASE}/{platform.machine()} by qcow2…")
        version = json.loads((work / "release.json").read_text())["version"]
        first.signal(signal.SIGKILL, group=False)
        tell(f"killed the release of {version} while it booted")
    assert settled(lambda: list(mentioning(work)), seconds=SOON), list(mentioning(work))
    assert not root.exists(), "something was published before all went well"
    dist = work / "dist" / BASE / version / platform.machine()
    before = digests(dist)

    done = Script(tell, "release")(*words, "--json", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert (said["ok"], said["version"]) == (True, version)
    assert [(row["job"], row["state"]) for row in said["jobs"]] == [
        *(("check", "holds"), ("build", "holds"), ("reproduce", "holds")),
        *(("boot", "holds"), ("boot", "done"), ("boot", "done")),
        *(("sign", "done"), ("publish", "done"), ("retention", "done")),
    ]
    assert {row["job"] for row in said["jobs"]} == {job.name for job in JOBS}
    assert before.items() <= digests(dist).items(), "a dist that was proven has changed since"
    assert not (work / "second").exists()

    shown = stereo("tags", f"oci:{root}/{BASE}", "--json", cwd=tmp_path).stdout
    assert all(tag in shown for tag in (version, "latest", "nightly"))
    pulled = tmp_path / "pulled"
    stereo("pull", f"oci:{root}/{BASE}:latest", "--policy", keys / "policy.toml", "-o", pulled, cwd=tmp_path)
    (copy,) = pulled.rglob("mixtape.toml")
    stereo("verify", copy.parent, "--policy", keys / "policy.toml", cwd=tmp_path)

    plan = Script(tell, "release")(*where, *trying, "--work", work, "--plan", cwd=tmp_path).stdout
    day, _, number = version.rpartition(".")
    assert plan.startswith("version=")
    assert plan.splitlines()[0] in (f"version={day}.{int(number) + 1}",) or day not in plan, plan
    assert "targets=[]\n" in Script(tell, "nightly")(*where, "--work", work, "--plan", cwd=tmp_path).stdout
