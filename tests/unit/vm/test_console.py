"""The console is passed on as it comes, watched for a text, and quoted safely."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.vm.console import Console


def read(*chunks: bytes, expect: str | None = None, keep: int = 30) -> tuple[Console, bytes, bool]:
    async def run() -> tuple[Console, bytes, bool]:
        reader = asyncio.StreamReader()
        seen = bytearray()
        console = Console(reader, seen.extend, keep=keep)
        pump = asyncio.create_task(console.pump())
        waiting = asyncio.create_task(console.wait_for(expect or "\0never"))
        for chunk in chunks:
            reader.feed_data(chunk)
            for _ in range(4):
                await asyncio.sleep(0)
        reader.feed_eof()
        await pump
        await asyncio.sleep(0)
        found = waiting.done()
        waiting.cancel()
        return console, bytes(seen), found

    return asyncio.run(run())


@given(st.lists(st.binary(min_size=1)))
def test_every_byte_reaches_the_sink(chunks: list[bytes]) -> None:
    assert read(*chunks)[1] == b"".join(chunks)


def test_an_expected_text_is_found_across_chunks() -> None:
    assert read(b"stereos lo", b"gin: ", expect="login:")[2]
    assert not read(b"stereos lo", b"gout: ", expect="login:")[2]


def test_a_text_that_was_there_before_anybody_asked_is_found() -> None:
    async def run() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(b"login: ")
        reader.feed_eof()
        console = Console(reader)
        await console.pump()
        await asyncio.wait_for(console.wait_for("login:"), 1)

    asyncio.run(run())


def test_only_the_last_lines_are_kept() -> None:
    console, _, _ = read(b"".join(b"line %d\r\n" % i for i in range(1000)) + b"unfinished", keep=2)
    assert console.tail() == "line 998\nline 999\nunfinished"


def test_a_line_without_end_is_not_kept_whole() -> None:
    console, _, _ = read(*[b"x" * 1000] * 100)
    assert len(console.tail()) <= 1000


@pytest.mark.parametrize("nasty", [b"\x1b[31mred\x1b[0m", b"\x1b]0;title\x07red", b"\x1bcred", b"\x1b(Bred", b"red\r"])
def test_quoted_lines_do_not_command_a_terminal(nasty: bytes) -> None:
    assert read(nasty + b"\n")[0].tail() == "red"


@given(st.binary())
def test_the_tail_is_printable_whatever_came(data: bytes) -> None:
    assert all(letter.isprintable() or letter in "\n\t" for letter in read(data + b"\n")[0].tail())


def test_the_kernels_last_sentence_is_kept_however_much_follows() -> None:
    said = [b"[    1.5] Kernel panic", b" - not syncing: \x1b[1msysrq\r\n", b"[    1.5]  call_trace\r\n" * 100]
    assert read(*said, keep=2)[0].panic == "[    1.5] Kernel panic - not syncing: sysrq"
    assert read(b"[    1.5] all is well\r\n")[0].panic == ""
