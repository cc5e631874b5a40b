"""The hops of a node that listens to no message."""

import random

from relay.core.handshake import Identity
from relay.services.hops import Hops
from relay.services.shards import Shards


def quiet_hops(shards: Shards, identity: Identity) -> Hops:
    """What comes to them is dropped; equal calls draw equal random bytes."""
    return Hops(
        shards,
        identity,
        port=0,
        max_overhead=1.0,
        budget_ms=200,
        random_bytes=random.Random(1).randbytes,
        on_message=lambda now_ns, hop, message: None,
        on_state=lambda now_ns, hop, fresh: None,
        on_heard=lambda now_ns, hop: None,
    )
