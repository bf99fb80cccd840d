"""The command line as a whole: help, exit status, errors, signals, completion, and how little it imports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from stereo.cli import app
from stereo.cli.app import TOOL_VERSION
from stereo.errors import Problem, ProblemsError, StereoError, UsageError
from stereo.paths import Checkout

ROOT = Checkout.containing_this_package().root
READING_VERBS = ("build", "boot", "verify", "diff", "rebuild", "mixtapes", "show", "lock", "doctor", "clean")


def spawn(*words: str, code: str | None = None, **kwargs: str) -> subprocess.CompletedProcess[str]:
    """Run the command line, or Python `code`, as a process of its own."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'builder'}:{ROOT / 'guest'}", **kwargs}
    program = ["-c", code] if code else ["-m", "stereo"]
    return subprocess.run(
        [sys.executable, "-P", *program, *words], env=env, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A verb `mixtapes` that raises what is put into the list."""
    raised: list[BaseException] = []

    @click.command()
    @click.option("--json", is_flag=True)
    def verb(json: bool) -> None:
        raise raised[0]

    monkeypatch.setattr(app.Verbs, "get_command", lambda *_: verb)
    return raised


@pytest.mark.parametrize("verb", [verb for verb in app.VERBS if verb != "test"])
def test_every_verb_explains_itself_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Example" in shown
    assert f"stereo {verb}" in shown


@pytest.mark.parametrize("verb", READING_VERBS)
def test_every_verb_that_reads_speaks_json(verb: str) -> None:
    command = app.stereo.get_command(click.Context(app.stereo), verb)
    assert command is not None
    assert "--json" in {option for param in command.params for option in param.opts}


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {verb} " in shown for verb in app.VERBS)
    assert "...\n" not in shown.partition("Commands:")[2]


def test_no_words_at_all_are_answered_with_the_help_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("Usage:") == 1


def test_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--version"]) == 0
    assert capsys.readouterr().out == f"stereo {TOOL_VERSION}\n"
    assert f'\nversion = "{TOOL_VERSION}"\n' in ROOT.joinpath("pyproject.toml").read_text()


@pytest.mark.parametrize(
    "words", [["shwo"], ["show"], ["show", "base", "more"], ["show", "--wat"], ["--wat"], ["mixtapes", "--jsn"]]
)
def test_wrong_words_are_exit_status_2_and_nothing_on_stdout(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(words) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("words", [["build", "base"], ["up"], ["check", "."], ["dists", "remove", "base"]])
def test_an_architecture_may_be_known_by_another_name_elsewhere(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run([*words, "--arch", "arm64"]) == 2
    assert "'arm64' is not one of 'x86_64', 'aarch64'. Did you mean aarch64?" in capsys.readouterr().err
    assert app.run([*words, "--arch", "sparc"]) == 2
    assert "Did you mean" not in capsys.readouterr().err


def test_a_mistyped_verb_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    app.run(["shwo"])
    assert "did you mean 'show'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StereoError("broke"), 1),
        (UsageError("wrong"), 2),
        (ProblemsError([Problem("f", "k", "m")]), 2),
        (KeyboardInterrupt(), 130),
        (OSError(5, "Input/output error", "/x"), 1),
    ],
)
def test_each_error_has_its_exit_status_and_one_line(
    error: BaseException, status: int, failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(error)
    assert app.run(["mixtapes"]) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("stereo: ")
    assert said.err.count("\n") == 1


def test_an_error_says_what_where_and_what_to_do(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(StereoError("is damaged", where="file:3", hint="fetch it again"))
    app.run(["mixtapes"])
    assert capsys.readouterr().err == "stereo: file:3: is damaged\n        hint: fetch it again\n"


def test_a_full_disk_comes_with_a_remedy(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(OSError(28, "No space left on device", "/x"))
    assert app.run(["mixtapes"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "stereo: /x: No space left on device"
    assert said[1].startswith("        hint: make room, for instance with `stereo clean`")


def test_problems_are_counted(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(ProblemsError([Problem("f", "a", "m", "h"), Problem("f", "b", "n")]))
    app.run(["mixtapes"])
    assert capsys.readouterr().err.splitlines() == [
        "stereo: f: a: m",
        "        hint: h",
        "stereo: f: b: n",
        "stereo: 2 problems",
    ]


def test_with_json_an_error_is_an_object(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(ProblemsError([Problem("f", "a", "m", "h")]))
    app.run(["mixtapes", "--json"])
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["problems"] == [{"file": "f", "key": "a", "message": "m", "hint": "h"}]


def test_an_error_never_drives_the_terminal(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(StereoError("\x1b[2Jgone", where="a\x07b"))
    app.run(["mixtapes"])
    assert capsys.readouterr().err == "stereo: a\\x07b: \\x1b[2Jgone\n"


def test_a_defect_of_ours_is_not_hidden(failing: list[BaseException]) -> None:
    failing.append(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        app.run(["mixtapes"])


def test_the_process_exits_with_the_status() -> None:
    assert spawn("--version").returncode == 0
    assert spawn("show", "no-such-mixtape").returncode == 2


def test_the_first_line_does_not_wait_for_what_it_does_not_need() -> None:
    code = """
import sys
from stereo.cli.app import run
run(["--help"])
heavy = {"pydantic", "rich", "tomlkit", "zstandard", "asyncio", "stereo.process"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    done = spawn(code=code)
    assert (done.returncode, done.stderr) == (0, "")


_WAITING = """
import sys, time
import click
from stereo import cli
from stereo.cli import app
@click.command()
def verb():
    try:
        print("waiting", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)
app.Verbs.get_command = lambda *_: verb
sys.argv = ["stereo", "mixtapes"]
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whoever_stops_us_lets_us_clean_up(number: signal.Signals) -> None:
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'builder'}:{ROOT / 'guest'}"}
    with subprocess.Popen(
        [sys.executable, "-c", _WAITING], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "cleaned up\n", "stereo: stopped\n")


def test_a_reader_that_has_enough_is_no_error() -> None:
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'builder'}:{ROOT / 'guest'}"}
    command = f'"{sys.executable}" -m stereo schema mixtape | head -n 1'
    done = subprocess.run(["sh", "-c", command], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("{\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_ask_us(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["completion", shell]) == 0
    assert f"_STEREO_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_verbs_and_mixtapes_are_completed() -> None:
    def complete(*words: str) -> list[str]:
        asked = {"COMP_WORDS": " ".join(["stereo", *words]), "COMP_CWORD": str(len(words))}
        done = spawn(**asked, _STEREO_COMPLETE="bash_complete")
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert complete("ver") == ["verify"]
    assert complete("show", "opencode") == ["opencode-mixtape", "opencode-mixtape-dev"]


def test_bash_accepts_its_completion_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app.run(["completion", "bash"])
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    subprocess.run(["bash", "-n", script], check=True, timeout=30)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_was_closed_is_nobody_elses(closed: str, tmp_path: Path) -> None:
    code = """
import os, sys
from stereo.cli.app import run
status = run(["mixtapes"]), run(["nothing"])
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.write(file, repr((status, file > 2)).encode())
"""
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'builder'}:{ROOT / 'guest'}"}
    line = f'exec "$0" -P -c "$1" "$2" {closed}'
    done = subprocess.run(
        ["sh", "-c", line, sys.executable, code, str(tmp_path / "file")],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == "((0, 2), True)"
    assert "there is no verb" not in done.stdout
    assert "Traceback" not in done.stderr
