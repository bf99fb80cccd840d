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
    assert process["args"] == ["/usr/lib/stereos/sandbox-enter", "/workspace", "opencode", "run", "--", "mend it"]
    assert (process["cwd"], process["terminal"]) == ("/", False)  # runsc would make a missing one, as root
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


def statements(folder: Path, after: str) -> str:
    """What `after` says in a shell that has written a sandbox's variables to the file `said`, as root's does."""
    text = (WRAPPERS / "usr/lib/stereos/sandbox-run").read_text()
    function = "statements() {" + text.partition("statements() {")[2].partition("\n}\n")[0] + "\n}\n"
    prepare = f"unset PWD OLDPWD SHLVL _\nbundle={folder} credentials=({folder}/secrets/*)\n"
    script = f"{prepare}{function}statements >{folder}/said\n{after}"
    argv = ["/usr/bin/env", "-i", "PROXY=http://10.0.2.2:3128", "/bin/bash", "-euc", script]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """What a jcard sets; a secret of each kind is beside it."""
    found = {"ODD": "b$l\"ue `id` 'x'\n\\ two = 2 \u00fc", "EMPTY": "", "BASH_ENV": "/home/agent/evil", "IFS": "x"}
    found |= {"LD_PRELOAD": "/evil.so", "LOCPATH": "/home/agent", "LC_ALL": "evil", "GCONV_PATH": "/e", "PATH": "/evil"}
    (tmp_path / "environment").write_text("".join(f"{name}={value}\0" for name, value in found.items()))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/TOKEN").write_text("sk-1\n")
    (tmp_path / "secrets/not.a.variable").write_text("x")
    return found


def test_variables_of_a_jcard_do_nothing_to_roots_shell(tmp_path: Path, variables: dict[str, str]) -> None:
    names = " ".join({*variables, "TOKEN"} - {"IFS", "PATH"})
    said = statements(tmp_path, f'for each in {names}; do echo "$each ${{!each-unset}}"; done; echo "PATH $PATH"')
    *rows, path = said.splitlines()
    assert sorted(rows) == sorted(f"{name} unset" for name in names.split())
    assert "evil" not in path


def test_variables_arrive_inside_letter_by_letter(tmp_path: Path, variables: dict[str, str]) -> None:
    enter = WRAPPERS / "usr/lib/stereos/sandbox-enter"
    del variables["LD_PRELOAD"]  # the loader would complain of it
    (tmp_path / "environment").write_text("".join(f"{name}={value}\0" for name, value in variables.items()))
    statements(tmp_path, "")
    script = f"exec 3<{tmp_path}/said; exec /usr/bin/env -i /bin/bash {enter} {tmp_path} /usr/bin/env -0"
    done = subprocess.run(["/bin/bash", "-c", script], check=True, capture_output=True, text=True)
    found = dict(row.split("=", 1) for row in done.stdout.rstrip("\0").split("\0"))
    del found["SHLVL"]
    assert found == {**variables, "TOKEN": "sk-1", "PROXY": "http://10.0.2.2:3128", "PWD": str(tmp_path)}


def test_a_working_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    argv = ["/bin/bash", str(WRAPPERS / "usr/lib/stereos/sandbox-enter"), f"{tmp_path}/absent", "true"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        127,
        f"cannot start: working directory {tmp_path}/absent: cannot be entered\n",
    )


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
