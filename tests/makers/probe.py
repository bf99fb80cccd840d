"""Looks inside a machine that has no way in: an initrd that adds a unit to the tmpfs over its root, and nothing else.

The image stays what it is: its disk is verified as ever, and the initrd is its own but for one inserted step.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from makers.disk import make_cpio
from makers.node import file
from stereo.artifacts.cpio import Cpio
from stereo.artifacts.region import OpenFile
from stereo.artifacts.tree import find
from stereo.dists import dist_in
from stereo.report import Silent
from stereo.vm.boot import BootFiles, Form, MachineSize, boot, make_spec
from stereo.vm.machine import Accelerator, MachineSpec, Nat
from stereo.vm.qemu import QemuBackend

_E2E = Path(__file__).parents[1] / "e2e"
PROGRAM, VOICE = _E2E / "guestprobe.py", _E2E / "probevoice.py"
BEGINS, ENDS = "probe-begins", "probe-ends"
_HAND_OVER = "exec switch_root "
_UNITS = "/root/etc/systemd/system"
_UNIT = """\
[Unit]
DefaultDependencies=no
After=basic.target stereosd.service

[Service]
ExecStart=/usr/bin/python3 -B /etc/probevoice.py
"""


def initrd_with(
    initrd: Path, target: Path, name: str, unit: str, files: Mapping[str, bytes] = MappingProxyType({})
) -> Path:
    """Write `initrd` to `target` with a unit that the machine starts, and `files` for its /etc.

    What comes later in an initrd replaces what came before.
    """
    with OpenFile(initrd) as opened, Cpio(opened.region) as archive:
        entry = find(archive, "/init")
        assert entry
        script = archive.content(entry).read(0, entry.size).decode()
    assert script.count(_HAND_OVER) == 1
    wants = f"{_UNITS}/multi-user.target.d"
    copied = [f"cat /{each} >/root/etc/{each}" for each in files]
    steps = [*copied, f"cat /{name} >{_UNITS}/{name}", f"mkdir -p {wants}", f"cat /wants.conf >{wants}/{name}.conf"]
    added = {
        "/init": file(script.replace(_HAND_OVER, "\n".join([*steps, _HAND_OVER])).encode(), 0o755),
        f"/{name}": file(unit.encode()),
        "/wants.conf": file(f"[Unit]\nWants={name}\n".encode()),
        **{f"/{each}": file(content) for each, content in files.items()},
    }
    data = initrd.read_bytes()
    target.write_bytes(data + bytes(-len(data) % 4) + make_cpio(added))
    return target


class Prober:
    """Boots a dist by its kernel with the probe inside."""

    def __init__(
        self,
        dist: Path,
        backend: QemuBackend,
        accelerator: Accelerator,
        folder: Path,
        tell: Callable[[str], None],
        program: Path = PROGRAM,
    ) -> None:
        self._files, self._arch = BootFiles.in_folder(dist), dist_in(dist).arch
        self.backend = backend
        self._accelerator, self._tell = accelerator, tell
        self._initrd = folder / "initrd-with-probe"
        programs = {"probe.py": program.read_bytes(), VOICE.name: VOICE.read_bytes()}
        initrd_with(self._files.initrd, self._initrd, "probe.service", _UNIT, programs)

    def spec(self, words: str = "", disk: Path | None = None, room: int | None = None) -> MachineSpec:
        """The machine; `words` go to the kernel's command line, `disk` (raw) stands for the dist's, of `room` bytes."""
        spec = make_spec(
            self._files, Form.KERNEL, self._arch, self._accelerator, size=MachineSize(disk=room), network=Nat()
        )
        assert spec.kernel
        kernel = replace(spec.kernel, initrd=self._initrd, cmdline=f"{spec.kernel.cmdline} {words}".rstrip())
        return replace(spec, kernel=kernel, disk=replace(spec.disk, path=disk or spec.disk.path))

    def ask(self, spec: MachineSpec, doing: str, seconds: float = 600) -> dict[str, Any]:
        """Boot, wait for what the probe says, and shut down."""
        console = bytearray()
        self._tell(f"booting: {doing}")
        boot(self.backend, spec, Silent(), until=ENDS, timeout=seconds, grace=60, sink=console.extend)
        text = console.decode(errors="replace")
        said = "".join(text.partition(BEGINS)[2].partition(ENDS)[0].split())
        document: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(said)))
        assert "error" not in document, document["error"]
        return document
