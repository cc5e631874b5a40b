"""Many nodes in one process, started one after another at equal intervals; for test_surge.

    python -m tests.integration.crowd SECONDS FILE...

Of each FILE a node is run, which does not look at its board. SECONDS after the first one's start, and some
more for the last, it prints what refusals of its subscription took for each, in ms, as lists in JSON.
"""

import asyncio
import json
import sys
from pathlib import Path

from relay.config.files import load
from relay.log import configure
from relay.node import Node, run_on_loop
from relay.wire.health import Digest
from tests.sim.ear import Ear

SETTLE_S = 2.0


async def main(seconds: float, files: list[Path]) -> int:
    loop = asyncio.get_running_loop()
    nodes = [Node(load(file, {}), file) for file in files]
    for node in nodes:
        node.observer.board.read = lambda now_ns: Digest()  # type: ignore[method-assign]
    ears = [Ear(node.machine) for node in nodes]
    began = loop.time()
    for i, node in enumerate(nodes):
        await asyncio.sleep(began + i * seconds / len(nodes) - loop.time())
        await node.start()
    await asyncio.sleep(SETTLE_S)
    print(json.dumps([[ns / 1e6 for ns in ear.waits_ns()] for ear in ears]))
    for node in nodes:
        await node.stop()
    return 0


if __name__ == "__main__":
    configure("text", "info")
    run_on_loop(main(float(sys.argv[1]), [Path(file) for file in sys.argv[2:]]))
