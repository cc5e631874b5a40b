"""A node on a board that gets busier with each stream that comes in or goes out; for test_surge.

    python -m tests.integration.laden_node SHARE run --config FILE

SHARE is what one takes, of 1.
"""

import sys
from dataclasses import replace
from pathlib import Path

from relay.config.files import load
from relay.log import configure
from relay.node import Node, run_on_loop
from relay.services.surge import carried
from relay.wire.health import RATIO, Digest
from tests.integration.own_node import serve


async def main(share: float, config: Path) -> int:
    node = Node(load(config, {}), config)
    observe = node.machine.fleet.observe

    def laden(now_ns: int, facts: Digest) -> None:
        _, flows = carried(node.machine.streams.streams)
        load = min(round(share * flows * RATIO), RATIO)
        observe(now_ns, replace(facts, nic_load_permille=load, headroom_permille=RATIO - load))

    node.machine.fleet.observe = laden  # type: ignore[method-assign]
    return await serve(node)


if __name__ == "__main__":
    configure("text", "info")
    run_on_loop(main(float(sys.argv[1]), Path(sys.argv[-1])))
