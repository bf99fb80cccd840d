"""The requests that open a stream: what each must say, and what is started for it."""

from __future__ import annotations

import posix

from stereos_guest import execution, protocol
from stereos_guest.connections import ConnectStream
from stereos_guest.execution import Account, Command
from stereos_guest.programs import ProcessStream
from stereos_guest.protocol import ProtocolError
from stereos_guest.streams import size_in, whole_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stereos_guest.loop import Loop
    from stereos_guest.protocol import Message
    from stereos_guest.session import Session

    Opener = Callable[[Message, Session], bytes | None]

TAR = "/usr/bin/tar"
JOURNALCTL = "/usr/bin/journalctl"
USERS = ("agent", "admin", "root")
_LOOPBACK = ("127.0.0.1", "::1")
_SLICE = "stereos-agents.slice"
_IDENTIFIER = "stereos-agent"  # of what agents write, see agentunits
_FIELDS = "MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_SYSTEMD_UNIT,_PID"
_MOST_WORDS = 4096
_LONGEST_PATH = 4096
_MOST_SECONDS = 1e9
_MOST_LINES = 10_000_000


class Context:
    """What all streams share. `root` is put before the paths of configuration; `account` finds a user by name."""

    def __init__(self, loop: Loop, root: str = "", account: Callable[[str], Account] = Account.of_machine) -> None:
        self.loop = loop
        self.root = root
        self.account = account
        self._cgroup = execution.own_cgroup(root)
        self._cgroups = 0
        self._used: list[str] = []

    def new_cgroup(self) -> str:
        """Where the next program shall run; empty where no cgroup is ours. Those that are empty by now are removed."""
        if not self._cgroup:
            return ""
        self._used = [path for path in self._used if not _removed(path)]
        self._cgroups += 1
        path = f"{self._cgroup}/exec-{posix.getpid()}-{self._cgroups}"
        self._used.append(path)
        return path


def openers(context: Context) -> dict[str, Opener]:
    """What answers each request that opens a stream."""
    made = _Openers(context)
    return {
        protocol.EXEC: made.exec,
        protocol.COPY_IN: made.copy_in,
        protocol.COPY_OUT: made.copy_out,
        protocol.CONNECT: made.connect,
        protocol.LOGS: made.logs,
    }


class _Openers:
    def __init__(self, context: Context) -> None:
        self._context = context

    def exec(self, message: Message, session: Session) -> bytes:
        body = message.body()
        account = self._user(body)
        argv, environment = body.get("argv"), body.get("env") or {}
        if not isinstance(argv, list) or not argv or not all(map(_is_word, argv)):
            raise ProtocolError("argv is not a list of words")
        if len(argv) > _MOST_WORDS or not argv[0]:
            raise ProtocolError(f"argv has more than {_MOST_WORDS} words, or an empty one first")
        if not isinstance(environment, dict) or not all(map(_is_variable, environment.items())):
            raise ProtocolError("env is not a table of variables")
        timeout, stdin = body.get("timeout"), body.get("stdin") or False
        if timeout is not None and not _is_seconds(timeout):
            raise ProtocolError("timeout is not a number of seconds")
        if not isinstance(stdin, bool):
            raise ProtocolError("stdin is neither true nor false")
        merged = {**execution.environment_of(account, self._context.root), **environment}
        size = None
        terminal = body.get("tty")
        if terminal is not None:
            if not isinstance(terminal, dict) or not _is_word(terminal.get("term", "")):
                raise ProtocolError("tty is not a table of rows, cols and term")
            size = size_in(terminal)
            merged["TERM"] = terminal.get("term") or "xterm-256color"
        cwd = body.get("cwd") or ""
        if not _is_path(cwd):
            raise ProtocolError("cwd is not a path")
        command = Command(argv, account, merged, cwd=cwd, size=size, stdin=stdin)
        return self._start(message, session, command, timeout=timeout)

    def copy_in(self, message: Message, session: Session) -> bytes:
        # GNU tar itself drops a leading "/" from members, and refuses those with ".." in them.
        account, path = self._user(message.body()), _path_in(message.body())
        options = ["--extract", "--no-same-owner", "--no-same-permissions", "--warning=no-timestamp"]
        return self._tar(message, session, account, [*options, f"--directory={path}", "--file=-"], stdin=True)

    def copy_out(self, message: Message, session: Session) -> bytes:
        account, path = self._user(message.body()), _path_in(message.body())
        folder, name = split(path)
        options = ["--create", "--numeric-owner", f"--directory={folder}", "--file=-", "--", name]
        return self._tar(message, session, account, options, stdin=False)

    def _tar(self, message: Message, session: Session, account: Account, options: list[str], *, stdin: bool) -> bytes:
        environment = {"PATH": execution.STANDARD_PATH, "LC_ALL": "C.UTF-8"}
        command = Command([TAR, *options], account, environment, cwd=account.home, stdin=stdin)
        return self._start(message, session, command, bulk=True)

    def logs(self, message: Message, session: Session) -> bytes:
        body = message.body() if message.has_payload else {}
        agent, lines, follow = body.get("agent"), body.get("lines"), body.get("follow") or False
        if agent is not None and (not isinstance(agent, str) or not is_agent_name(agent)):
            raise ProtocolError("agent is not the name of an agent")
        if not isinstance(follow, bool):
            raise ProtocolError("follow is neither true nor false")
        if lines is not None and lines != 0:
            whole_number(body, "lines", _MOST_LINES)
        argv = [JOURNALCTL, "--output=json", f"--output-fields={_FIELDS}", "--all", "--no-pager", "--quiet"]
        argv += [f"--lines={'all' if lines is None else int(lines)}", *(["--follow"] if follow else [])]
        # By field, not --unit=: so that a unit that first speaks later is followed too, and none but it is heard.
        if agent:
            argv.append(f"_SYSTEMD_UNIT=stereos-agent-{agent}.service")
        else:  # of a process that has ended meanwhile, the journal knows no slice
            argv += [f"_SYSTEMD_SLICE={_SLICE}", "+", f"SYSLOG_IDENTIFIER={_IDENTIFIER}"]
        command = Command(argv, self._context.account("root"), {"PATH": execution.STANDARD_PATH}, cwd="/")
        return self._start(message, session, command)

    def connect(self, message: Message, session: Session) -> None:
        body = message.body()
        host, port = body.get("host") or _LOOPBACK[0], whole_number(body, "port", 0xFFFF)
        if host not in _LOOPBACK:
            raise ProtocolError(f"host is neither {' nor '.join(_LOOPBACK)}")
        stream = ConnectStream(message.id, session, self._context.loop)
        session.open(message.id, stream)
        try:
            stream.start(host, port)
        except OSError as error:
            session.close_stream(message.id)
            raise ProtocolError(str(error.strerror)) from None

    def _user(self, body: dict[str, Any]) -> Account:
        name = body.get("user") or USERS[0]
        if name not in USERS:
            raise ProtocolError(f"user is none of {', '.join(USERS)}")
        try:
            return self._context.account(name)
        except KeyError:
            raise ProtocolError(f"this machine has no user {name}") from None

    def _start(
        self, message: Message, session: Session, command: Command, *, timeout: float | None = None, bulk: bool = False
    ) -> bytes:
        stream = ProcessStream(message.id, session, self._context.loop)
        session.open(message.id, stream)
        try:
            stream.start(command, self._context.new_cgroup(), timeout=timeout, bulk=bulk)
        except OSError as error:
            session.close_stream(message.id)
            raise ProtocolError(f"cannot start a program: {error.strerror}") from None
        return protocol.ack(message.type, id=message.id)


def is_agent_name(text: str) -> bool:
    """Whether `text` can be the name of an agent: small letters, digits and inner hyphens."""
    plain = text.replace("-", "")
    return 0 < len(text) <= 41 and text[0] != "-" and plain.isascii() and plain.isalnum() and plain == plain.lower()


def split(path: str) -> tuple[str, str]:
    """The folder of `path` and its name there; what has no name, as "/" or "..", is "." in itself."""
    bare = path.rstrip("/")
    folder, slash, name = bare.rpartition("/")
    if name in ("", ".", ".."):
        return path, "."
    return (folder or "/" if slash else "."), name


def _path_in(body: dict[str, Any]) -> str:
    path = body.get("path")
    if not path or not _is_path(path):
        raise ProtocolError("path is not a path")
    return str(path)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_path(value: Any) -> bool:
    return _is_word(value) and len(value) < _LONGEST_PATH


def _is_variable(item: tuple[Any, Any]) -> bool:
    name, value = item
    return _is_word(name) and _is_word(value) and name != "" and "=" not in name


def _is_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= _MOST_SECONDS


def _removed(path: str) -> bool:
    try:
        posix.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
