"""What runsc and the unit around it are told: everything the agent needs, nothing else, and no secret in any file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from stereos_guest import gvisor
from stereos_guest.agentspec import AgentSpec, SpecError, parse

FOLDER = "/run/stereos/sandboxes/worker"
WRAPPERS = Path(__file__).parents[2] / "overlays/base"


def worker(more: str = "") -> AgentSpec:
    """A sandboxed agent as a jcard makes it."""
    text = f'[[agents]]\nname = "worker"\nharness = "opencode"\nprompt = "mend it"\n{more}\n'
    (agent,) = parse(text).agents
    return agent


def config(spec: AgentSpec, *shares: tuple[str, bool]) -> dict[str, Any]:
    _, _, files = gvisor.service(spec, FOLDER, shares)
    found: dict[str, Any] = json.loads(files[f"{FOLDER}/config.json"])
    return found


def setting(properties: list[str], name: str) -> list[str]:
    return [line.partition("=")[2] for line in properties if line.startswith(f"{name}=")]


def test_the_command_line_names_the_agent_and_no_prompt_or_variable() -> None:
    argv, _, _ = gvisor.service(worker('env = { COLOUR = "blue" }'), FOLDER, [])
    assert argv[:3] == ["/usr/lib/stereos/sandbox-run", "worker", "/run/sandbox/bundle"]
    assert {"--platform=systrap", "--network=host", "--ignore-cgroups", "--overlay2=none", "--host-uds=none"} < {*argv}
    assert not any("mend" in word or "blue" in word for word in argv)


def test_the_programs_around_runsc_are_there_and_executable() -> None:
    for path in ("/usr/lib/stereos/sandbox-run", "/usr/lib/stereos/sandbox-enter"):
        file = WRAPPERS / path[1:]
        assert file.stat().st_mode & 0o111 == 0o111
        subprocess.run(["bash", "-n", file], check=True)


def test_the_agent_is_what_runs_inside_as_the_agent_without_a_privilege() -> None:
    process = config(worker('workdir = "/workspace"'))["process"]
    assert process["args"] == ["/usr/lib/stereos/sandbox-enter", "opencode", "run", "--", "mend it"]
    assert (process["cwd"], process["terminal"]) == ("/workspace", False)
    assert (process["user"]["uid"], process["user"]["gid"]) == (1000, 1000)
    assert process["noNewPrivileges"] is True
    assert len(process["capabilities"]) == 5
    assert not any(process["capabilities"].values())


def test_variables_are_in_their_own_file_and_secrets_in_none() -> None:
    spec = worker('env = { B = "two\\nlines = 2", A = "ü" }\nsecrets = ["TOKEN"]')
    _, properties, files = gvisor.service(spec, FOLDER, [])
    assert files[f"{FOLDER}/environment"] == "A=ü\0B=two\nlines = 2\0"
    assert set(files) == {f"{FOLDER}/environment", f"{FOLDER}/config.json"}
    assert config(spec)["process"]["env"] == []
    assert not any("TOKEN" in text for text in [*files.values(), *properties])


def test_what_is_mounted_is_complete_and_nothing_else() -> None:
    mounts = {row["destination"]: row for row in config(worker(), ("/workspace", False), ("/docs", True))["mounts"]}
    bound = {path: row["options"] for path, row in mounts.items() if row["type"] == "bind"}
    assert set(bound) == {"/usr", "/home/agent", "/workspace", "/docs"}
    assert all(mounts[path]["source"] == path for path in bound)
    assert {path for path, options in bound.items() if "ro" in options} == {"/usr", "/docs"}
    assert {path for path, options in bound.items() if "rw" in options} == {"/home/agent", "/workspace"}
    assert set(mounts) - set(bound) == {"/proc", "/sys", "/dev", "/tmp", "/var/tmp", "/run"}
    assert all("nosuid" in row["options"] for row in mounts.values())
    assert config(worker())["root"] == {"path": "rootfs", "readonly": True}


def test_a_share_below_the_home_is_mounted_after_it() -> None:
    places = [row["destination"] for row in config(worker(), ("/home/agent/workspace", True))["mounts"]]
    assert places.index("/home/agent") < places.index("/home/agent/workspace")


def test_a_share_that_is_the_home_takes_its_place() -> None:
    rows = [row for row in config(worker(), ("/home/agent", True))["mounts"] if row["destination"] == "/home/agent"]
    assert len(rows) == 1
    assert "ro" in rows[0]["options"]


def test_what_is_read_only_inside_cannot_be_written_by_runsc_either() -> None:
    _, properties, _ = gvisor.service(worker(), FOLDER, [("/workspace", False), ("/docs", True)])
    assert setting(properties, "ProtectSystem") == ["strict"]
    assert setting(properties, "ReadWritePaths") == ['"/home/agent" "/workspace"']


def test_strange_paths_do_not_become_other_paths_of_the_unit() -> None:
    _, properties, _ = gvisor.service(worker(), FOLDER, [('/a "b" %h\\', False)])
    assert setting(properties, "ReadWritePaths") == [r'"/a \"b\" %%h\\" "/home/agent"']


def test_it_is_told_whose_home_it_has() -> None:
    _, properties, _ = gvisor.service(worker(), FOLDER, [])
    assert setting(properties, "Environment")[0].split()[:2] == ["HOME=/home/agent", "USER=agent"]


def test_bundle_and_state_are_in_the_units_own_tmpfs() -> None:
    argv, properties, files = gvisor.service(worker(), FOLDER, [])
    assert [line.partition(":")[0] for line in setting(properties, "TemporaryFileSystem")] == [gvisor.PRIVATE]
    bound = dict(line.split(":") for line in setting(properties, "BindReadOnlyPaths"))
    assert set(bound) == set(files)
    assert all(place.startswith(f"{gvisor.PRIVATE}/bundle/") for place in bound.values())
    assert f"--root={gvisor.PRIVATE}/state" in argv


def test_the_unit_around_runsc_is_confined() -> None:
    _, properties, _ = gvisor.service(worker(), FOLDER, [])
    assert setting(properties, "KillMode") == ["mixed"]
    assert setting(properties, "NoNewPrivileges") == ["yes"]
    (capabilities,) = setting(properties, "CapabilityBoundingSet")
    kept = set(capabilities.split())
    assert not kept & {"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_MKNOD", "CAP_SYS_BOOT"}
    assert "-/run/stereos" in setting(properties, "InaccessiblePaths")[0].split()
    families = setting(properties, "RestrictAddressFamilies")[0].split()
    assert not {"AF_VSOCK", "AF_PACKET"} & set(families)


@pytest.mark.parametrize("path", ["workspace", "/a/../etc", "/a//b", "/a/", "/", "/a\nExecStart=x", "/a/."])
def test_a_share_that_is_not_a_plain_absolute_path_is_refused(path: str) -> None:
    with pytest.raises(SpecError, match="not an absolute path"):
        gvisor.service(worker(), FOLDER, [(path, False)])


def test_an_agent_that_wants_a_terminal_is_refused() -> None:
    spec = worker()
    spec.interactive = True
    with pytest.raises(SpecError, match="no terminal"):
        gvisor.service(spec, FOLDER, [])
