"""The build matrix without a build: whom it talks to, and what a task refuses."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from stereo.build.plans import plan_of
from stereo.errors import StereoError, UsageError
from stereo.pipeline.graph import graph
from stereo.pipeline.matrix import Tls, existing_scheduler, refuse_open_lines
from stereo.pipeline.task import Settings, code_digest, perform
from stereo.process import CommandFailed


@pytest.mark.parametrize(
    "address", ["tls://build.example:8786", "tcp://127.0.0.1:8786", "tcp://localhost:1", "tcp://[::1]:8786"]
)
def test_encrypted_lines_and_this_machine_are_good_enough(address: str) -> None:
    refuse_open_lines(address)


@pytest.mark.parametrize("address", ["tcp://10.0.0.1:8786", "tcp://build.example:8786", "tcp://[fe80::1]:8786"])
def test_an_open_line_to_elsewhere_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="could run code on all workers"):
        refuse_open_lines(address)


@pytest.mark.parametrize(
    "address",
    ["", "build.example:8786", "ucx://build.example:8786", "tls://build.example", "tls://a b:1", "tls://a:99999"],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="no address of a scheduler"):
        refuse_open_lines(address)


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    tls = Tls(*(tmp_path / name for name in ("ca.pem", "me.pem", "me.key")))
    with pytest.raises(UsageError) as refused, existing_scheduler("tls://127.0.0.1:1", tls):
        pass
    assert refused.value.where == str(tmp_path / "ca.pem")


def test_a_worker_with_other_code_makes_nothing(tmp_path: Path) -> None:
    (task, *_) = graph([plan_of("base", arch="x86_64", version="2026.01.31.0", locks=None)])
    settings = Settings(tmp_path, tmp_path, "r", "0" * 64)
    assert code_digest() != settings.code
    with pytest.raises(StereoError, match="another version of stereo"):
        perform(task, settings)
    assert list(tmp_path.iterdir()) == []


def test_a_task_travels_whole() -> None:
    tasks = graph([plan_of("base", arch="x86_64", version="2026.01.31.0", locks=None)])
    assert pickle.loads(pickle.dumps(tasks)) == tasks


def test_an_error_of_a_task_travels_with_place_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of a program does not unpickle as what it is."""

    def fail(task: object, settings: object) -> Path:
        raise CommandFailed(["mkosi"], 1, "no room")

    monkeypatch.setattr("stereo.pipeline.task._result", fail)
    (task, *_) = graph([plan_of("base", arch="x86_64", version="2026.01.31.0", locks=None)])
    with pytest.raises(StereoError) as failed:
        perform(task, Settings(tmp_path, tmp_path, "r", code_digest()))
    travelled = pickle.loads(pickle.dumps(failed.value))
    assert (str(travelled), travelled.hint) == (str(failed.value), "command: mkosi")
