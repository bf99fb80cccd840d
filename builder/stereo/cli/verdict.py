"""What `stereo verify` answers: the findings, whose signatures count and whose do not, and what a rebuild gave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from stereo.cli.believing import NOBODY
from stereo.cli.diff import as_data, as_text
from stereo.cli.measure import amount
from stereo.cli.output import safe

if TYPE_CHECKING:
    from stereo.check.contents import Finding
    from stereo.check.differences import Difference
    from stereo.check.verify import Verdict
    from stereo.trust.dist import Papers, Row
    from stereo.trust.judge import Accepted, Judgement, Refusal


@dataclass(frozen=True)
class Rebuilt:
    """How a rebuild differs, and the file of the statement that was signed because it does not."""

    differences: tuple[Difference, ...]
    statement: str | None


@dataclass(frozen=True)
class Answer:
    """All that one run found out. `papers` is None when there is no manifest to hold anything against."""

    verdict: Verdict
    papers: Papers | None
    policy: bool
    rebuild: bool
    rebuilt: Rebuilt | None

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for holds."""
        rebuilt = not self.rebuild or (self.rebuilt is not None and not self.rebuilt.differences)
        return self.verdict.ok and self.papers is not None and self.papers.ok and rebuilt

    @property
    def failed(self) -> list[str]:
        """The artifacts that failed, each once."""
        names = [row.artifact for row in self._findings if not row.ok]
        names += [row.name for row in self._refusals if row.fails]
        return list(dict.fromkeys(names))

    @property
    def _findings(self) -> list[Finding | Row]:
        return [*self.verdict.findings, *(self.papers.rows if self.papers else ())]

    @property
    def _judgement(self) -> Judgement | None:
        return self.papers.judgement if self.papers else None

    @property
    def _refusals(self) -> Sequence[Refusal]:
        return self._judgement.refusals if self._judgement else ()

    def data(self) -> dict[str, Any]:
        """The answer for --json. `signatures` is null when nobody's signature was asked for."""
        return {
            "ok": self.ok,
            "failed": self.failed,
            "findings": [asdict(row) for row in self._findings],
            "signatures": self._signatures() if self.policy else None,
            "rebuild": self._rebuild() if self.rebuild else None,
        }

    def _signatures(self) -> dict[str, Any]:
        judgement = self._judgement
        return {
            "ok": self.papers is not None and self.papers.ok,
            "accepted": [_accepted(row) for row in (judgement.accepted if judgement else ())],
            "refused": [asdict(row) for row in self._refusals],
        }

    def _rebuild(self) -> dict[str, Any]:
        if self.rebuilt is None:
            return {"identical": None, "differences": [], "statement": None}
        return {**as_data(self.rebuilt.differences), "statement": self.rebuilt.statement}

    def lines(self, *, verbose: bool) -> Iterator[str]:
        """The answer for people: what failed, whose word counts, and at last whether to believe it."""
        if verbose:
            yield from (f"ok      {_line(row)}" for row in self._findings if row.ok)
        yield from (f"FAILED  {_line(row)}" for row in self._findings if not row.ok)
        if self._judgement:
            yield from (f"signed  {_signed(row)}" for row in self._judgement.accepted)
        for refusal in self._refusals:
            heading = "REFUSED" if refusal.fails else "ignored"
            yield safe(f"{heading} {refusal.name}: {refusal.reason}: {refusal.message}")
            yield f"        hint: {safe(refusal.hint)}"
        if self.rebuild:
            yield from self._rebuild_lines()
        manifest = self.verdict.manifest
        if self.ok and manifest:
            files = [size for name, _, size in manifest.files() if name not in self._left_out]
            total = amount(sum(files), "B")
            yield f"ok: {manifest.name} {manifest.version} {manifest.arch}, {len(files)} files, {total}"
        elif self.failed:
            yield f"{len(self.failed)} of the dist's artifacts failed: {', '.join(map(safe, self.failed))}"
        if not self.policy:
            yield NOBODY

    @property
    def _left_out(self) -> set[str]:
        return {row.artifact for row in self.verdict.findings if row.check == "present" and row.ok}

    def _rebuild_lines(self) -> Iterator[str]:
        if self.rebuilt is None:
            yield "not rebuilt: the dist as it is does not hold"
        elif self.rebuilt.differences:
            yield f"rebuilt: differs at the level {self.rebuilt.differences[0].level}"
            yield as_text(self.rebuilt.differences)
        else:
            yield "rebuilt: identical" + (f"; signed in {self.rebuilt.statement}" if self.rebuilt.statement else "")


def _line(row: Finding | Row) -> str:
    return safe(f"{row.artifact}: {row.check}: {row.message}")


def _signed(row: Accepted) -> str:
    until = f", until {row.expires:%Y-%m-%d}" if row.expires else ""
    return safe(f"{row.name}: {row.kind} by {row.signer} ({row.keyid[:16]}), {row.issued:%Y-%m-%d}{until}")


def _accepted(row: Accepted) -> dict[str, Any]:
    times = {"issued": row.issued.isoformat(), "expires": row.expires.isoformat() if row.expires else None}
    return {**asdict(row), **times}
