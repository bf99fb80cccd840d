"""Programs that the daemon starts: as whom, with what, and how they end. Real processes of this host."""

from __future__ import annotations

import os
import posix
import pwd
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stereos_guest import execution
from stereos_guest.execution import Account, Command, Process

NOBODY = 65534
PATH = {"PATH": "/usr/bin:/bin"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def here(home: Path) -> Account:
    row = pwd.getpwuid(os.getuid())
    return Account(row.pw_name, row.pw_uid, row.pw_gid, os.getgroups(), str(home), "/bin/sh")


def run(command: Command, meanwhile: Callable[[Process], None] = lambda process: None) -> tuple[str, int, str]:
    """Output, status and what kept it from starting."""
    process = execution.start(command)
    said = b""
    try:
        for _, descriptor in process.outputs:
            os.set_blocking(descriptor, True)
        meanwhile(process)
        for _, descriptor in process.outputs:
            try:
                while piece := os.read(descriptor, 65536):
                    said += piece
            except OSError:
                pass  # the end of a terminal
        _, status = os.waitpid(process.pid, 0)
        return said.decode(), status, process.why_not_started()
    finally:
        for descriptor in execution.descriptors_of(process):
            os.close(descriptor)


def shell(home: Path, script: str, **more: object) -> str:
    said, status, reason = run(Command(["sh", "-c", script], here(home), {**PATH, "A": "b"}, **more))  # type: ignore[arg-type]
    assert (status, reason) == (0, ""), said
    return said


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def _is_inheritable(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False  # that of the listing


def test_it_gets_its_arguments_and_nothing_but_the_environment_that_was_meant(tmp_path: Path) -> None:
    argv = ["sh", "-c", 'printf "%s|" "$@"; env', "name", "a b", "", "$x", "ü"]
    said, _, _ = run(Command(argv, here(tmp_path), {**PATH, "A": "b"}))
    words, _, environment = said.rpartition("|")
    assert words == "a b||$x|ü"
    names = {line.partition("=")[0] for line in environment.splitlines()}
    assert names - {"PWD", "_", "SHLVL"} == {"PATH", "A"}


def test_no_descriptor_of_the_daemon_is_left_in_it(tmp_path: Path) -> None:
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
    try:
        said = shell(tmp_path, "ls /proc/self/fd")
    finally:
        for descriptor in held:
            os.close(descriptor)
    whoever_runs_the_tests = {name for name in open_descriptors() if _is_inheritable(int(name))}
    assert len(set(said.split()) - whoever_runs_the_tests - {"0", "1", "2"}) == 1  # that of ls itself


def test_signals_and_umask_are_as_a_shell_expects_them(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    mask = os.umask(0o077)
    posix_mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        said = shell(tmp_path, "umask; grep -E 'Sig(Ign|Blk)' /proc/self/status")
    finally:
        signal.signal(signal.SIGHUP, before)
        os.umask(mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, posix_mask)
    assert said.split() == ["0022", "SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


def test_it_leads_a_session_of_its_own_without_a_terminal(tmp_path: Path) -> None:
    pid, session, terminal = shell(tmp_path, "set -- $(cat /proc/$$/stat); echo $1 $6 $7").split()
    assert pid == session
    assert terminal == "0"


def test_with_a_terminal_it_has_its_size_and_controls_it(tmp_path: Path) -> None:
    said = shell(
        tmp_path, "stty size; tty; echo x >/dev/tty; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all", size=(33, 77)
    )
    size, name, direct, rest = said.split("\r\n")[:4]
    assert (size, direct, rest) == ("33 77", "x", "all")
    assert name.startswith("/dev/pts/")


def test_a_change_of_the_terminals_size_is_told_to_it(tmp_path: Path) -> None:
    def resize(process: Process) -> None:
        time.sleep(0.3)
        process.resize(10, 20)

    script = "trap 'stty size; exit 0' WINCH; while :; do sleep 0.05; done"
    said, status, _ = run(Command(["sh", "-c", script], here(tmp_path), PATH, size=(1, 1)), resize)
    assert (said, status) == ("10 20\r\n", 0)


def test_a_signal_reaches_the_foreground_job_of_a_terminal_and_not_its_shell(tmp_path: Path) -> None:
    def interrupt(process: Process) -> None:
        os.set_blocking(process.outputs[0][1], True)
        while b"go" not in os.read(process.outputs[0][1], 100):
            pass
        time.sleep(0.2)
        process.signal(signal.SIGTERM)

    script = "set -m; sh -c 'echo go; sleep 30; :'; echo status $?"
    said, status, _ = run(Command(["bash", "-c", script], here(tmp_path), PATH, size=(5, 80)), interrupt)
    assert "status 143" in said
    assert status == 0


def test_killing_it_kills_what_it_started(tmp_path: Path) -> None:
    children: list[int] = []

    def kill(process: Process) -> None:
        children.append(int(os.read(process.outputs[0][1], 100)))
        process.kill()

    _, status, _ = run(Command(["sh", "-c", "sleep 60 & echo $!; wait"], here(tmp_path), PATH), kill)
    assert execution.ending(status) == (None, "KILL")
    time.sleep(0.1)
    state = Path(f"/proc/{children[0]}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


@pytest.mark.parametrize(
    ("argv", "code", "reason"),
    [
        (["no-such-program"], 127, "no-such-program: No such file or directory"),
        (["/no/such/program"], 127, "/no/such/program: No such file or directory"),
        (["/etc"], 126, "/etc: Permission denied"),
        (["./plain"], 126, "./plain: Permission denied"),
        (["./nonsense"], 126, "./nonsense: Exec format error"),
    ],
)
def test_what_cannot_be_started_says_why_with_the_codes_of_a_shell(
    tmp_path: Path, argv: list[str], code: int, reason: str
) -> None:
    (tmp_path / "plain").write_text("")
    (tmp_path / "nonsense").write_text("\x7fELF")
    (tmp_path / "nonsense").chmod(0o755)
    said, status, told = run(Command(argv, here(tmp_path), PATH))
    assert (said, execution.ending(status), told) == ("", (code, None), reason)


def test_a_working_folder_is_relative_to_home_and_must_exist_if_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    assert shell(tmp_path, "pwd") == f"{tmp_path}\n"
    assert shell(tmp_path, "pwd", cwd="deep") == f"{tmp_path}/deep\n"
    assert shell(tmp_path, "pwd", cwd="/usr") == "/usr\n"
    assert shell(tmp_path / "no-home", "pwd") == "/\n"
    said, status, reason = run(Command(["pwd"], here(tmp_path), PATH, cwd="missing"))
    assert (said, execution.ending(status)) == ("", (126, None))
    assert reason == "missing: No such file or directory"


def test_the_agent_starts_in_its_workspace(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    agent = here(tmp_path)
    agent.name = "agent"
    said, _, _ = run(Command(["pwd"], agent, PATH))
    assert said == f"{tmp_path}/workspace\n"


@needs_root
def test_it_runs_as_the_user_with_no_group_of_ours(tmp_path: Path) -> None:
    nobody = Account("nobody", NOBODY, NOBODY, [NOBODY, 12345], "/", "/bin/sh")
    script = "id -u; id -g; id -G; grep Cap /proc/self/status | grep -v Bnd; cat /etc/shadow"
    said, status, _ = run(Command(["sh", "-c", script], nobody, PATH))
    uid, gid, groups, *rest = said.splitlines()
    assert (uid, gid, groups) == ("65534", "65534", "65534 12345")
    assert {line.split()[1] for line in rest[:4]} == {"0" * 16}
    assert "Permission denied" in rest[-1]
    assert status != 0


@pytest.mark.parametrize(
    ("script", "ending"),
    [
        ("exit 0", (0, None)),
        ("exit 255", (255, None)),
        ("kill -TERM $$", (None, "TERM")),
        ("kill -35 $$", (None, "RTMIN+1")),
    ],
)
def test_the_true_end_is_told(tmp_path: Path, script: str, ending: tuple[int | None, str | None]) -> None:
    _, status, _ = run(Command(["sh", "-c", script], here(tmp_path), PATH))
    assert execution.ending(status) == ending


def test_the_environment_of_the_agent_is_the_curated_one_and_the_networks_goes_to_all(tmp_path: Path) -> None:
    for path, content in {
        execution.AGENT_ENVIRONMENT: "PATH=/curated\nEDITOR='vi'\n# comment\n\nnonsense\n",
        execution.NETWORK_ENVIRONMENT: 'HTTP_PROXY="http://10.0.2.2:3128"\n',
    }.items():
        file = tmp_path / path[1:]
        file.parent.mkdir(parents=True)
        file.write_text(content)
    agent = Account("agent", 1000, 1000, [], "/home/agent", "/shell")
    found = execution.environment_of(agent, str(tmp_path))
    assert (found["PATH"], found["EDITOR"], found["HTTP_PROXY"]) == ("/curated", "vi", "http://10.0.2.2:3128")
    assert (found["HOME"], found["USER"], found["SHELL"]) == ("/home/agent", "agent", "/shell")
    root = execution.environment_of(Account("root", 0, 0, [], "/root", "/bin/bash"), str(tmp_path))
    assert (root["PATH"], root["HTTP_PROXY"]) == (execution.STANDARD_PATH, "http://10.0.2.2:3128")
    assert "EDITOR" not in root


def test_a_start_that_fails_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()

    def full() -> int:
        raise OSError(11, "Resource temporarily unavailable")

    for size in (None, (1, 1)):
        monkeypatch.setattr(posix, "fork", full)
        with pytest.raises(OSError, match="temporarily"):
            execution.start(Command(["true"], here(tmp_path), PATH, size=size, stdin=True))
    assert open_descriptors() == before


def test_only_a_delegated_cgroup_is_ours(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    assert execution.own_cgroup(str(tmp_path)) == ""
    for text, expected in {
        "0::/system.slice/stereosd.service/daemon\n": "/sys/fs/cgroup/system.slice/stereosd.service",
        "3:cpu:/daemon\n0::/system.slice/stereosd.service\n": "",
        "0::/\n": "",
    }.items():
        (tmp_path / "proc/self/cgroup").write_text(text)
        assert execution.own_cgroup(str(tmp_path)) == (f"{tmp_path}{expected}" if expected else "")
