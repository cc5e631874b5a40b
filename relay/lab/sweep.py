"""Repair overhead and residual loss over the loss of a link and the budget, as a picture:
`python -m relay.lab.sweep docs/loss.svg`. Equal sizes give equal pictures.
"""

import argparse
from math import log10
from pathlib import Path

from relay.lab.crossing import Outcome, Terms
from relay.lab.grid import add_size, outcomes
from relay.lab.link import LinkConfig
from relay.lab.picture import COLOURS, GREY, Panel, line, svg, text

RTT_MS = 100
LOSSES = tuple(percent / 100 for percent in range(5, 45, 5))
BUDGETS = (1.0, 1.5, 2.0, 2.5, 4.0)
"""In round trips."""
WIDTH, HEIGHT = 900, 380


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
    for i, (budget, colour) in enumerate(zip(BUDGETS, COLOURS, strict=True)):
        mine = [(loss, got[budget, loss]) for loss in LOSSES]
        cost = [(loss, o.repair_ratio) for loss, o in mine]
        rest = [(o.repair_ratio, log10(o.residual_ratio) if o.lost else floor) for _, o in mine]
        for panel, points in ((costs, cost), (rests, rest)):
            parts += [*panel.curve(points, colour), *panel.dots(points, colour)]
        parts += [line([(560, 56 + 18 * i), (580, 56 + 18 * i)], colour, 3)]
        parts += [text(587, 60 + 18 * i, f"budget {budget:g} RTT", "start")]
    return svg(WIDTH, HEIGHT, parts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m relay.lab.sweep", description=__doc__)
    add_size(parser, 24_000, 2)
    parser.add_argument("out", type=Path, help="where the SVG goes")
    options = parser.parse_args()
    keys = [(budget, loss) for budget in BUDGETS for loss in LOSSES]
    terms = [Terms(LinkConfig(delay_ms=RTT_MS / 2, loss=loss), round(b * RTT_MS)) for b, loss in keys]
    runs = outcomes(terms, packets=options.packets, seeds=options.seeds, jobs=options.jobs)
    options.out.write_text(picture(dict(zip(keys, runs, strict=True))))


if __name__ == "__main__":
    main()
