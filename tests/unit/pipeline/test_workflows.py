"""The workflow files: they are what the model says, call scripts alone, ask for little, and linters find nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stereo.cli.app import run
from stereo.paths import Checkout
from stereo.pipeline import jobs
from stereo.pipeline.github import RUNNER, outputs
from stereo.pipeline.targets import Target, all_targets
from stereo.pipeline.workflows import differences, files, workflows, write

ROOT = Checkout.containing_this_package().root
FILES = files()
PINNED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+")


def read(text: str) -> dict[str, Any]:
    document = YAML(typ="safe").load(text)
    assert isinstance(document, dict)
    return document


def all_jobs() -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, name, job) for path, text in FILES.items() for name, job in read(text)["jobs"].items()]


def all_steps() -> list[dict[str, Any]]:
    return [step for _, _, job in all_jobs() for step in job["steps"]]


# --- stereo ci ---


def test_the_files_of_the_checkout_are_what_the_model_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ci", "--check"]) == 0, capsys.readouterr().out
    assert capsys.readouterr().out == "the workflow files are what the model says\n"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of nothing but workflow files, for `stereo ci` to work on."""
    write(tmp_path)
    monkeypatch.setattr(Checkout, "containing_this_package", classmethod(lambda cls: cls(tmp_path)))
    return tmp_path


def test_an_edit_is_found_and_written_over(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / ".github/workflows/release.yml"
    before = path.read_text()
    path.write_text(before.replace("packages: write", "packages: read"))
    assert run(["ci", "--check", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["differences"] == [{"path": ".github/workflows/release.yml", "what": "is not what the model says"}]
    assert run(["ci"]) == 0
    assert path.read_text() == before
    assert capsys.readouterr().out == ".github/workflows/release.yml: written\n"


def test_a_missing_file_is_found_and_a_strange_one_is_named_but_left(copy: Path) -> None:
    (copy / ".github/workflows/check.yml").unlink()
    strange = copy / ".github/workflows/own.yml"
    strange.write_text("on: push\n")
    assert [row.what for row in differences(copy)] == ["is missing", "does not come from the model"]
    assert run(["ci"]) == 1
    assert strange.read_text() == "on: push\n"
    assert [row.path for row in differences(copy)] == [".github/workflows/own.yml"]


def test_writing_again_changes_nothing(copy: Path) -> None:
    assert write(copy) == []


# --- linters ---


def lint(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_zizmor_finds_nothing_not_even_pedantically() -> None:
    zizmor = Path(sys.executable).with_name("zizmor")  # of requirements/test.txt, and no Python
    lint(zizmor, "--offline", "--no-progress", "--quiet", "--pedantic", "--strict-collection", *FILES)


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_the_files_fit_the_schema(schema: str) -> None:
    lint(sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *FILES)


# --- what no linter knows of ---


def test_every_command_is_a_script_of_ours_that_is_there() -> None:
    commands = [step["run"] for step in all_steps() if "run" in step]
    assert commands
    for command in commands:
        program = command.split()[0]
        assert re.fullmatch(r"ci/[a-z]+|\./stereo", program), command
        assert (ROOT / program).stat().st_mode & 0o111, program
        assert not re.search(r"[;&|`]|\$\(|\$\{", command), command


def test_no_expression_stands_in_a_command() -> None:
    assert [step["run"] for step in all_steps() if "${{" in step.get("run", "")] == []


def test_every_action_is_pinned_by_a_commit_and_names_its_version() -> None:
    used = {line.split("uses:")[1].strip() for text in FILES.values() for line in text.splitlines() if "uses:" in line}
    assert used
    assert [one for one in used if not PINNED.fullmatch(one)] == []


def test_no_checkout_leaves_credentials_behind() -> None:
    checkouts = [step for step in all_steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert {step["with"]["persist-credentials"] for step in checkouts} == {False}


def test_nothing_may_anything_at_the_top_and_a_job_reads_and_at_most_publishes() -> None:
    assert [path for path, text in FILES.items() if read(text)["permissions"] != {}] == []
    rights = {name: job["permissions"] for _, name, job in all_jobs()}
    writing = {name for name, rights in rights.items() if rights != {"contents": "read"}}
    assert writing == {"publish", "retention"}
    assert all(rights[name] == {"contents": "read", "packages": "write"} for name in writing)


def test_a_secret_is_in_no_job_that_runs_for_a_fork_and_in_no_step_but_the_one_that_needs_it() -> None:
    known = {job.name: set(job.secrets) for job in jobs.JOBS} | {"plan": set(jobs.PUBLISH.secrets)}
    for path, name, job in all_jobs():
        text = json.dumps(job)
        if "secrets." in text:
            assert job["environment"] == "release", (path, name)
            assert "github.repository == vars.STEREO_HOME" in job["if"], (path, name)
            holders = [step for step in job["steps"] if "secrets." in json.dumps(step)]
            assert len(holders) == 1, (path, name)
            assert set(holders[0]["env"]) == known[name]
            assert text.count("secrets.") == len(known[name]), (path, name)
    assert all("secrets." not in FILES[path] for path in FILES if "pull_request" in read(FILES[path])["on"])


def test_no_workflow_runs_foreign_code_with_our_rights() -> None:
    triggers = {trigger for text in FILES.values() for trigger in read(text)["on"]}
    assert triggers == {"pull_request", "push", "schedule", "workflow_dispatch"}


def test_nothing_is_published_before_it_was_built_again_elsewhere_and_booted() -> None:
    for name in ("release", "nightly"):
        steps = read(FILES[f".github/workflows/{name}.yml"])["jobs"]

        def before(job: str, steps: dict[str, Any] = steps) -> set[str]:
            needs = set(steps[job].get("needs", ()))
            return needs.union(*(before(one) for one in needs))

        assert before("publish") == {"plan", "check", "build", "reproduce", "boot", "sign"}
        assert list(steps)[1:] == [job.name for job in jobs.JOBS if job is not jobs.RETENTION]


def test_what_publishes_waits_for_what_else_publishes_and_is_not_stopped() -> None:
    writing = {path for path, _, job in all_jobs() if "packages" in job["permissions"]}
    assert len(writing) == 3
    for path, text in FILES.items():
        group = read(text)["concurrency"]
        if path in writing:
            assert group == {"group": "publishing", "cancel-in-progress": False}, path
        else:
            assert group["group"] != "publishing", path


def test_every_night_everything_is_built_and_built_again_and_booted_without_a_secret() -> None:
    text = FILES[".github/workflows/everything.yml"]
    document = read(text)
    assert {"schedule", "workflow_dispatch"} == set(document["on"])
    assert "secrets." not in text
    steps = document["jobs"]
    assert set(steps) == {"plan", "build", "reproduce", "boot"}
    for name in ("build", "reproduce", "boot"):
        assert steps[name]["strategy"]["matrix"] == {"include": "${{ fromJSON(needs.plan.outputs.targets) }}"}
        assert "STEREO_HOME" not in steps[name]["if"]  # in any fork too


def test_all_dists_are_built_on_machines_of_one_architecture() -> None:
    """The tools are part of a plan: with others a second build differs, and each night all would have changed."""
    assert {job["runs-on"] for _, _, job in all_jobs()} == {RUNNER}


def test_every_parcel_that_is_taken_was_given_before() -> None:
    for workflow in workflows():
        given: set[str] = set()
        for task in workflow.tasks:
            assert {parcel.name for parcel in task.takes} <= given, task.name
            given |= {task.gives.name} if task.gives else set()


def test_a_plan_is_told_in_lines() -> None:
    targets = all_targets(Checkout.containing_this_package())
    version, rows, names = outputs("2026.01.31.0", targets)
    assert version == "version=2026.01.31.0"
    matrix = json.loads(rows.removeprefix("targets="))
    assert [(row["mixtape"], row["arch"]) for row in matrix] == [(one.mixtape, one.arch) for one in targets]
    assert names == "mixtapes=" + ",".join(dict.fromkeys(one.mixtape for one in targets))
    assert outputs("", ()) == ["version=", "targets=[]", "mixtapes="]
    assert all("\n" not in line for line in outputs("2026.01.31.0", [Target("base", "aarch64")]))
