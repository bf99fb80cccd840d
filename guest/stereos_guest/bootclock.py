"""When what happened while booting, in seconds since the kernel started (the clock of /proc/uptime)."""

from __future__ import annotations

import posix
from time import CLOCK_BOOTTIME, clock_gettime

BOOT_FILE = "/run/stereos/boot"  # written by the initrd: lines of NAME=SECONDS
_MAX_BYTES = 4096


def uptime() -> float:
    """Seconds since the kernel started, to the hundredth, as /proc/uptime tells them."""
    return round(clock_gettime(CLOCK_BOOTTIME), 2)


def marks(path: str = BOOT_FILE) -> dict[str, float]:
    """What the initrd noted. No file, or a line that is not NAME=SECONDS, only means that less is known."""
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return {}
    try:
        text = posix.read(descriptor, _MAX_BYTES).decode("ascii", "replace")
    except OSError:
        return {}
    finally:
        posix.close(descriptor)
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        try:
            seconds = float(value)
        except ValueError:
            continue
        if name.isidentifier() and 0 <= seconds < 1e9:
            found[name] = seconds
    return found
