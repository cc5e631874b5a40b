"""A cell of the grid on real sockets, short."""

from relay.lab.grid import CELLS
from relay.lab.real import table


def test_w1_on_real_sockets() -> None:
    """Bounds are wide: what this machine does meanwhile is part of it. `make lab` holds it to the target."""
    [w1] = [cell for cell in CELLS if cell.name == "W1"]
    [(_, got)] = table([w1], seconds=5, seed=1, jobs=1)  # a process of its own, as it sets up logging
    assert got.outcome.packets == 2000
    # The link alone would take 600. The congestion controller's false alarms are no matter of repair.
    assert got.outcome.lost - got.pacer_drops <= 20
    assert 0.43 <= got.outcome.repair_ratio <= 1
    assert got.late_p99_ms is not None
