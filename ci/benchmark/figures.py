"""What is reported: figures (all values of one measurement), and rows (two figures, their ratio, and its limit)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from stereo.cli.measure import amount

Unit = Literal["s", "B", "n"]


@dataclass(frozen=True)
class Figure:
    """Values of one thing, measured one after the other. What is reported is their median."""

    values: tuple[float, ...]
    unit: Unit

    @property
    def median(self) -> float:
        return median(self.values)

    def text(self) -> str:
        """For people: the median, and between what it lies."""
        if self.unit == "B":
            return amount(self.median, "B")
        if self.unit == "n":
            return f"{self.median:.0f}"
        digits = 2 if self.median < 10 else 1
        if len(self.values) == 1:
            return f"{self.median:.{digits}f} s"
        return f"{self.median:.{digits}f} s ({min(self.values):.{digits}f}-{max(self.values):.{digits}f})"

    def as_dict(self) -> dict[str, object]:
        return {"median": self.median, "unit": self.unit, "values": list(self.values)}


@dataclass(frozen=True)
class Row:
    """One number of the table: `ours` as a part of `other`, at most `limit`; without `other`, `ours` itself."""

    name: str
    title: str
    ours: Figure
    other: Figure | None
    limit: float

    @property
    def value(self) -> float:
        return self.ours.median / self.other.median if self.other else self.ours.median

    @property
    def reached(self) -> bool:
        return self.value <= self.limit

    def cells(self) -> tuple[str, ...]:
        other = self.other.text() if self.other else ""
        ratio = f"{self.value:.3f}" if self.other else ""
        limit = f"≤ {self.limit:.2f}" if self.other else f"≤ {amount(self.limit, self.ours.unit)}"
        return (self.title, self.ours.text(), other, ratio, limit, "yes" if self.reached else "NO")

    def as_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "title": self.title,
            "ours": self.ours.as_dict(),
            "other": self.other.as_dict() if self.other else None,
            "value": self.value,
            "limit": self.limit,
            "reached": self.reached,
        }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown that also reads well as it is."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines).replace("| -", "|--").replace("- |", "--|")
