"""A whole node without sockets: peers whose names have no address yet."""

import random
from pathlib import Path

from relay.config import Address, parse
from relay.core.noise import public_key
from relay.lab.virtual import MemoryStore
from relay.services.machine import Machine, Outside
from relay.services.shards import Shards
from relay.services.uplinks import Binding

STATIC = bytes(range(32))
TEXT = """
[node]
name = "edge"
[hop]
listen = "127.0.0.1:7400"
[[hop.peers]]
name = "region"
address = "region.example:7400"
public_key = "pnZHmVVK+Imyp+Fw1yw57GWyd5oYZ7l1KNV7Fjy7ZTY="
"""


class NoPorts:
    def open(self, address: Address, shard: int) -> int:
        raise AssertionError("nothing enters or leaves here")

    def close(self, port: int, shard: int) -> None:
        raise AssertionError("nothing was opened")

    def open_uplink(self, number: int, binding: Binding) -> None:
        raise AssertionError("there is one way out")

    def close_uplink(self, number: int) -> None:
        raise AssertionError("nothing was opened")


def no_file(path: Path) -> str:
    raise AssertionError(f"{path} is not to be read")


def test_a_peer_is_called_once_its_name_has_an_address() -> None:
    shards = Shards(public_key(STATIC))
    [plane] = shards.planes
    outside = Outside(
        shards=shards,
        ports=NoPorts(),
        random_bytes=random.Random(1).randbytes,
        resolve=lambda host, port: (),
        index_of=lambda _: None,
        routes=lambda: (),
        read=no_file,
        store=MemoryStore(),
        wall_clock=lambda: 0.0,
        look=lambda: None,
    )
    machine = Machine(parse(TEXT, {}), outside, static=STATIC)
    machine.start(0)
    assert machine.hops is not None
    assert [peer.name for peer in machine.unresolved] == ["region"]
    assert plane.poll(1)[0] == []
    machine.resolved(2, machine.unresolved[0], [("192.0.2.7", 7400)])
    assert machine.unresolved == []
    assert [to for _, to, _ in plane.poll(2)[0]] == [("192.0.2.7", 7400)]
    assert [hop.upstream for hop in machine.hops.hops.values()] == [True]
    plane.close()
