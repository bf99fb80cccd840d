"""The egress gate of a sandbox is kept running: a real gate, killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from stereo.errors import StereoError
from stereo.sandbox import filter as filter_module
from stereo.sandbox.filter import Filter


async def asked(proxy: socket.socket, target: str) -> bytes:
    """The first line of the proxy's answer to somebody who wants to get to `target`."""
    reader, writer = await asyncio.open_connection(*proxy.getsockname())
    writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    try:
        return await asyncio.wait_for(reader.readline(), 20)
    finally:
        writer.close()


def test_a_gate_that_was_killed_is_followed_by_another_with_the_rules_of_now(tmp_path: Path) -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as proxy:
            one = Filter({("tcp", 3128): proxy}, ["example.com:443"], tmp_path / "egress.jsonl")
            try:
                await one.ready()
                assert b"403" in await asked(proxy, "elsewhere.invalid:443")
                await one.apply(["elsewhere.invalid:443"])
                assert one._gate
                os.kill(one._gate.pid, signal.SIGKILL)
                # Allowed now, and not to be found: the socket outlived the gate, and the rules came along.
                assert b"403" not in await asked(proxy, "elsewhere.invalid:443")
                assert one.counts()["refused"] >= 1
            finally:
                await one.close()

    asyncio.run(run())


def test_a_gate_that_cannot_be_kept_running_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_module, "_MOST_STARTS", 1)

    async def run() -> str:
        with socket.create_server(("127.0.0.1", 0)) as proxy:
            one = Filter({("tcp", 3128): proxy}, [], tmp_path / "no such folder" / "log")
            with pytest.raises(StereoError, match="cannot be kept running"):
                await one.ready()
            reason = await one.broken()
            await one.close()
            return reason

    assert "egress gate" in asyncio.run(run())
