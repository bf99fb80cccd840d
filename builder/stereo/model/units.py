"""Sizes, durations and ages as people write them: "4GiB", "1.5 GB", 1048576; "30s", "1h30m"; "30d", "52w"."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

MIB = 1 << 20
GIB = 1 << 30
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?) ?([kmgt]?)(i?)(b?)", re.IGNORECASE)
_NUMBER = r"(?:[0-9]{1,12}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})"
_DURATION = re.compile(rf"(?:{_NUMBER}(?:ns|us|µs|μs|ms|s|m|h)){{1,8}}")
_PART = re.compile(rf"({_NUMBER})([a-zµμ]+)")
_SECONDS = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),  # the micro sign, and the Greek letter that looks like it
    "μs": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
}
_AGE = re.compile(r"([1-9][0-9]{0,4})([hdw])")
_HOURS = {"h": 1, "d": 24, "w": 7 * 24}


def parse_size(value: object) -> int:
    """Bytes. A number is bytes; "KiB" and its kin are powers of 1024, "KB" and its kin of 1000. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("is no size: write '4GiB', '512MiB', '20GB', or a number of bytes")
    number, prefix, binary, byte = found.groups()
    if (prefix and not byte) or (binary and not prefix):
        raise ValueError(f"is no size: write '{number}{prefix.upper() or 'G'}iB'")
    return int(Decimal(number) * (1024 if binary else 1000) ** _POWERS[prefix.upper()])


def size_text(size: int) -> str:
    """The same size for a person and for `parse_size`: exact, in the largest unit that leaves it whole."""
    for unit, power in (("TiB", 4), ("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return f"{size}B"


def parse_duration(value: object) -> float:
    """Seconds, from the notation of Go's time.ParseDuration without a sign. Raises ValueError."""
    if value == "0":
        return 0.0
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise ValueError("is no duration: write '30s', '10m', '1h30m'")
    return float(sum(Decimal(number) * _SECONDS[unit] for number, unit in _PART.findall(value)))


def duration_text(seconds: float) -> str:
    """The same duration for `parse_duration`, to the nanosecond."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def parse_age(value: object) -> timedelta:
    """How old something may become: hours, days or weeks, as '36h', '30d', '52w'. Raises ValueError."""
    found = _AGE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("is no age: write '36h', '30d', '52w'")
    return timedelta(hours=int(found[1]) * _HOURS[found[2]])
