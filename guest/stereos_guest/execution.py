"""Programs that the host starts: as a user of the machine, in a session and a cgroup of their own.

The daemon is one thread without libraries, so it forks by itself. What a child could inherit is put right between fork
and execve(2): every descriptor of the daemon is close-on-exec; signals, umask, session and terminal are made anew.
When the daemon dies, systemd ends its children with it (KillMode=control-group in stereosd.service).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in, unlike `signal`, which pulls in `enum`
import posix
from errno import EACCES, ENOENT, ENOTDIR
from fcntl import ioctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
AGENT_ENVIRONMENT = "/usr/lib/stereos/agent/environment"
NETWORK_ENVIRONMENT = "/run/stereos/agent.env"
NOT_FOUND, NOT_STARTED = 127, 126  # the exit codes that a shell gives

_DELEGATED = "/daemon"  # DelegateSubgroup= of stereosd.service
_TIOCSWINSZ = 0x5414
_LARGEST_FILE = 1 << 16
_LONGEST_FAILURE = 300
# What Python, a service manager or nohup(1) may have us ignore; execve(2) would pass that on.
_RESET = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGPIPE", "SIGTERM", "SIGCHLD", "SIGXFSZ", "SIGTSTP", "SIGTTIN", "SIGTTOU")
SIGTERM = int(_signal.SIGTERM)
_SIGNALS = {
    name[3:]: int(getattr(_signal, name))
    for name in dir(_signal)
    if name.startswith("SIG") and name[3:4] != "_" and name not in ("SIGCLD", "SIGIOT", "SIGPOLL")
}


class Account:
    """A user: what setuid(2) and the environment need."""

    __slots__ = ("gid", "groups", "home", "name", "shell", "uid")

    def __init__(self, name: str, uid: int, gid: int, groups: Sequence[int], home: str, shell: str) -> None:
        self.name, self.uid, self.gid, self.groups = name, uid, gid, list(groups)
        self.home, self.shell = home, shell

    @classmethod
    def of_machine(cls, name: str) -> Account:
        """The user called `name`. Raises KeyError."""
        from pwd import getpwnam

        row = getpwnam(name)
        groups = posix.getgrouplist(name, row.pw_gid)
        return cls(name, row.pw_uid, row.pw_gid, groups, row.pw_dir, row.pw_shell)


class Command:
    """What to run. `cwd` is relative to the user's home; `size` (rows, columns) asks for a terminal."""

    __slots__ = ("account", "argv", "cwd", "environment", "size", "stdin")

    def __init__(
        self,
        argv: Sequence[str],
        account: Account,
        environment: Mapping[str, str],
        *,
        cwd: str = "",
        size: tuple[int, int] | None = None,
        stdin: bool = False,
    ) -> None:
        self.argv = list(argv)
        self.account = account
        self.environment = environment
        self.cwd = cwd
        self.size = size
        self.stdin = stdin


class Process:
    """A child and our ends of what it reads and writes; the owner of this closes them, and reaps."""

    __slots__ = ("cgroup", "failure", "handle", "outputs", "pid", "stdin", "terminal")

    def __init__(self) -> None:
        self.pid = self.handle = self.failure = self.stdin = self.terminal = -1
        self.outputs: list[tuple[str, int]] = []
        self.cgroup = ""

    def kill(self) -> None:
        """End it and all that it started. Only before it was reaped."""
        if not self.cgroup or not _write(self.cgroup + "/cgroup.kill", b"1"):
            self.signal(_SIGNALS["KILL"], everybody=True)
        try:  # just forked, it may be in neither the cgroup nor the group yet
            posix.kill(self.pid, _SIGNALS["KILL"])
        except ProcessLookupError:
            pass

    def signal(self, number: int, *, everybody: bool = False) -> None:
        """Signal the terminal's foreground job; without a terminal, or for `everybody`, the process group."""
        group = 0
        if self.terminal >= 0 and not everybody:
            try:
                group = posix.tcgetpgrp(self.terminal)
            except OSError:
                pass
        try:
            posix.killpg(group if group > 1 else self.pid, number)
        except ProcessLookupError:
            posix.kill(self.pid, number)  # it has not come to setsid(2) yet; not reaped, so the number is still its own
        except OSError:
            pass  # of those that are there, none may be signalled

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal's new size, if there is one."""
        if self.terminal >= 0:
            ioctl(self.terminal, _TIOCSWINSZ, _size(rows, columns))

    def why_not_started(self) -> str:
        """What kept the child from execve(2), once it has ended; empty if nothing did."""
        try:
            return posix.read(self.failure, _LONGEST_FAILURE).decode(errors="replace")
        except OSError:
            return ""

    def forget_cgroup(self) -> bool:
        """Remove the cgroup; False if somebody whom it left behind still is in it."""
        try:
            if self.cgroup:
                posix.rmdir(self.cgroup)
        except FileNotFoundError:
            pass
        except OSError:
            return False
        self.cgroup = ""
        return True


def signal_number(name: str) -> int | None:
    """The number of a signal called as in kill(1), without SIG."""
    return _SIGNALS.get(name)


def ending(status: int) -> tuple[int | None, str | None]:
    """Exit code and signal name, one of them None, of a status of waitpid(2)."""
    code = posix.waitstatus_to_exitcode(status)
    if code >= 0:
        return code, None
    return None, next((name for name, number in _SIGNALS.items() if number == -code), f"RTMIN+{-code - 34}")


def environment_of(account: Account, root: str = "") -> dict[str, str]:
    """What a program of this user starts with. The agent's PATH is the curated one, nobody else's."""
    found = {"PATH": STANDARD_PATH}
    if account.name == "agent":
        found.update(_read_environment(root + AGENT_ENVIRONMENT))
    found.update(_read_environment(root + NETWORK_ENVIRONMENT))
    found.update(HOME=account.home, USER=account.name, LOGNAME=account.name, SHELL=account.shell)
    return found


def start(command: Command, cgroup: str = "") -> Process:
    """Start `command`, in `cgroup` if there is one. Raises OSError if there are too many processes or descriptors."""
    process = Process()
    theirs: list[int] = []
    try:
        process.failure, failing = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        theirs.append(failing)
        if command.size:
            process.terminal, far = posix.openpty()
            theirs.append(far)
            process.resize(*command.size)
            process.stdin = posix.dup(process.terminal)
            process.outputs.append(("stdout", posix.dup(process.terminal)))
            ends = [far, far, far]
        else:
            ends = _pipes(process, command.stdin, theirs)
        for descriptor in (process.stdin, *(descriptor for _, descriptor in process.outputs)):
            if descriptor >= 0:
                posix.set_blocking(descriptor, False)
        if cgroup:
            posix.mkdir(cgroup, 0o755)
            process.cgroup = cgroup
        process.pid = posix.fork()
        if process.pid == 0:
            _become(command, ends, failing, cgroup)
        process.handle = posix.pidfd_open(process.pid)
    except BaseException:
        if process.pid > 0:
            posix.kill(process.pid, _SIGNALS["KILL"])
            posix.waitpid(process.pid, 0)
        process.forget_cgroup()
        for descriptor in descriptors_of(process):
            posix.close(descriptor)
        raise
    finally:
        for descriptor in theirs:
            posix.close(descriptor)
    return process


def descriptors_of(process: Process) -> list[int]:
    """Everything that is open for a process."""
    all_of_them = (process.failure, process.handle, process.stdin, process.terminal)
    return [descriptor for descriptor in (*all_of_them, *(fd for _, fd in process.outputs)) if descriptor >= 0]


def own_cgroup(root: str = "") -> str:
    """The cgroup below which the daemon may make others; empty if none was delegated to it."""
    for line in _read(root + "/proc/self/cgroup").splitlines():
        if line.startswith("0::") and line.endswith(_DELEGATED):
            return root + "/sys/fs/cgroup" + line[3 : -len(_DELEGATED)]
    return ""


def _pipes(process: Process, stdin: bool, theirs: list[int]) -> list[int]:
    if stdin:
        far, process.stdin = posix.pipe2(posix.O_CLOEXEC)
    else:
        far = posix.open("/dev/null", posix.O_RDONLY | posix.O_CLOEXEC)
    theirs.append(far)
    ends = [far]
    for name in ("stdout", "stderr"):
        near, far = posix.pipe2(posix.O_CLOEXEC)
        theirs.append(far)
        ends.append(far)
        process.outputs.append((name, near))
    return ends


def _become(command: Command, ends: Sequence[int], failing: int, cgroup: str) -> None:
    """In the child: become the program. Never returns."""
    code, reason = NOT_STARTED, ""
    try:
        for name in _RESET:
            _signal.signal(getattr(_signal, name), _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        if cgroup:
            _write(cgroup + "/cgroup.procs", b"0")
        if command.size:
            posix.login_tty(posix.dup(ends[0]))
        else:
            posix.setsid()
            for number, end in enumerate(ends):
                posix.dup2(end, number)
        posix.umask(0o022)
        account = command.account
        if posix.geteuid() == 0:
            posix.setgroups(account.groups)
            posix.setresgid(account.gid, account.gid, account.gid)
            posix.setresuid(account.uid, account.uid, account.uid)
        _go_to(account, command.cwd)
        code = NOT_FOUND
        _execute(command.argv, command.environment)
    except OSError as error:
        code = NOT_FOUND if error.errno == ENOENT and code == NOT_FOUND else NOT_STARTED
        reason = f"{error.filename or 'exec'}: {error.strerror}"
    except BaseException as error:  # whatever it is, two daemons must not go on from here
        reason = type(error).__name__
    finally:
        try:
            posix.write(failing, reason.encode(errors="replace")[:_LONGEST_FAILURE])
        finally:
            posix._exit(code)


def _go_to(account: Account, cwd: str) -> None:
    home = account.home if not cwd.startswith("/") else "/"
    wanted = cwd or ("workspace" if account.name == "agent" else ".")
    try:
        posix.chdir(home)
    except OSError:
        posix.chdir("/")
    try:
        posix.chdir(wanted)
    except OSError:
        if cwd:
            raise


def _execute(argv: list[str], environment: Mapping[str, str]) -> None:
    """execve(2) of the first that can be executed, as execvp(3) looks for it. Raises OSError."""
    program = argv[0]
    if "/" in program:
        posix.execve(program, argv, environment)
    failed = FileNotFoundError(ENOENT, "No such file or directory", program)
    for folder in environment.get("PATH", STANDARD_PATH).split(":"):
        try:
            posix.execve(f"{folder or '.'}/{program}", argv, environment)
        except OSError as error:
            if error.errno == EACCES:
                failed = error  # type: ignore[assignment]
            elif error.errno not in (ENOENT, ENOTDIR):
                raise
    raise failed


def _read_environment(path: str) -> dict[str, str]:
    """A file of NAME=VALUE lines (systemd.exec(5), EnvironmentFile=, without continuation lines)."""
    found = {}
    for line in _read(path).splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or name.startswith(("#", ";")):
            continue
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[name] = value
    return found


def _read(path: str) -> str:
    """A small file; empty if there is none."""
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return posix.read(descriptor, _LARGEST_FILE).decode(errors="replace")
    except OSError:
        return ""
    finally:
        posix.close(descriptor)


def _write(path: str, content: bytes) -> bool:
    try:
        descriptor = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    except OSError:
        return False
    try:
        posix.write(descriptor, content)
    except OSError:
        return False
    finally:
        posix.close(descriptor)
    return True


def _size(rows: int, columns: int) -> bytes:
    return rows.to_bytes(2, "little") + columns.to_bytes(2, "little") + bytes(4)
