"""A stream through the machines: an encoder sends to the edge, a player gets it from the region."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from tests.deploy.machine import HERE
from tests.integration.nodes import Sender, receiver, sender, wait_for
from tests.integration.test_handover import numbered
from tests.integration.test_service import Player, more

INGEST, PLAYER = 5004, 6004
RATE = 400
PACKET_BYTES = 200  # as all are kept: two minutes of them are 10 MB


class Harm:
    """What something cost the stream."""

    lost = 0
    """Packets."""
    pause = 0.0
    """The longest time without media, s."""


class Stream:
    """Every packet says which it is."""

    def __init__(self, source: Sender, player: Player) -> None:
        self._source, self._player = source, player

    @contextmanager
    def meanwhile(self, what: str) -> Iterator[Harm]:
        """The harm is known when media flows again afterwards, and printed."""
        more(self._player)
        mark, first = len(self._player.packets), self._source.seq + 1  # the one before may have come already
        harm = Harm()
        yield harm
        more(self._player)
        last = self._source.seq

        def numbers() -> list[int]:
            return [int.from_bytes(packet[12:20], "big") for packet in self._player.packets[mark:]]

        wait_for("what was sent since", lambda: numbers()[-1] >= last)
        harm.lost = len(set(range(first, last)) - set(numbers()))
        harm.pause = max(b - a for a, b in pairwise(self._player.times[mark:]))
        print(f"\n{what}: {harm.lost} packets lost, {harm.pause * 1000:.0f} ms without media", end=" ")


@contextmanager
def streaming(edge: str) -> Iterator[Stream]:
    """To the edge at that address, from a region that sends to here."""
    with receiver(PLAYER, HERE) as sock:
        player = Player(sock)
        try:
            with sender(INGEST, edge, RATE) as source, numbered(source, PACKET_BYTES):
                yield Stream(source, player)
        finally:
            player.stop()
