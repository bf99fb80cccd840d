"""Which accelerators work here, found out by booting something tiny on each, against the clock.

A /dev/kvm may exist, open, create a machine, and then hang every guest while it burns a CPU. So existence proves
nothing: a boot sector of our own runs under SeaBIOS, enters 64-bit mode with paging, works on memory for so long that
the host interrupts it many times, and ends QEMU through the `isa-debug-exit` device with a status of its own.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from stereo import process
from stereo.errors import StereoError, UsageError
from stereo.process import CommandFailed
from stereo.report import Report
from stereo.vm.machine import Accelerator
from stereo.vm.programs import Programs
from stereo.vm.qemu_command import accelerator_arguments, closed_arguments

PROBE_SECONDS = 10.0
_LARGEST_CACHE = 1 << 16

# Offsets are from 0x7c00, where the BIOS puts a boot sector. AMD64 manual, volume 2, 14.6: activating long mode.
_CODE = bytes.fromhex(
    "fa 31c0 8ed8 8ec0 8ed0 bc007c fc"  # 00 cli; ax, ds, es, ss = 0; sp = 0x7c00; cld
    "bf0010 6631c0 b9000c 66f3ab"  # 0d clear 0x1000-0x3fff for the page tables
    "c70600100320 c70600200330 c70600308300"  # 19 PML4 -> PDPT -> PD with one 2 MiB page
    "66b800100000 0f22d8"  # 2b cr3 = 0x1000
    "66b820000000 0f22e0"  # 34 cr4.PAE
    "66b9800000c0 0f32 80cc01 0f30"  # 3d EFER.LME
    "0f0116887c"  # 4a lgdt [0x7c88]
    "0f20c0 660d01000080 0f22c0"  # 4f cr0.PG, cr0.PE
    "ea607c0800"  # 5b jmp 8:0x7c60, now in 64-bit mode
    "b900000001"  # 60 ecx = 16 Mi rounds
    "0fb7f9 ff8700000100 e2f5"  # 65 edi = cx; inc dword [rdi + 0x10000]; loop
    "b02a e6f4"  # 70 out 0xf4, 42: QEMU exits with (42 << 1) | 1
    "f4 ebfd 90"  # 74 hlt, for ever
    "0000000000000000 00000000009a2000"  # 78 GDT: null; code, 64-bit
    "0f00 787c0000"  # 88 GDT: 16 bytes at 0x7c78
)
_DONE = 42 << 1 | 1
_DISK_SIZE = 1 << 20


@dataclass(frozen=True)
class Verdict:
    """What became of one accelerator. `reason` says why it is not usable, or how long its tiny boot took."""

    accelerator: Accelerator
    usable: bool
    reason: str


def boot_disk() -> bytes:
    """A disk whose boot sector does the work described above."""
    return _CODE.ljust(510, b"\0") + b"\x55\xaa" + bytes(_DISK_SIZE - 512)


def probe(accelerator: Accelerator, programs: Programs, *, seconds: float = PROBE_SECONDS) -> Verdict:
    """Boot the tiny disk on `accelerator`, for at most `seconds`, and kill what is still there then."""
    if reason := _absent(accelerator):
        return Verdict(accelerator, False, reason)
    with tempfile.TemporaryDirectory(prefix="stereo-probe-") as folder:
        disk = Path(folder) / "disk"
        disk.write_bytes(boot_disk())
        argv = [
            *programs.qemu,
            *closed_arguments(seccomp=programs.seccomp),
            *("-machine", "q35,smm=off", *accelerator_arguments(accelerator), "-m", "64M", "-no-reboot"),
            *(
                "-blockdev",
                json.dumps({"node-name": "disk", "driver": "file", "filename": str(disk), "read-only": True}),
            ),
            *("-device", "virtio-blk-pci,drive=disk,bootindex=0"),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
        ]
        began = time.monotonic()
        try:
            process.run(argv, env=programs.closed_environment(), timeout=seconds)
        except CommandFailed as failure:
            took = time.monotonic() - began
            return _judge(accelerator, failure, took, seconds)
    return Verdict(accelerator, False, "QEMU ended before the guest did its work")


def verdicts(
    programs: Programs, cache: Path, report: Report, *, refresh: bool = False, seconds: float = PROBE_SECONDS
) -> list[Verdict]:
    """One verdict per accelerator that this system could have, best first; from `cache` (a folder) if still true."""
    key = _key(programs)
    known = {} if refresh else _read_cache(cache / "accelerators.json", key)
    found = []
    for accelerator in candidates():
        verdict = known.get(accelerator)
        if verdict is None:
            with report.step(f"Trying {accelerator} with a tiny boot"):
                verdict = probe(accelerator, programs, seconds=seconds)
        found.append(verdict)
    # That emulation failed can only be a passing trouble, such as a machine under heavy load.
    lasting = [verdict for verdict in found if verdict.usable or verdict.accelerator is not Accelerator.TCG]
    _write_cache(cache / "accelerators.json", key, lasting)
    return found


def choose(
    programs: Programs,
    cache: Path,
    report: Report,
    *,
    refresh: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Accelerator:
    """The best accelerator that works, or what STEREO_ACCEL demands. Raises UsageError or StereoError."""
    if wanted := environment.get("STEREO_ACCEL"):
        try:
            return Accelerator(wanted)
        except ValueError:
            raise UsageError(
                f"no accelerator is called {wanted!r}", where="STEREO_ACCEL", hint=f"one of {', '.join(Accelerator)}"
            ) from None
    found = verdicts(programs, cache, report, refresh=refresh)
    for verdict in found:
        if verdict.usable:
            return verdict.accelerator
    reasons = "; ".join(f"{verdict.accelerator}: {verdict.reason}" for verdict in found)
    raise StereoError(f"no accelerator works, not even emulation: {reasons}", where=programs.origin)


def candidates() -> tuple[Accelerator, ...]:
    """What this system could have, best first."""
    native = {"linux": (Accelerator.KVM,), "darwin": (Accelerator.HVF,)}.get(sys.platform, ())
    return (*native, Accelerator.TCG)


def _absent(accelerator: Accelerator) -> str:
    if accelerator is not Accelerator.KVM:
        return ""
    if platform.machine() != "x86_64":
        return f"this machine is {platform.machine()}, the guest is x86_64"
    device = Path("/dev/kvm")
    if not device.exists():
        return "there is no /dev/kvm"
    return "" if os.access(device, os.R_OK | os.W_OK) else "no access to /dev/kvm"


def _judge(accelerator: Accelerator, failure: CommandFailed, took: float, limit: float) -> Verdict:
    if failure.status == _DONE:
        return Verdict(accelerator, True, f"a tiny guest ran and ended in {took:.1f} s")
    if took >= limit:
        return Verdict(accelerator, False, f"a tiny guest hung and was killed after {limit:g} s")
    last = failure.output.strip().splitlines()[-1:] or [f"status {failure.status}"]
    return Verdict(accelerator, False, f"QEMU failed: {last[0][:200]}")


def _key(programs: Programs) -> str:
    """Of all that a verdict depends on."""
    try:
        status = Path("/dev/kvm").stat()
        device = f"{status.st_dev}:{status.st_ino}:{status.st_rdev}:{status.st_mode}"
    except OSError:
        device = "none"
    facts = [*platform.uname(), programs.version(), device, os.geteuid(), sorted(os.getgroups()), _cpu_model()]
    facts.append(sha256(_CODE).hexdigest())
    return sha256(json.dumps(facts).encode()).hexdigest()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), "")


def _read_cache(path: Path, key: str) -> dict[Accelerator, Verdict]:
    try:
        with path.open("rb") as file:
            stored = json.loads(file.read(_LARGEST_CACHE))
        if stored["key"] != key:
            return {}
        rows = [
            Verdict(Accelerator(row["accelerator"]), row["usable"] is True, str(row["reason"]))
            for row in stored["verdicts"]
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}  # whatever it is, we can find out again
    return {row.accelerator: row for row in rows}


def _write_cache(path: Path, key: str, found: list[Verdict]) -> None:
    text = json.dumps({"key": key, "verdicts": [asdict(verdict) for verdict in found]}, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".accelerators-", delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)
