"""The proof that matters: the real opencode, in the real machine, mends a failing project of the caller's.

It has its key and one endpoint, a model whose answers are scripted; everything else is closed. Once as a native agent,
once in gVisor.
"""

from __future__ import annotations

import socket
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from makers.command import Stereo
from makers.model_server import Model, opencode_configuration, serving
from makers.sandboxes import Desk, desk, found_in

pytestmark = [pytest.mark.boot, pytest.mark.build]

KEY = "sk-proof-5f1c0d9e7b3a4826"
WORK = "/home/agent/workspace/project"


@dataclass
class Run:
    """What was there after one run of the agent."""

    desk: Desk
    model: Model
    project: Path
    forbidden: int
    status: dict[str, Any]
    logs: str
    egress: list[dict[str, Any]]
    leaks_inside: str


@pytest.fixture(scope="module", params=["native", "sandboxed"])
def run(request: pytest.FixtureRequest, stereo: Stereo, dist: Path) -> Iterator[Run]:
    with socket.create_server(("127.0.0.1", 0)) as closed, desk(stereo, dist) as one:
        forbidden = closed.getsockname()[1]
        calls: list[tuple[str, dict[str, Any]]] = [
            ("read", {"filePath": f"{WORK}/greet.sh"}),
            ("edit", {"filePath": f"{WORK}/greet.sh", "oldString": "wrold", "newString": "world"}),
            ("bash", {"command": "sh test.sh", "description": "Run the test"}),
            (
                "bash",
                {
                    "command": f"curl -sS -m 20 http://host.stereo.internal:{forbidden}/",
                    "description": "Reach a second endpoint",
                },
            ),
        ]
        project = one.home / "project"
        project.mkdir()
        (project / "greet.sh").write_text('echo "Hello, wrold"\n')
        (project / "test.sh").write_text('test "$(sh greet.sh)" = "Hello, world" && echo passed\n')
        with serving(Model(calls)) as model:
            url = f"http://host.stereo.internal:{model.port}/v1"
            (project / "opencode.json").write_text(opencode_configuration(url))
            one.write(
                f"""
[resources]
memory = "2GiB"

[network]
egress_allow = ["host.stereo.internal:{model.port}"]

[[shared]]
host = "project"
guest = "{WORK}"

[secrets]
OPENAI_API_KEY = "${{PROOF_KEY}}"

[[agents]]
name = "mender"
type = "{request.param}"
harness = "opencode"
prompt = "Make the failing test pass."
workdir = "{WORK}"
args = ["--auto"]
secrets = ["OPENAI_API_KEY"]
"""
            )
            one("up", env={"PROOF_KEY": KEY})
            one.agent_until("mender", "exited", "failed", seconds=420)
            status = one.status()
            logs = one("logs", "mender").stdout
            egress = one.lines("logs", "--egress", "--json")
            places = "/etc /var /home /state /tmp /run --exclude-dir=credentials"
            search = f"grep -rlsF {KEY} {places}; journalctl -a | grep -cF {KEY}"
            leaks = one("exec", "-u", "root", "sh", "-c", search, status=None).stdout
            one("down")
            yield Run(one, model, project, forbidden, status, logs, egress, leaks)


def row(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in run.status["agents"] if one["name"] == "mender")
    return found


def test_opencode_ran_headless_and_exited_with_0(run: Run) -> None:
    assert (row(run)["state"], row(run)["exit_code"]) == ("exited", 0), run.logs


def test_the_project_on_the_host_is_mended(run: Run) -> None:
    done = subprocess.run(["sh", "test.sh"], cwd=run.project, capture_output=True, text=True, check=False)
    assert done.stdout == "passed\n"


def test_the_file_belongs_to_the_caller(run: Run) -> None:
    ours, theirs = (run.project / "test.sh").stat(), (run.project / "greet.sh").stat()
    assert (theirs.st_uid, theirs.st_gid) == (ours.st_uid, ours.st_gid)


def test_the_model_was_called_with_the_key(run: Run) -> None:
    assert set(run.model.keys) == {f"Bearer {KEY}"}


def test_the_tools_did_what_the_model_asked_for(run: Run) -> None:
    assert run.model.results[2].strip().endswith("passed"), run.model.results


def test_logs_show_the_run(run: Run) -> None:
    assert run.model.farewell in run.logs
    assert "greet.sh" in run.logs


def test_a_second_endpoint_was_refused_and_logged(run: Run) -> None:
    refused = [line for line in run.egress if line["verdict"] == "refused" and line["port"] == run.forbidden]
    assert [line["host"] for line in refused][:1] == ["host.stereo.internal"], run.egress
    assert [line for line in run.egress if line["verdict"] == "allowed" and line["port"] == run.model.port]


def test_the_key_is_nowhere_in_the_hosts_folder_nor_on_the_disk(run: Run) -> None:
    assert found_in(run.desk.root, KEY.encode()) == []


def test_the_key_is_in_no_file_of_the_guest_but_its_memory(run: Run) -> None:
    found = [line for line in run.leaks_inside.split() if not line.startswith("/run/stereos/secrets/")]
    assert found == ["0"], "files, then the number of lines of the journal"


def test_the_jcard_inside_has_no_value(run: Run) -> None:
    jcard = tomllib.loads((run.desk.home / "jcard.toml").read_text())
    assert jcard["secrets"] == {"OPENAI_API_KEY": "${PROOF_KEY}"}, "nor has the one on the host"
