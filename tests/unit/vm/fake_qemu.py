"""A program that behaves towards us as QEMU does, on command: monitor, console and control channel, no machine.

Its first argument says how it behaves; the rest is QEMU's command line. Run as a script by the tests, in the enclosure
that QEMU runs in, so it can tell nobody by a file who it is: tests that kill find it by its first argument.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time

GREETING = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": ""}, "capabilities": []}}


def descriptor(arguments: list[str], name: str) -> socket.socket:
    found = re.search(rf"socket,id={name},fd=(\d+)", " ".join(arguments))
    assert found
    return socket.socket(fileno=int(found[1]))


def serve_monitor(behaviour: str, monitor: socket.socket) -> None:
    def send(message: object) -> None:
        monitor.sendall(json.dumps(message).encode() + b"\r\n")

    send(GREETING)
    held = ""
    while data := monitor.recv(4096):
        held = (held + data.decode()).lstrip()
        try:
            request, end = json.JSONDecoder().raw_decode(held)  # as with QEMU, there need not be a newline
        except ValueError:
            continue
        held = held[end:]
        send({"return": {}, **{key: request[key] for key in ("id",) if key in request}})
        command = request["execute"]
        if (command == "system_powerdown" and behaviour == "obeys the power button") or (
            command == "quit" and behaviour != "hangs"
        ):
            os._exit(0)


def serve_control(behaviour: str, control: socket.socket) -> None:
    while line := control.recv(4096):
        if b"shutdown" in line:
            agrees = behaviour == "shuts down"
            answer = {"reply_to": "shutdown", "ok": agrees, "error": "" if agrees else "no"}
            control.sendall(json.dumps({"type": "ack", "payload": answer}).encode() + b"\n")
            if agrees:
                time.sleep(0.1)
                os._exit(0)


def serve_guest(behaviour: str, console: socket.socket, control: socket.socket) -> None:
    console.sendall(b"Linux version 6\r\n\x1b[31mstarting\x1b[0m\r\n")
    if behaviour == "crashes":
        print("qemu: something broke", file=sys.stderr, flush=True)
        os._exit(3)
    if behaviour == "powers off":
        os._exit(0)
    if behaviour == "panics":
        console.sendall(b"Kernel panic - not syncing\r\n")
        return
    control.sendall(b'{"type":"lifecycle","payload":{"state":"booting"}}\n')
    time.sleep(0.1)
    boot = {"initrd_start": 0.01, "switch_root": 0.02, "stereosd_start": 0.03, "ready": 0.04}
    control.sendall(json.dumps({"type": "lifecycle", "payload": {"state": "ready", "boot": boot}}).encode() + b"\n")
    threading.Thread(target=serve_control, args=(behaviour, control), daemon=True).start()
    console.sendall(b"login: ")
    while typed := console.recv(100):
        console.sendall(b"you typed " + typed)


def main() -> None:
    behaviour, *arguments = sys.argv[1:]
    if behaviour.startswith("says "):
        print(behaviour.removeprefix("says "), flush=True)
        os._exit(0)
    if "--version" in arguments:
        print("QEMU emulator version 10.0.0 (fake)")
        return
    if behaviour == "refuses to start":
        print("qemu: -device nonsense: no", file=sys.stderr)
        sys.exit(1)
    if behaviour.startswith("exits with "):
        sys.exit(int(behaviour.removeprefix("exits with ")))
    if behaviour == "hangs" and "isa-debug-exit" in " ".join(arguments):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    guest = (behaviour, descriptor(arguments, "console"), descriptor(arguments, "control"))
    threading.Thread(target=serve_guest, args=guest, daemon=True).start()
    serve_monitor(behaviour, descriptor(arguments, "qmp"))
    time.sleep(600)


if __name__ == "__main__":
    main()
