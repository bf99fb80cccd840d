"""A machine for agentd in a temporary folder: its own root, and a stand-in for systemd."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from stereos_guest.agentfleet import Fleet
from stereos_guest.systemctl import Systemctl

_STAND_IN = Path(__file__).parent / "systemctl.py"


def table(name: str, command: str = "sleep 9", more: str = "") -> str:
    """A native agent that runs `command`."""
    words = json.dumps(command.split())
    return f'[[agents]]\nname = "{name}"\ntype = "native"\nharness = "custom"\ncommand = {words}\n{more}\n'


class AgentMachine:
    """What agentd sees of a machine, and what a test does to it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        for name in ("etc/stereos", "run/stereos/agents", "run/stereos/secrets", "run/systemd/system", "proc/self"):
            (self.root / name).mkdir(parents=True)
        (self.root / "proc/self/mounts").write_text("")
        self._programs = folder / "bin"
        self._programs.mkdir()
        self.program = self._programs / "systemctl"
        shutil.copy(_STAND_IN, self.program)
        text = self.program.read_text().partition("\n")[2]
        self.program.write_text(f"#!{sys.executable}\n{text}")
        self.program.chmod(0o755)

    def fleet(self) -> Fleet:
        """A fleet that knows nothing yet, as after a start of agentd."""
        return Fleet(Systemctl(str(self.program)), str(self.root))

    def card(self, text: str) -> None:
        (self.root / "etc/stereos/jcard.toml").write_text(text)

    def secret(self, name: str, value: str | None) -> None:
        path = self.root / "run/stereos/secrets" / name
        if value is None:
            path.unlink()
        else:
            path.write_text(value)

    def mount(self, *points: str) -> None:
        rows = [f"share {point} virtiofs rw 0 0\n" for point in points]
        (self.root / "proc/self/mounts").write_text("".join(rows))

    def folder(self, agent: str) -> Path:
        return self.root / "run/stereos/agents" / agent

    def unit(self, agent: str) -> str:
        """The text of its unit file."""
        return (self.root / f"run/systemd/system/stereos-agent-{agent}.service").read_text()

    def has_unit(self, agent: str) -> bool:
        return (self.root / f"run/systemd/system/stereos-agent-{agent}.service").exists()

    def calls(self) -> list[str]:
        """What systemctl was asked for since the last time, but for questions."""
        path = self._programs / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.replace("stereos-agent-", "").replace(".service", "") for line in lines]

    def refuse(self, agent: str) -> None:
        """systemd will not have anything to do with this one."""
        (self._programs / "refuse").write_text(f"stereos-agent-{agent}.service")

    def becomes(self, agent: str, active: str, sub: str, **properties: str) -> None:
        """What systemd says of the unit from now on."""
        path = self._programs / "units.json"
        units: dict[str, Any] = json.loads(path.read_text())
        units[f"stereos-agent-{agent}.service"] |= {"ActiveState": active, "SubState": sub, **properties}
        path.write_text(json.dumps(units))

    def ends(self, agent: str, how: str, *, result: str = "exit-code", more: str = "") -> None:
        """The agent's end as agent-run and agent-event leave it behind."""
        folder = self.folder(agent)
        (folder / "exit").write_text(f"started\n{how}\n")
        (folder / "ended").write_text(f"at=1700000009\nresult={result}\ncode=exited\nstatus=1\nrestarts=0\n{more}")
        good = how == "exit 0" and result != "timeout"
        self.becomes(agent, "inactive" if good else "failed", "dead" if good else "failed")
