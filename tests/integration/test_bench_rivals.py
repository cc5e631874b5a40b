"""A run of `make lab-peers` with this program's nodes, as short as it can be, over a link without loss."""

from tests.benchmarks.rivals.cell import RATE, Terms, run
from tests.benchmarks.rivals.programs import RIVALS


def test_a_run_with_nothing_lost() -> None:
    [number] = [i for i, rival in enumerate(RIVALS) if rival.name == "Edge Relay"]
    row = run(number, Terms("no loss", 0.0, 10, 100, 0.3, 1))
    assert row.outcome is not None, row.failure
    fates = row.outcome.fates
    assert (fates.packets, fates.lost, fates.damaged) == (0.3 * RATE, 0, 0)
    assert (
        1 < row.outcome.forward_ratio < 2
    )  # 0.3 s of repair as for the worst: nothing has been reported yet
    assert row.outcome.kernel_drops == 0
