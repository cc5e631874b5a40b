"""Repair overhead and residual loss over the loss of a link and the budget, as a picture:
`python -m relay.lab.sweep docs/loss.svg`. Equal sizes give equal pictures.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path

from relay.lab.crossing import Outcome, Terms
from relay.lab.grid import add_size, outcomes
from relay.lab.link import LinkConfig

RTT_MS = 100
LOSSES = tuple(percent / 100 for percent in range(5, 45, 5))
BUDGETS = ((1.0, "#d1495b"), (1.5, "#edae49"), (2.0, "#30a46c"), (2.5, "#2e86c1"), (4.0, "#8e6bbf"))
"""In round trips, and the colour of each; all legible on white and on black."""
GREY = "#808080"
WIDTH, HEIGHT = 900, 380
STYLE = f"text {{ font: 12px sans-serif; fill: {GREY} }}"
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Panel:
    """A part of the picture with axes of its own: what they span, and where they lie."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: int
    right: int
    top: int = 40
    bottom: int = 320

    def at(self, point: Point) -> Point:
        """In the picture, of a point on the axes; what lies outside is drawn on the edge."""
        (x0, x1), (y0, y1) = self.x, self.y
        x, y = min(max(point[0], x0), x1), min(max(point[1], y0), y1)
        return (
            self.left + (x - x0) / (x1 - x0) * (self.right - self.left),
            self.bottom - (y - y0) / (y1 - y0) * (self.bottom - self.top),
        )

    def axes(
        self, title: str, name: str, x: Iterable[tuple[float, str]], y: Iterable[tuple[float, str]]
    ) -> Iterator[str]:
        """Title, name of the x axis, and a line and a label for each value of both."""
        yield text((self.left + self.right) / 2, self.top - 18, title, "middle")
        yield text((self.left + self.right) / 2, self.bottom + 36, name, "middle")
        for value, label in x:
            at, _ = self.at((value, 0))
            yield line([(at, self.top), (at, self.bottom)], GREY, 0.3)
            yield text(at, self.bottom + 16, label, "middle")
        for value, label in y:
            _, at = self.at((0, value))
            yield line([(self.left, at), (self.right, at)], GREY, 0.3)
            yield text(self.left - 6, at + 4, label, "end")

    def curve(self, points: Sequence[Point], colour: str, extra: str = "") -> Iterator[str]:
        yield line([self.at(p) for p in points], colour, 1.8, extra)

    def dots(self, points: Sequence[Point], colour: str) -> Iterator[str]:
        for x, y in map(self.at, points):
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'


def text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def line(points: Sequence[Point], colour: str, width: float, extra: str = "") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{extra}/>'


def picture(got: dict[tuple[float, float], Outcome]) -> str:
    """The SVG, of the outcome for each (budget in round trips, loss)."""
    packets = next(iter(got.values())).packets
    floor = -log10(packets) - 0.5  # where "none" is drawn: below one packet
    costs = Panel((0, 0.4), (0, 1.05), 60, 420)
    rests = Panel((0, 1.05), (floor, 0), 540, 880)
    percents = [(p / 100, f"{p} %") for p in range(0, 101, 20)]
    parts = [
        *costs.axes("repair overhead", "loss of the link", [(p, f"{p:.0%}") for p in (0, *LOSSES)], percents),
        *rests.axes(
            f"residual loss of {packets} packets",
            "repair overhead; a dot for each loss, 5 to 40 %",
            percents,
            [(floor, "none"), *((e, f"{10.0**e:g}") for e in range(int(floor) + 1, 1))],
        ),
        *costs.curve([(p, p / (1 - p)) for p in (0, *LOSSES)], GREY, ' stroke-dasharray="5 4"'),
        text(230, HEIGHT - 8, "dashed: p/(1-p), which no code can do without", "middle"),
    ]
    for i, (budget, colour) in enumerate(BUDGETS):
        mine = [(loss, got[budget, loss]) for loss in LOSSES]
        cost = [(loss, o.repair_ratio) for loss, o in mine]
        rest = [(o.repair_ratio, log10(o.residual_ratio) if o.lost else floor) for _, o in mine]
        for panel, points in ((costs, cost), (rests, rest)):
            parts += [*panel.curve(points, colour), *panel.dots(points, colour)]
        parts += [line([(560, 56 + 18 * i), (580, 56 + 18 * i)], colour, 3)]
        parts += [text(587, 60 + 18 * i, f"budget {budget:g} RTT", "start")]
    body = "\n".join(parts)
    box = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n<style>{STYLE}</style>\n{body}\n</svg>\n'


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m relay.lab.sweep", description=__doc__)
    add_size(parser, 24_000, 2)
    parser.add_argument("out", type=Path, help="where the SVG goes")
    options = parser.parse_args()
    keys = [(budget, loss) for budget, _ in BUDGETS for loss in LOSSES]
    terms = [Terms(LinkConfig(delay_ms=RTT_MS / 2, loss=loss), round(b * RTT_MS)) for b, loss in keys]
    runs = outcomes(terms, packets=options.packets, seeds=options.seeds, jobs=options.jobs)
    options.out.write_text(picture(dict(zip(keys, runs, strict=True))))


if __name__ == "__main__":
    main()
