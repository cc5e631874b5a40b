"""Costs of runs, made into a table of ratios with their spread."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Run:
    """One measurement; packets are those that should have come out and those that did."""

    cpu_seconds: float
    expected: int
    received: int
    p99_us: float  # of the delay; contains the sender's burst

    @property
    def cost_ns(self) -> float:
        """CPU time a packet that came out."""
        return self.cpu_seconds * 1e9 / self.received


@dataclass(frozen=True)
class Spread:
    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(min(values), statistics.median(values), max(values))

    def text(self, digits: int) -> str:
        """The median, and the range in brackets."""
        return f"{self.median:.{digits}f} ({self.least:.{digits}f}-{self.most:.{digits}f})"


@dataclass
class Row:
    """A forwarder at one rate (packets/s that come out), a run a round, or the reason why it has none."""

    name: str
    version: str = ""
    rate: int = 0
    runs: list[Run] = field(default_factory=list)
    failure: str = ""

    def loss(self) -> float:
        """Of all packets of all rounds."""
        return 1 - sum(run.received for run in self.runs) / sum(run.expected for run in self.runs)

    def cost(self) -> Spread:
        return Spread.of([run.cost_ns for run in self.runs])

    def ratio(self, other: "Row") -> Spread:
        """Its cost over that of another, round by round: what both met at the same time."""
        pairs = zip(self.runs, other.runs, strict=True)
        return Spread.of([mine.cost_ns / theirs.cost_ns for mine, theirs in pairs])


HEADINGS = ("forwarder", "packets/s", "lost", "CPU ns a packet", "to the C loop", "to the relay", "p99, us")


def cells(row: Row, references: Sequence[Row | None]) -> list[str]:
    """A row's cells; a reference that has no run at this rate is left out."""
    name = f"{row.name} {row.version}".strip()
    if row.failure or not row.runs:
        return [name, row.failure or "not run", "", "", "", "", ""]
    ratios = [row.ratio(other).text(2) if other and other.runs else "" for other in references]
    p99 = statistics.median(run.p99_us for run in row.runs)
    return [name, f"{row.rate:,}", f"{row.loss():.2%}", row.cost().text(0), *ratios, f"{p99:,.0f}"]


def markdown(rows: Sequence[Row], references: Sequence[str]) -> Iterator[str]:
    """The lines of a table. Each row is compared with the rows of the names `references` at its own rate."""
    yield "| " + " | ".join(HEADINGS) + " |"
    yield "|" + "---|" * len(HEADINGS)
    for row in rows:
        others = [
            next((other for other in rows if (other.name, other.rate) == (name, row.rate)), None)
            for name in references
        ]
        yield "| " + " | ".join(cells(row, others)) + " |"
