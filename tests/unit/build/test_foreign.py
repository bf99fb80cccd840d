"""Programs of another architecture: they run in the sandbox, and the host stays as it was."""

from __future__ import annotations

import platform
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from makers.binfmt import registered
from stereo.build import foreign
from stereo.build.foreign import Emulator, found, is_foreign, registration, tiny_program
from stereo.errors import StereoError
from stereo.model.architecture import Architecture
from stereo.process import CommandFailed, Finished, die_with_parent, run

HERE = Architecture(platform.machine())
ELSEWHERE = next(arch for arch in Architecture if arch is not HERE)
NO_FILE_SYSTEM = "mount: /mnt: unknown filesystem type 'binfmt_misc'."
REFUSED = "mount: /mnt: permission denied."


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """In place of an emulator: what it is to run is not looked at."""
    path = tmp_path / "a: folder" / "emulator"
    path.parent.mkdir()
    path.write_bytes(tiny_program(HERE))
    path.chmod(0o755)
    return path


def private(program: Path) -> Emulator:
    try:
        emulator = found(ELSEWHERE, program)
    except StereoError as error:
        pytest.skip(f"this kernel has no binfmt_misc per user namespace: {error.what}")
    if emulator.program is None:
        pytest.skip("this kernel has no binfmt_misc per user namespace")
    return emulator


def test_the_smallest_program_ends_well_where_it_is_at_home(program: Path) -> None:
    assert run([program]).stderr == ""


def test_only_the_other_architecture_is_foreign() -> None:
    assert [is_foreign(HERE), is_foreign(ELSEWHERE)] == [False, True]


def test_what_is_registered_runs_the_others_programs_and_the_host_stays_as_it_was(program: Path) -> None:
    before = registered()
    emulator = private(program)
    assert emulator == Emulator(ELSEWHERE, program)
    told = run(emulator.enclosed(["cat", "/proc/self/uid_map"], "/mnt")).stdout
    assert told.split()[0] == "0"
    assert registered() == before


def test_the_host_stays_as_it_was_when_the_sandbox_is_killed(program: Path) -> None:
    emulator, before = private(program), registered()
    words = emulator.enclosed(["sh", "-c", "echo begun; exec sleep 600"], "/mnt")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        inside = children(child.pid)
        child.send_signal(signal.SIGKILL)
    assert inside
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in inside) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{pid}").exists() for pid in inside)
    assert registered() == before


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_registration_takes_programs_of_64_bits_of_that_machine_alone() -> None:
    _, name, kind, offset, magic, mask, program, flags = registration(ELSEWHERE, "qemu").split(":")
    assert (name, kind, offset, program, flags) == (f"stereo-{ELSEWHERE}", "M", "0", "qemu", "PF")
    wanted, bits = (bytes.fromhex(text.replace("\\x", "")) for text in (magic, mask))

    def taken(head: bytes) -> bool:
        return all((a ^ b) & c == 0 for a, b, c in zip(head, wanted, bits, strict=False))

    program_of_it = tiny_program(ELSEWHERE)
    assert taken(program_of_it)
    assert taken(program_of_it[:7] + b"\x03" + program_of_it[8:16] + b"\x03" + program_of_it[17:])
    assert not taken(tiny_program(HERE))
    assert not taken(program_of_it[:4] + b"\x01" + program_of_it[5:])


class Answers:
    """Stands for what a machine would say: a refusal, or None for a program that ran."""

    def __init__(self, *answers: str | None) -> None:
        self._answers = list(answers)

    def __call__(self, argv: Sequence[str], **_: Any) -> Finished:
        answer = self._answers.pop(0)
        if answer is not None:
            raise CommandFailed(argv, 32, answer)
        return Finished(tuple(argv), "", "", 0.0)


def test_where_the_kernel_allows_no_registration_of_our_own_that_of_the_host_does(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "run", Answers(REFUSED, None))
    emulator = found(ELSEWHERE, program)
    assert emulator.program is None
    assert not [word for word in emulator.enclosed(["true"], "/mnt") if "binfmt" in word]


@pytest.mark.parametrize(
    ("answer", "command"),
    [(REFUSED, "sudo apt-get install qemu-user-static"), (NO_FILE_SYSTEM, "sudo modprobe binfmt_misc")],
)
def test_where_nothing_works_the_one_command_that_mends_it_is_told(
    program: Path, monkeypatch: pytest.MonkeyPatch, answer: str, command: str
) -> None:
    monkeypatch.setattr(foreign, "run", Answers(answer, "chroot: failed to run command '/probe': Exec format error"))
    with pytest.raises(StereoError) as caught:
        found(ELSEWHERE, program)
    assert caught.value.hint == command
    assert answer in caught.value.what


def test_an_emulator_that_does_not_work_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(StereoError, match=f"runs no programs of {ELSEWHERE}"):
        found(ELSEWHERE, tmp_path / "absent")
