"""Which accelerators work here, found out by booting something tiny on each, against the clock.

A /dev/kvm may exist, open, create a machine, and then hang every guest while it burns a CPU. So existence proves
nothing: a guest of our own does a little work and says in its own way that it did; see `tinyguest`.
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
from stereo.model.architecture import Architecture
from stereo.process import CommandFailed
from stereo.report import Report
from stereo.vm import tinyguest
from stereo.vm.machine import Accelerator
from stereo.vm.programs import Programs, own_architecture
from stereo.vm.qemu_command import accelerator_arguments, closed_arguments, machine_type

PROBE_SECONDS = 10.0
_LARGEST_CACHE = 1 << 16


@dataclass(frozen=True)
class Verdict:
    """What became of one accelerator. `reason` says why it is not usable, or how long its tiny boot took."""

    accelerator: Accelerator
    usable: bool
    reason: str


def probe(accelerator: Accelerator, programs: Programs, *, seconds: float = PROBE_SECONDS) -> Verdict:
    """Boot the tiny guest on `accelerator`, for at most `seconds`, and kill what is still there then."""
    if reason := _absent(accelerator):
        return Verdict(accelerator, False, reason)
    with tempfile.TemporaryDirectory(prefix="stereo-probe-") as folder:
        argv = [
            *programs.qemu,
            *closed_arguments(seccomp=programs.seccomp),
            *("-machine", machine_type(programs.arch), *accelerator_arguments(programs.arch, accelerator)),
            *("-m", "64M", "-no-reboot"),
            *tinyguest.arguments(programs.arch, Path(folder)),
        ]
        began = time.monotonic()
        try:
            status, said = 0, process.run(argv, env=programs.closed_environment(), timeout=seconds).stdout
        except CommandFailed as failure:
            status, said = failure.status, failure.output
        took = time.monotonic() - began
    if tinyguest.did_its_work(programs.arch, status, said):
        return Verdict(accelerator, True, f"a tiny guest ran and ended in {took:.1f} s")
    if took >= seconds:
        return Verdict(accelerator, False, f"a tiny guest hung and was killed after {seconds:g} s")
    if status == 0:
        return Verdict(accelerator, False, "QEMU ended before the guest did its work")
    last = said.strip().splitlines()[-1:] or [f"status {status}"]
    return Verdict(accelerator, False, f"QEMU failed: {last[0][:200]}")


def verdicts(
    programs: Programs, cache: Path, report: Report, *, refresh: bool = False, seconds: float = PROBE_SECONDS
) -> list[Verdict]:
    """One verdict per accelerator that this system could have for guests of `programs`, best first.

    From `cache` (a folder), if still true.
    """
    key, file = _key(programs), cache / f"accelerators-{programs.arch}.json"
    known = {} if refresh else _read_cache(file, key)
    found = []
    for accelerator in candidates(programs.arch):
        verdict = known.get(accelerator)
        if verdict is None:
            with report.step(f"Trying {accelerator} with a tiny boot of {programs.arch}"):
                verdict = probe(accelerator, programs, seconds=seconds)
        found.append(verdict)
    # That emulation failed can only be a passing trouble, such as a machine under heavy load.
    lasting = [verdict for verdict in found if verdict.usable or verdict.accelerator is not Accelerator.TCG]
    _write_cache(file, key, lasting)
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
    if programs.arch is not own_architecture():
        report.note(f"Machines of {programs.arch} are emulated here, which is slow")
    if wanted := environment.get("STEREO_ACCEL"):
        return _demanded(wanted, programs.arch)
    found = verdicts(programs, cache, report, refresh=refresh)
    for verdict in found:
        if verdict.usable:
            return verdict.accelerator
    reasons = "; ".join(f"{verdict.accelerator}: {verdict.reason}" for verdict in found)
    raise StereoError(f"no accelerator works, not even emulation: {reasons}", where=programs.origin)


def _demanded(wanted: str, guest: Architecture) -> Accelerator:
    try:
        accelerator = Accelerator(wanted)
    except ValueError:
        raise UsageError(
            f"no accelerator is called {wanted!r}", where="STEREO_ACCEL", hint=f"one of {', '.join(Accelerator)}"
        ) from None
    if accelerator is not Accelerator.TCG and guest is not own_architecture():
        what = f"{accelerator} runs {own_architecture()} on this machine, not {guest}"
        raise UsageError(what, where="STEREO_ACCEL", hint="unset it, or tcg")
    return accelerator


def candidates(guest: Architecture) -> tuple[Accelerator, ...]:
    """What this system could have for such guests, best first: instructions of another architecture are emulated."""
    native = {"linux": (Accelerator.KVM,), "darwin": (Accelerator.HVF,)}.get(sys.platform, ())
    return (*(native if guest is own_architecture() else ()), Accelerator.TCG)


def _absent(accelerator: Accelerator) -> str:
    if accelerator is not Accelerator.KVM:
        return ""
    device = Path("/dev/kvm")
    if not device.exists():
        return "there is no /dev/kvm"
    return "" if os.access(device, os.R_OK | os.W_OK) else "no access to /dev/kvm"


def _key(programs: Programs) -> str:
    """Of all that a verdict depends on."""
    try:
        status = Path("/dev/kvm").stat()
        device = f"{status.st_dev}:{status.st_ino}:{status.st_rdev}:{status.st_mode}"
    except OSError:
        device = "none"
    facts = [*platform.uname(), programs.version(), device, os.geteuid(), sorted(os.getgroups()), _cpu_model()]
    facts += [accelerator_arguments(programs.arch, each) for each in Accelerator]
    facts.append(sha256(tinyguest.boot_disk() + tinyguest.kernel_image()).hexdigest())
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
