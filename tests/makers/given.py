"""Machines that are given credentials, and what must be true of those inside, however they came there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from makers.inside import Said, out, run, shell
from stereo.report import Silent
from stereo.vm.boot import running
from stereo.vm.machine import MachineSpec
from stereo.vm.qemu import QemuBackend

CREDENTIALS = {"stereo.test": "a value, with=commas", "other": "two\nlines"}


async def _look(backend: QemuBackend, spec: MachineSpec, scripts: Mapping[str, str]) -> dict[str, Said]:
    async with running(backend, spec, Silent()) as booted:
        await booted.control.hello(60)
        found = {name: await shell(booted.control, script, user="root") for name, script in scripts.items()}
        found["agent"] = await run(booted.control, "/bin/cat", "/run/credentials/@system/stereo.test", user="agent")
        await booted.machine.stop(0)
        return found


def given(
    spec: MachineSpec, backend: QemuBackend, scripts: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Said]:
    """What is found inside of the machine when it is given `CREDENTIALS`, and what the scripts say, run as root."""
    own = {
        "names": "ls -A /run/credentials/@system | sort",
        "value": "cat /run/credentials/@system/stereo.test",
        "lines": "cat /run/credentials/@system/other",
        "modes": "cd /run/credentials/@system; stat -c '%a %u' . *",
        "elsewhere": "ls -d /credentials /run/credentials/@initrd /run/credentials/@encrypted; "
        "grep -rl 'with=commas' /proc/cmdline /etc /var /run --exclude-dir=@system",
    }
    return asyncio.run(_look(backend, replace(spec, credentials=CREDENTIALS), {**own, **scripts}))


def assert_for_root_alone(found: dict[str, Said]) -> None:
    """They are where systemd has them, as they were given, and nobody else reads them or finds them elsewhere."""
    assert out(found["names"]).split() == sorted(CREDENTIALS)
    assert (out(found["value"]), out(found["lines"])) == (CREDENTIALS["stereo.test"], CREDENTIALS["other"])
    assert out(found["modes"]) == "700 0\n400 0\n400 0\n"
    assert out(found["elsewhere"]) == ""
    assert b"Permission denied" in found["agent"][0]["stderr"]
