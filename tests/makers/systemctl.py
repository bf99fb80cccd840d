#!/usr/bin/env python3
"""Stands in for systemctl where there is no systemd of ours: keeps units in units.json beside itself, notes every call.

A test changes what a unit is by writing that file.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
UNITS = HERE / "units.json"
IDLE = {"ActiveState": "inactive", "SubState": "dead", "NRestarts": "0", "ExecMainStartTimestamp": ""}
ACTIVE = {"ActiveState": "active", "SubState": "running", "NRestarts": "0", "ExecMainStartTimestamp": "@1700000000"}


def main() -> int:
    words = [word for word in sys.argv[1:] if word not in ("--no-pager", "--no-ask-password", "--no-block", "--")]
    verb, names = words[0], [word for word in words[1:] if not word.startswith("--")]
    units = json.loads(UNITS.read_text()) if UNITS.exists() else {}
    if verb != "show":
        with (HERE / "calls").open("a") as calls:
            calls.write(" ".join([verb, *sorted(words[1:])]) + "\n")
    for name in names if verb != "show" else ():
        if (HERE / "refuse").exists() and (HERE / "refuse").read_text() == name:
            print(f"Unit {name} is masked.", file=sys.stderr)
            return 1
    if verb in ("start", "restart"):
        units |= dict.fromkeys(names, ACTIVE)
    elif verb in ("stop", "reset-failed"):
        units |= dict.fromkeys(names, IDLE)
    elif verb == "show":
        blocks = [{"Id": name, "LoadState": "loaded", **units.get(name, IDLE)} for name in names]
        print("\n\n".join("\n".join(f"{key}={value}" for key, value in block.items()) for block in blocks))
    UNITS.write_text(json.dumps(units))
    return 0


if __name__ == "__main__":
    sys.exit(main())
