"""A node in a process of a test's own making, which has changed something of it."""

import asyncio
import signal

from relay.node import Node


async def serve(node: Node) -> int:
    """Runs it until SIGTERM."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, node.done.set)
    try:
        await node.start()
        await node.done.wait()
    finally:
        await node.stop()
    return 0
