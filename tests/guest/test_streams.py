"""Streams at the guest's end, message by message: what opens them, what they may send, how they end."""

from __future__ import annotations

import base64
import io
import os
import pwd
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereos_guest import frames, openers, protocol
from stereos_guest.execution import Account
from stereos_guest.loop import Loop
from stereos_guest.openers import Context, is_agent_name, split
from stereos_guest.protocol import Message, ProtocolError
from stereos_guest.session import Session

NUMBER = 7


class Bench:
    """A session whose host is the test, and the loop that its streams live in."""

    def __init__(self, home: Path) -> None:
        self.loop = Loop()
        self.home = home
        self.session = Session(openers.openers(Context(self.loop, str(home), self._account)), self.loop)
        self.session.greet(["id"])
        self.heard: list[Message] = []

    def _account(self, name: str) -> Account:
        row = pwd.getpwuid(os.getuid())
        return Account(row.pw_name, row.pw_uid, row.pw_gid, os.getgroups(), str(self.home), "/bin/sh")

    def say(self, kind: str, payload: dict[str, Any] | None = None, number: int = NUMBER) -> None:
        self.session.receive(protocol.encode(kind, payload, number))
        while self.session.work():
            pass

    def hear(self) -> list[Message]:
        lines = self.session.take(1 << 20).split(b"\n")[:-1]
        new = [protocol.decode(line) for line in lines]
        self.heard += new
        return new

    def until(self, kind: str, seconds: float = 10) -> Message:
        """Go on until a message of that type has come."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for message in self.hear():
                if message.type == kind:
                    return message
            self.loop.turn(0.05)
        pytest.fail(f"no {kind}, only {[message.type for message in self.heard]}")

    def output(self, name: str = "stdout") -> bytes:
        pieces = [message.payload for message in self.heard if message.type == protocol.DATA]
        return b"".join(base64.b64decode(piece["data"]) for piece in pieces if piece["stream"] == name)

    def refusal(self, kind: str, payload: dict[str, Any] | None, number: int = NUMBER) -> str:
        self.say(kind, payload, number)
        if not self.hear():
            self.until(protocol.ACK)
        assert self.heard[-1].type == protocol.ACK
        assert self.heard[-1].payload["ok"] is False
        return str(self.heard[-1].payload["error"])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    before = {path.name for path in Path("/proc/self/fd").iterdir()}
    yield made
    made.session.end()
    for _ in range(100):
        made.loop.turn(0.02)
        if not made.loop._sources:
            break
    after = {path.name for path in Path("/proc/self/fd").iterdir()}
    assert after <= before, "descriptors are left open"
    made.loop.close()


def data(content: bytes, stream: str = "stdin") -> dict[str, str]:
    return {"stream": stream, "data": base64.b64encode(content).decode()}


# --- what opens a stream ---


@pytest.mark.parametrize(
    ("kind", "payload", "complaint"),
    [
        ("exec", None, "has no payload"),
        ("exec", {}, "argv is not a list"),
        ("exec", {"argv": []}, "argv is not a list"),
        ("exec", {"argv": [""]}, "argv has more than 4096 words, or an empty one first"),
        ("exec", {"argv": ["a\0b"]}, "argv is not a list"),
        ("exec", {"argv": [1]}, "argv is not a list"),
        ("exec", {"argv": ["x"] * 5000}, "argv has more than 4096 words, or an empty one first"),
        ("exec", {"argv": ["x"], "user": "daemon"}, "user is none of"),
        ("exec", {"argv": ["x"], "user": ["root"]}, "user is none of"),
        ("exec", {"argv": ["x"], "env": {"A=B": "c"}}, "env is not a table"),
        ("exec", {"argv": ["x"], "env": {"A": 1}}, "env is not a table"),
        ("exec", {"argv": ["x"], "env": ["A"]}, "env is not a table"),
        ("exec", {"argv": ["x"], "timeout": 0}, "timeout is not"),
        ("exec", {"argv": ["x"], "timeout": True}, "timeout is not"),
        ("exec", {"argv": ["x"], "timeout": "1"}, "timeout is not"),
        ("exec", {"argv": ["x"], "stdin": 1}, "stdin is neither"),
        ("exec", {"argv": ["x"], "tty": {}}, "rows is not a number"),
        ("exec", {"argv": ["x"], "tty": {"rows": 1, "cols": 65536}}, "cols is not a number"),
        ("exec", {"argv": ["x"], "tty": True}, "tty is not a table"),
        ("exec", {"argv": ["x"], "cwd": 5}, "cwd is not a path"),
        ("copy_in", {}, "path is not a path"),
        ("copy_in", {"path": "a\0"}, "path is not a path"),
        ("copy_out", {"path": ""}, "path is not a path"),
        ("copy_out", {"path": "/x", "user": "nobody"}, "user is none of"),
        ("connect", {}, "port is not a number"),
        ("connect", {"port": 0}, "port is not a number"),
        ("connect", {"port": 80, "host": "10.0.0.1"}, "host is neither"),
        ("connect", {"port": 80, "host": "localhost"}, "host is neither"),
        ("logs", {"agent": "../x"}, "agent is not the name"),
        ("logs", {"agent": "a", "lines": -1}, "lines is not a number"),
        ("logs", {"follow": "yes"}, "follow is neither"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    bench: Bench, kind: str, payload: dict[str, Any] | None, complaint: str
) -> None:
    assert complaint in bench.refusal(kind, payload)


def test_a_stream_needs_a_number_that_is_free(bench: Bench) -> None:
    assert "needs an id" in bench.refusal("exec", {"argv": ["true"]}, number=0)
    bench.say("exec", {"argv": ["sleep", "9"]})
    bench.until(protocol.ACK)
    assert "open already" in bench.refusal("exec", {"argv": ["true"]})


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/a/b", ("/a", "b")),
        ("/a", ("/", "a")),
        ("a", (".", "a")),
        ("a/b/", ("a", "b")),
        ("/", ("/", ".")),
        ("..", ("..", ".")),
        ("/a/.", ("/a/.", ".")),
        ("-rf", (".", "-rf")),
    ],
)
def test_a_path_is_cut_into_a_folder_and_a_name(path: str, parts: tuple[str, str]) -> None:
    assert split(path) == parts


@pytest.mark.parametrize(("name", "good"), [("a", True), ("a-1", True), ("-a", False), ("A", False), ("", False)])
def test_names_of_agents_are_told_from_others(name: str, good: bool) -> None:
    assert is_agent_name(name) is good


# --- programs ---


def test_a_program_is_acked_heard_and_its_end_is_told_last(bench: Bench) -> None:
    bench.say("exec", {"argv": ["sh", "-c", "echo out; echo err >&2; exit 3"]})
    ended = bench.until(protocol.EXIT)
    assert ended.payload == {"code": 3, "signal": None, "timed_out": False}
    assert (bench.output(), bench.output("stderr")) == (b"out\n", b"err\n")
    assert bench.heard[0].type == protocol.ACK
    assert {message.id for message in bench.heard} == {NUMBER}
    assert [m.payload["stream"] for m in bench.heard if m.type == protocol.EOF] in (
        ["stdout", "stderr"],
        ["stderr", "stdout"],
    )


def test_what_cannot_be_started_is_told_at_the_end(bench: Bench) -> None:
    bench.say("exec", {"argv": ["/no/such"]})
    ended = bench.until(protocol.EXIT).payload
    assert (ended["code"], ended["error"]) == (127, "/no/such: No such file or directory")


def test_no_more_is_sent_than_the_host_gave_credit_for(bench: Bench) -> None:
    bench.say("exec", {"argv": ["cat", "/dev/zero"]})
    for _ in range(50):
        bench.hear()
        bench.loop.turn(0.01)
    assert len(bench.output()) == frames.INITIAL_WINDOW
    bench.say(protocol.WINDOW, {"bytes": 1000})
    for _ in range(10):
        bench.hear()
        bench.loop.turn(0.01)
    assert len(bench.output()) == frames.INITIAL_WINDOW + 1000


def test_input_is_granted_again_only_as_it_is_taken(bench: Bench) -> None:
    bench.say("exec", {"argv": ["sleep", "9"], "stdin": True})
    for _ in range(5):
        bench.say(protocol.DATA, data(bytes(48 << 10)))
    bench.hear()
    # What fits into the pipe counts as taken; the rest waits here.
    granted = sum(m.payload["bytes"] for m in bench.heard if m.type == protocol.WINDOW)
    assert granted <= 1 << 16


def test_a_host_that_sends_beyond_its_window_loses_the_stream(bench: Bench) -> None:
    bench.say("exec", {"argv": ["sleep", "9"], "stdin": True})
    for _ in range(8):
        bench.say(protocol.DATA, data(bytes(48 << 10)))
    ended = bench.until(protocol.EXIT).payload
    assert (ended["signal"], ended["error"]) == ("KILL", "more data than the window allows")


@pytest.mark.parametrize(
    ("kind", "payload", "complaint"),
    [
        (protocol.DATA, {"stream": "stdin", "data": "?"}, "not base64"),
        (protocol.DATA, {"stream": "stdin"}, "not base64"),
        (protocol.DATA, {"stream": "stdout", "data": ""}, "does not send stdout"),
        (protocol.DATA, {"stream": "x", "data": ""}, "that there is not"),
        (protocol.DATA, {"stream": [], "data": ""}, "that there is not"),
        (protocol.DATA, data(bytes(50_000)), "more than 49152"),
        (protocol.WINDOW, {"bytes": 0}, "bytes is not a number"),
        (protocol.WINDOW, {"bytes": 1 << 41}, "bytes is not a number"),
        (protocol.WINDOW, None, "no payload"),
        (protocol.RESIZE, {"rows": 1}, "cols is not a number"),
        (protocol.SIGNAL, {"signal": "NOPE"}, "a signal that there is not"),
        (protocol.SIGNAL, {"signal": 9}, "a signal that there is not"),
    ],
)
def test_a_message_that_makes_no_sense_ends_its_stream_and_no_other(
    bench: Bench, kind: str, payload: dict[str, Any] | None, complaint: str
) -> None:
    bench.say("exec", {"argv": ["sleep", "9"], "stdin": True}, number=99)
    bench.say("exec", {"argv": ["sleep", "9"], "stdin": True})
    bench.say(kind, payload)
    ended = bench.until(protocol.EXIT)
    assert ended.id == NUMBER
    assert complaint in ended.payload["error"]
    assert 99 in bench.session._streams


def test_messages_for_a_stream_that_has_ended_are_ignored(bench: Bench) -> None:
    bench.say("exec", {"argv": ["true"]})
    bench.until(protocol.EXIT)
    for kind in (protocol.DATA, protocol.WINDOW, protocol.CANCEL, protocol.EOF):
        bench.say(kind, {})
    assert bench.hear() == []


@pytest.mark.parametrize(("name", "told"), [("TERM", "TERM"), ("USR1", "USR1"), ("KILL", "KILL")])
def test_a_signal_reaches_the_program(bench: Bench, name: str, told: str) -> None:
    bench.say("exec", {"argv": ["sleep", "9"]})
    bench.say(protocol.SIGNAL, {"signal": name})
    assert bench.until(protocol.EXIT).payload["signal"] == told


def test_a_time_limit_ends_it_and_says_so(bench: Bench) -> None:
    began = time.monotonic()
    bench.say("exec", {"argv": ["sleep", "30"], "timeout": 0.2})
    assert bench.until(protocol.EXIT).payload == {"code": None, "signal": "TERM", "timed_out": True}
    assert time.monotonic() - began < 20


def test_a_program_that_ignores_the_end_of_its_time_is_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stereos_guest.programs._GRACE", 0.2)
    script = "trap '' TERM; while :; do sleep 1; done"
    bench.say("exec", {"argv": ["sh", "-c", script], "timeout": 0.3})
    assert bench.until(protocol.EXIT).payload == {"code": None, "signal": "KILL", "timed_out": True}


def test_a_time_limit_leaves_nobody_behind(bench: Bench) -> None:
    script = """sh -c 'trap "" TERM; echo $$; exec sleep 60' & sleep 60"""
    bench.say("exec", {"argv": ["sh", "-c", script], "timeout": 0.5})
    assert bench.until(protocol.EXIT).payload["timed_out"] is True
    time.sleep(0.1)
    state = Path(f"/proc/{int(bench.output())}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_program_that_ends_in_time_is_not_remembered_by_its_time_limit(bench: Bench) -> None:
    bench.say("exec", {"argv": ["true"], "timeout": 1000})
    stream = bench.session._streams[NUMBER]
    assert bench.until(protocol.EXIT).payload["timed_out"] is False
    assert stream._timers == []  # type: ignore[attr-defined]


def test_cancelling_kills_and_still_tells_the_end(bench: Bench) -> None:
    bench.say("exec", {"argv": ["cat", "/dev/zero"]})
    bench.say(protocol.CANCEL, {})
    assert bench.until(protocol.EXIT).payload == {"code": None, "signal": "KILL", "timed_out": False}


def test_who_was_left_behind_with_the_output_does_not_hold_up_the_end(bench: Bench) -> None:
    bench.say("exec", {"argv": ["sh", "-c", "sleep 30 & echo done"]})
    began = time.monotonic()
    bench.until(protocol.EXIT)
    assert time.monotonic() - began < 20
    assert bench.output() == b"done\n"


def test_a_terminal_takes_input_and_resizes(bench: Bench) -> None:
    script = "stty -echo; stty size; read a; stty size; echo got $a"
    bench.say("exec", {"argv": ["sh", "-c", script], "tty": {"rows": 11, "cols": 22, "term": "vt100"}})
    while b"11 22" not in bench.output():
        bench.until(protocol.DATA)
    bench.say(protocol.RESIZE, {"rows": 33, "cols": 44})
    bench.say(protocol.DATA, data(b"word\n"))
    assert bench.until(protocol.EXIT).payload["code"] == 0
    assert bench.output() == b"11 22\r\n33 44\r\ngot word\r\n"


def test_the_end_of_input_reaches_who_reads_from_a_terminal(bench: Bench) -> None:
    bench.say("exec", {"argv": ["sh", "-c", "stty -echo; cat"], "tty": {"rows": 1, "cols": 1}})
    time.sleep(0.3)
    bench.say(protocol.DATA, data(b"line\n"))
    bench.say(protocol.EOF, {"stream": "stdin"})
    assert bench.until(protocol.EXIT).payload["code"] == 0
    assert bench.output() == b"line\r\n"


def test_whoever_leaves_takes_all_programs_along(bench: Bench) -> None:
    for number in range(1, 6):
        bench.say("exec", {"argv": ["sh", "-c", "echo $$; exec sleep 60"]}, number=number)
    while bench.output().count(b"\n") < 5:
        bench.until(protocol.DATA)
    bench.session.end()
    for _ in range(20):
        bench.loop.turn(0.02)
    for pid in bench.output().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


# --- copies ---


def packed(**files: bytes) -> bytes:
    room = io.BytesIO()
    with tarfile.open(fileobj=room, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.replace("__", "/").replace("UP", ".."))
            entry.size, entry.mode, entry.uid = len(content), 0o6777, 12345
            tar.addfile(entry, io.BytesIO(content))
    return room.getvalue()


def copy_in(bench: Bench, folder: str, tar: bytes) -> dict[str, Any]:
    bench.say("copy_in", {"path": folder, "user": "agent"})
    bench.until(protocol.ACK)
    for start in range(0, len(tar), 40_000):
        bench.say(protocol.DATA, data(tar[start : start + 40_000]))
        for _ in range(10):
            bench.loop.turn(0.005)
    bench.say(protocol.EOF, {"stream": "stdin"})
    return dict(bench.until(protocol.EXIT).payload)


def test_files_are_copied_in_as_the_users_own_without_set_id_bits(bench: Bench) -> None:
    (bench.home / "in").mkdir()
    content = os.urandom(300_000)
    assert copy_in(bench, "in", packed(a=b"1", deep__b=content))["code"] == 0
    assert (bench.home / "in/deep/b").read_bytes() == content
    found = (bench.home / "in/a").stat()
    assert (found.st_mode & 0o7777, found.st_uid) == (0o755, os.getuid())


def test_members_that_lead_out_of_the_folder_are_not_unpacked(bench: Bench) -> None:
    (bench.home / "in").mkdir()
    ended = copy_in(bench, "in", packed(UP__escaped=b"1"))
    assert ended["code"] == 2
    assert b".." in bench.output("stderr")
    assert not (bench.home / "escaped").exists()


def test_copying_into_a_folder_that_is_missing_says_so(bench: Bench) -> None:
    assert copy_in(bench, "missing", packed(a=b"1"))["code"] == 2
    assert b"No such file or directory" in bench.output("stderr")


@pytest.mark.parametrize("path", ["out", "{home}/out", "out/", "-v", "--help"])
def test_a_folder_is_copied_out_under_its_name(bench: Bench, path: str) -> None:
    path = path.format(home=bench.home)
    folder = bench.home / path
    folder.mkdir()
    (folder / "file").write_bytes(b"content")
    bench.say("copy_out", {"path": path, "user": "agent"})
    assert bench.until(protocol.EXIT).payload["code"] == 0, bench.output("stderr")
    with tarfile.open(fileobj=io.BytesIO(bench.output())) as tar:
        name = folder.name
        assert tar.getnames() == [name, f"{name}/file"]
        member = tar.extractfile(f"{name}/file")
        assert member
        assert member.read() == b"content"


# --- logs ---


def test_logs_ask_the_journal_for_the_agents_and_nothing_else(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = bench.home / "journalctl"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setattr(openers, "JOURNALCTL", str(fake))
    everybody = ["_SYSTEMD_SLICE=stereos-agents.slice", "+", "SYSLOG_IDENTIFIER=stereos-agent"]
    asked: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["--lines=all", *everybody]),
        ({"agent": "a-1", "lines": 5}, ["--lines=5", "_SYSTEMD_UNIT=stereos-agent-a-1.service"]),
        ({"lines": 0, "follow": True}, ["--lines=0", "--follow", *everybody]),
    ]
    for number, (payload, last) in enumerate(asked, 1):
        bench.heard.clear()
        bench.say("logs", payload, number)
        bench.until(protocol.EXIT)
        assert bench.output().decode().split("\n")[-len(last) - 1 : -1] == last


# --- the bytes of data ---


@given(st.binary(max_size=2000), st.integers(1, protocol.MAX_ID), st.sampled_from(["stdin", "stdout", "stderr"]))
def test_bytes_survive_both_forms_of_data(content: bytes, number: int, stream: str) -> None:
    for raw in (True, False):
        line = frames.encode(number, stream, content, raw)
        assert line.count(b"\n") == 1
        message = frames.decode(line[:-1])
        assert (message.type, message.id, frames.content(message)) == ("data", number, (stream, content))


@given(st.binary(max_size=100))
def test_no_raw_line_raises_anything_but_a_protocol_error(tail: bytes) -> None:
    for line in (b"\x01" + tail, b"\x015/i " + tail, tail):
        with suppress(ProtocolError):
            frames.content(frames.decode(line))


@pytest.mark.parametrize(
    "line", [b"\x01", b"\x01/i x", b"\x010/i x", b"\x01-5/i x", b"\x015i x", b"\x019999999999999999/o "]
)
def test_a_raw_line_with_a_bad_head_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError, match="malformed raw line"):
        frames.decode(line)
