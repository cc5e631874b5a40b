"""A node on a board that gets busier with each stream that it sends somewhere; for test_surge.

    python -m tests.integration.laden_node SHARE run --config FILE

SHARE is what one takes, of 1.
"""

import asyncio
import signal
import sys
from dataclasses import replace
from pathlib import Path

from relay.config.files import load
from relay.log import configure
from relay.node import Node, run_on_loop
from relay.wire.health import RATIO, Digest


async def main(share: float, config: Path) -> int:
    node = Node(load(config, {}), config)
    read = node.observer.board.read

    def laden(now_ns: int) -> Digest:
        sent = sum(len(stream.publications) for stream in list(node.machine.streams.streams.values()))
        return replace(read(now_ns), nic_load_permille=min(round(share * sent * RATIO), RATIO))

    node.observer.board.read = laden  # type: ignore[method-assign]
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, node.done.set)
    try:
        await node.start()
        await node.done.wait()
    finally:
        await node.stop()
    return 0


if __name__ == "__main__":
    configure("text", "info")
    run_on_loop(main(float(sys.argv[1]), Path(sys.argv[-1])))
