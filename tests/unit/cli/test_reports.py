"""Reporters: plain lines for logs, bars for terminals, silence for JSON; and amounts as people read them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from stereo.cli import output as output_module
from stereo.cli.measure import amount, duration, progress_line
from stereo.cli.output import Output
from stereo.cli.plain import PlainReport
from stereo.cli.terminal import TerminalReport
from stereo.errors import StereoError
from stereo.report import Report, Silent


def plain(use: Callable[[Report], None], *, quiet: bool = False) -> list[str]:
    """The lines of a plain reporter without their time of day."""
    stream = io.StringIO()
    use(PlainReport(stream, quiet=quiet))
    lines = stream.getvalue().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    return [line[9:] for line in lines]


def drawn(use: Callable[[Report], None]) -> str:
    """What a terminal reporter leaves in a terminal of 100 columns."""
    stream = io.StringIO()
    use(TerminalReport(Console(file=stream, force_terminal=True, width=100)))
    return stream.getvalue()


def some_work(report: Report) -> None:
    with report.step("Installing", "Installed"):
        pass
    with report.progress("Fetching", 2_000_000) as progress:
        progress.advance(1_500_000)
        progress.advance(500_000)
    report.note("by the way")
    report.warn("look here")


def test_plain_lines_tell_beginning_end_and_time() -> None:
    lines = plain(some_work)
    assert lines[0] == "Installing…"
    assert re.fullmatch(r"Installed: 0\.\d s", lines[1])
    assert lines[2] == "Fetching…"
    assert lines[3].startswith("Fetching: 100 % of 2.0 MB")
    assert lines[4:] == ["by the way", "warning: look here"]


def test_quiet_leaves_the_warnings() -> None:
    assert plain(some_work, quiet=True) == ["warning: look here"]


def test_a_long_task_speaks_up_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 4))
    monkeypatch.setattr("stereo.cli.plain.time.monotonic", lambda: float(next(now)))

    def use(report: Report) -> None:
        with report.progress("Fetching", 100, "files") as progress:
            for _ in range(10):
                progress.advance(10)

    lines = plain(use)
    between = lines[1:-1]
    assert 2 <= len(between) <= 5
    assert all("left" in line or "100 %" in line for line in between)


def test_a_long_step_gives_signs_of_life_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stereo.cli.plain._SECONDS_BETWEEN_SIGNS", 0.001)
    stream = io.StringIO()
    with PlainReport(stream).step("Installing", "Installed"):
        while "so far" not in stream.getvalue():
            pass
    lines = [line[9:] for line in stream.getvalue().splitlines()]
    assert lines[0] == "Installing…"
    assert all(re.fullmatch(r"Installing: .* s so far", line) for line in lines[1:-1])
    assert lines[-1].startswith("Installed: ")


def test_a_step_that_fails_is_not_told_as_done() -> None:
    def use(report: Report) -> None:
        with pytest.raises(StereoError), report.step("Installing", "Installed"):
            raise StereoError("no")

    assert plain(use) == ["Installing…"]


class _Unread(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_log_that_nobody_reads_does_not_stop_the_work() -> None:
    some_work(PlainReport(_Unread()))


def test_a_terminal_keeps_one_line_for_each_thing_done() -> None:
    text = drawn(some_work)
    for line in ("✓ Installed", "✓ Fetching", "by the way", "look here"):
        assert line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_terminal_tells_the_innermost_failure_once() -> None:
    def use(report: Report) -> None:
        with pytest.raises(StereoError), report.step("Outer"), report.step("Inner"):
            raise StereoError("no")

    lines = [line for line in drawn(use).splitlines() if "✗" in line]
    assert len(lines) == 1
    assert "Inner" in lines[0]


def test_text_from_elsewhere_is_no_markup() -> None:
    def use(report: Report) -> None:
        with report.step("[bold]x[/nothing]"):
            report.note("[red]y")

    assert "[red]y" in drawn(use)


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[3\dm", drawn(some_work))


@pytest.mark.parametrize(
    "make", [lambda: PlainReport(io.StringIO()), lambda: TerminalReport(Console(file=io.StringIO()))]
)
def test_workers_may_report_side_by_side(make: Callable[[], Report]) -> None:
    report = make()

    def work(number: int) -> None:
        with report.step(f"Step {number}"), report.progress("Bytes", 100) as progress:
            for _ in range(100):
                progress.advance(1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))


def test_json_has_no_reporter_and_a_pipe_has_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(Output(json=True).report, Silent)
    assert isinstance(Output().report, PlainReport)
    monkeypatch.setattr(output_module, "is_terminal", lambda: True)
    assert isinstance(Output().report, TerminalReport)
    assert isinstance(Output(quiet=True).report, PlainReport)
    assert isinstance(Output(verbose=True).report, PlainReport)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0, "B", "0 B"), (999, "B", "999 B"), (1000, "B", "1.0 kB"), (99_400, "B", "99.4 kB"), (99_600, "B", "100 kB"),
     (123_456_789, "B", "123 MB"), (999_999, "B", "1.0 MB"), (2.5e12, "B", "2500 GB"), (12, "packages", "12 packages")],
)  # fmt: skip
def test_amounts(value: float, unit: str, text: str) -> None:
    assert amount(value, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3600, "1 h 0 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_line_of_progress_has_share_rate_and_remaining_time() -> None:
    assert progress_line(50e6, 100_000_000, "B", 5.0) == "50 % of 100 MB, 10.0 MB/s, 5.0 s left"
    assert progress_line(5, None, "files", 1.0) == "5 files, 5 files/s"


@given(
    st.floats(0, 1e15, allow_nan=False),
    st.none() | st.integers(0, 10**15),
    st.floats(0, 1e6),
    st.sampled_from(["B", "x"]),
)
def test_progress_never_fails(done: float, total: int | None, seconds: float, unit: str) -> None:
    assert "inf" not in progress_line(done, total, unit, seconds)
