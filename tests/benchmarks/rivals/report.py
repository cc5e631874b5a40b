"""Outcomes as Markdown, and what they say about the machine that they were taken on."""

import statistics
from collections.abc import Iterable, Iterator

from tests.benchmarks.rivals.cell import Row

LATE_MS = 5.0  # p99 of a proxy that is later than this distorts the delays that are reported
HEADINGS = (
    "link",
    "program",
    "budget",
    "residual loss",
    "longest gap",
    "sent / media",
    "back / media",
    "added delay p50 / p99",
    "connected in",
    "proxy late p99",
)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def cells(row: Row) -> list[str]:
    """The cells of a row; of one without an outcome, the reason."""
    start = [row.terms.link, row.name, f"{row.terms.budget_ms} ms"]
    got = row.outcome
    if got is None:
        return [*start, row.failure, *[""] * (len(HEADINGS) - 4)]
    fates = got.fates
    return [
        *start,
        f"{100 * fates.lost / fates.packets:.3g} % ({fates.lost})",
        str(fates.longest_gap),
        f"{got.forward_ratio:.2f}",
        f"{got.back_ratio:.3f}",
        f"{_ms(fates.p50_ms)} / {_ms(fates.p99_ms)} ms",
        f"{got.connect_s:.1f} s",
        f"{got.late_p99_ms:.1f} ms",
    ]


def doubts(rows: Iterable[Row]) -> Iterator[str]:
    """Sentences about what keeps the figures from being exact; always the proxy's lateness."""
    got = [row.outcome for row in rows if row.outcome is not None]
    if not got:
        return
    late = [outcome.late_p99_ms for outcome in got]
    yield (
        f"The proxy's lateness, p99 of each run: {min(late):.1f} to {max(late):.1f} ms, "
        f"median {statistics.median(late):.1f} ms."
    )
    if over := sum(value > LATE_MS for value in late):
        yield (
            f"The machine was too busy for exact delays: in {over} of {len(late)} runs that is over "
            f"{LATE_MS:.0f} ms, which is in the added delay and takes from the budgets."
        )
    if drops := sum(outcome.kernel_drops for outcome in got):
        yield f"The kernel dropped {drops} datagrams that the proxy was too late to read: loss from no seed."
    if damaged := sum(outcome.fates.damaged for outcome in got):
        yield f"{damaged} datagrams came out that nobody had put in."
    if duplicates := sum(outcome.fates.duplicates for outcome in got):
        yield f"{duplicates} packets came out twice."


def markdown(rows: Iterable[Row]) -> Iterator[str]:
    """The lines of the table."""
    yield "| " + " | ".join(HEADINGS) + " |"
    yield "|" + "---|" * len(HEADINGS)
    for row in rows:
        yield "| " + " | ".join(cells(row)) + " |"
