"""Sandboxed agents in a real machine: a kernel of their own, the shares and nothing else, true ends, nothing left.

One boot goes through all of it (sandboxprobe.py); the tests judge what it saw.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e import sandboxprobe
from makers.probe import Prober
from stereo.paths import Cache
from stereo.report import Silent
from stereo.vm.accel import choose
from stereo.vm.programs import Programs
from stereo.vm.qemu import QemuBackend

pytestmark = [pytest.mark.boot, pytest.mark.build]


@pytest.fixture(scope="module")
def found(
    base: Path, tools_tree: Path, cache: Cache, tell: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    programs = Programs.find(tools_tree)
    folder = tmp_path_factory.mktemp("sandboxed")
    accelerator = choose(programs, cache.probe, Silent())
    program = Path(sandboxprobe.__file__)
    prober = Prober(base, QemuBackend(programs, folder / "scratch"), accelerator, folder, tell, program)
    return prober.ask(prober.spec(), "a machine with sandboxed agents")


def test_every_part_of_the_probe_came_to_its_end(found: dict[str, Any]) -> None:
    assert [found[key] for key in found if key.endswith(" failed")] == [], found["journal"]


def test_the_kernel_is_gvisors(found: dict[str, Any]) -> None:
    assert "Starting gVisor..." in found["said"], found["journal"]


def test_the_exit_status_comes_through(found: dict[str, Any]) -> None:
    assert (found["looker"]["state"], found["looker"]["exit_code"]) == ("failed", 7)
    assert found["missing"]["exit_code"] == 127
    assert found["killed"]["exit_signal"] == "SEGV"


def test_the_output_is_kept(found: dict[str, Any]) -> None:
    assert "the task" in found["said"]
    assert "on stderr" in found["said"]
    assert "exec: no-such-program: not found" in found["journal"]


def test_it_is_the_agent_at_home_without_a_privilege(found: dict[str, Any]) -> None:
    said = found["said"]
    assert "user=1000:1000 home=/home/agent name=agent pwd=/home/agent/workspace host=sandbox" in said
    capabilities = re.findall(r"^Cap\w+:\s*(\w+)$", said, re.MULTILINE)
    assert len(capabilities) >= 4
    assert {int(text, 16) for text in capabilities} == {0}
    assert "privileges=1\n" in said


def test_its_variables_and_secrets_are_in_its_environment(found: dict[str, Any]) -> None:
    key = sandboxprobe.KEY
    assert f'token={key} colour=b$l"ue path=/usr/lib/stereos/agent/bin' in found["said"]
    assert re.search(r"^descriptors=/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2(?: /proc/self/fd/3)?$",
                     found["said"], re.MULTILINE)  # fmt: skip


def test_the_secret_is_in_no_file_but_where_secrets_are(found: dict[str, Any]) -> None:
    own = "/run/stereos/secrets/TOKEN", "/run/credentials/stereos-agent-patient.service/TOKEN"
    journal = [path for path in found["leaks"] if path.startswith("/run/log/journal/")]
    # The looker printed it on purpose, and that is in the journal.
    assert set(found["leaks"]) - {*own, *journal} == set()
    assert own[0] in found["leaks"]


def test_a_working_directory_that_is_not_there_is_told_and_not_made_by_root(found: dict[str, Any]) -> None:
    entry, said, made = found["nowhere"]
    assert (entry["state"], entry["exit_code"], made) == ("failed", 127, False)
    assert said == f"cannot start: working directory {sandboxprobe.NOWHERE}: cannot be entered\n"


def test_it_works_on_the_shares_that_it_may_write_to(found: dict[str, Any]) -> None:
    assert found["result"] == {
        "/workspace/result": ["done\n", 1000],
        "/home/agent/workspace/from-sandbox": ["kept\n", 1000],
    }


def test_it_reads_what_is_read_only_and_cannot_write_there(found: dict[str, Any]) -> None:
    assert "reference=a fact" in found["said"]
    assert "wrote to" not in found["said"]


def test_it_sees_nothing_else_of_the_machine(found: dict[str, Any]) -> None:
    assert "sees /" not in found["said"]
    top = "bin dev etc home lib lib64 proc reference run sbin sys tmp usr var workspace"
    assert f"top={top} run= var=tmp homes=agent" in found["said"]


def test_sigterm_reaches_the_agent_and_a_restart_works(found: dict[str, Any]) -> None:
    assert found["restarted"], found["journal"]
    assert found["stopped"]["state"] == "stopped"
    assert found["patient said"].count("got TERM") == 2


def test_nothing_is_left_of_a_sandbox_that_ended(found: dict[str, Any]) -> None:
    assert found["left"] == [[], []]
    assert found["in the end"] == []


def test_a_killed_runsc_takes_its_sandbox_along_and_is_started_again(found: dict[str, Any]) -> None:
    assert found["struck"]["state"] == "running", found["journal"]
    assert found["struck"]["restarts"] == 2
    assert len([row for row in found["struck runs"] if "runsc-sandbox" in row]) == 1


def test_the_unit_around_runsc_is_confined(found: dict[str, Any]) -> None:
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", found["security"])
    assert level, found["security"]
    assert float(level[1]) <= 4.5
