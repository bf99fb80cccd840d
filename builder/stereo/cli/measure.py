"""Amounts, rates and times as people read them. Bytes are decimal units, as disks and networks are sold."""

from __future__ import annotations

_LONGEST_FORECAST = 100 * 3600.0  # seconds; beyond that it says nothing


def amount(value: float, unit: str) -> str:
    """`value` of "B" as kB, MB, GB; of anything else as a plain number."""
    if unit != "B":
        return f"{value:.0f} {unit}"
    for name in ("B", "kB", "MB", "GB"):
        if value < 999.5 or name == "GB":
            break
        value /= 1000
    return f"{value:.0f} {name}" if name == "B" or value >= 99.5 else f"{value:.1f} {name}"


def duration(seconds: float) -> str:
    """Seconds as "4.2 s", "48 s", "3 min 20 s"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def progress_line(done: float, total: int | None, unit: str, seconds: float) -> str:
    """How far a task is: share, amounts, rate and remaining time."""
    rate = done / seconds if seconds > 0 else 0.0
    parts = [f"{amount(rate, unit)}/s"] if rate > 0 and seconds >= 0.5 else []
    if not total:
        return ", ".join([amount(done, unit), *parts])
    if parts and done < total and (left := (total - done) / rate) < _LONGEST_FORECAST:
        parts.append(f"{duration(left)} left")
    share = f"{min(100, int(100 * done / total))} % of {amount(total, unit)}"
    return ", ".join([share, *parts])
