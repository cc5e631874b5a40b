"""From loads that were offered to what a node carries: arithmetic, and the choice of the next load.

The cost of a packet is taken from the heaviest load that was carried whole, and what a core carries at SHARE
of its time is computed from it. Heavier loads fill larger batches and cost less a packet, so the figure errs
on the low side, except where the packet thread had to wait for a CPU: that fills batches too. Then that load
is offered: a figure is "reached" where it, or nearly, was carried, and "calculated" where the load generator,
which needs CPU too, came no further.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from relay.bench.rig import LOSS, PACKET_BYTES, STREAM_PPS, Round

SHARE: Final = 0.8
"""Of a core's time that the packet thread is planned to use: above it, queues and delays grow."""
CARRIED: Final = 1e-3
"""Share of lost packets up to which a load counts as carried: a busy machine takes a CPU away for a while."""
REACHED: Final = 0.9
"""Of a calculated figure, from which on it counts as reached."""
STARVED: Final = 0.1
"""Of the time that a packet thread was ready and had no CPU, from which on losses are laid on that."""
EXCESS_LOSS: Final = 0.03
"""Of a link that should lose LOSS: beyond it the link was a bottleneck itself."""

Limit = Literal["packet_thread", "receive_buffer", "send_buffer", "packet_memory", "network_card"]
Obstacle = Literal["load_generator", "cores", "loss"]

BUFFERS: Final[Mapping[str, Limit]] = {
    "rx_kernel_drops": "receive_buffer",
    "tx_would_block": "send_buffer",
    "tx_no_buffers": "send_buffer",
    "slabs_exhausted": "packet_memory",
    "tx_overflow": "packet_memory",
}


@dataclass(frozen=True)
class Capacity:
    """What one node of a rig carries with one packet thread; packets and bits are those that it forwards."""

    role: str
    cpu_ns_per_packet: float
    packets_per_second: float
    reached_packets_per_second: float
    """The heaviest load that was carried whole."""
    waited_ratio: float
    """Share of that load's time in which the packet thread was ready and had no CPU."""
    lost: int
    """Packets of that load."""
    reached: bool
    not_reached_because: Obstacle | None
    limit: Limit
    sent_bytes_per_packet: float
    network_card_streams: int | None
    """Streams of 2 Mb/s that fill the fastest network card; None where there is none whose speed is known."""

    @property
    def mbps(self) -> float:
        return self.packets_per_second * PACKET_BYTES * 8 / 1e6

    @property
    def streams(self) -> int:
        return int(self.packets_per_second / STREAM_PPS)

    @property
    def reached_streams(self) -> int:
        return int(self.reached_packets_per_second / STREAM_PPS)


def carried(load: Round) -> bool:
    return load.arrived > 0 and load.lost <= CARRIED * load.expected


def cost_ns(load: Round, role: str, fan: int) -> float:
    """CPU time a forwarded packet."""
    return load.cpu_ns[role] / max(load.offered * fan, 1)


def affordable(load: Round) -> float:
    """Packets/s in, at which the busiest node of the rig would use SHARE of a core."""
    return SHARE * 1e9 * load.offered / max(*load.cpu_ns.values(), 1)


def search(
    offer: Callable[[float, float], Round], first_pps: float, first_seconds: float, seconds: float, tries: int
) -> list[Round]:
    """Offers loads, a light one first, then up to `tries` more, to find the heaviest that is carried."""
    loads = [offer(first_pps, first_seconds)]
    wanted = affordable(loads[0])
    for _ in range(tries):
        load = offer(wanted, seconds)
        loads.append(load)
        rate = load.offered / load.seconds
        if not carried(load):
            wanted = rate / 2
        elif rate < REACHED * wanted or affordable(load) < rate / REACHED:
            break  # the generator comes no further, or this is it
        else:
            wanted = affordable(load)
    return loads


def judge(loads: Sequence[Round], fan: int, network_mbps: int | None) -> list[Capacity]:
    """What each node of a rig carries, from the loads that were offered to it."""
    whole = [load for load in loads if carried(load)]
    best = max(whole or loads[:1], key=lambda load: load.offered / load.seconds)
    rate = best.offered * fan / best.seconds if whole else 0.0
    failed = [load for load in loads if not carried(load) and load.offered / load.seconds * fan > rate]
    result = []
    for role in best.cpu_ns:
        cost = cost_ns(best, role, fan)
        pps = SHARE * 1e9 / max(cost, 1.0)
        sent = best.bytes_sent[role] / max(best.offered * fan, 1)
        reached = rate >= REACHED * pps
        result.append(
            Capacity(
                role=role,
                cpu_ns_per_packet=cost,
                packets_per_second=pps,
                reached_packets_per_second=rate,
                waited_ratio=best.waited_ns[role] / 1e9 / best.seconds,
                lost=best.lost,
                reached=reached,
                not_reached_because=None if reached else _obstacle(failed),
                limit=_limit(failed, role, sent * 8 * pps / 1e6, network_mbps),
                sent_bytes_per_packet=sent,
                network_card_streams=(
                    int(network_mbps * 1e6 / 8 / sent / STREAM_PPS) if network_mbps and sent else None
                ),
            )
        )
    return result


def _starved(load: Round) -> bool:
    return max(load.waited_ns.values()) > STARVED * load.seconds * 1e9


def _obstacle(failed: Sequence[Round]) -> Obstacle:
    if not failed or any(load.link_loss > LOSS + EXCESS_LOSS for load in failed):
        return "load_generator"
    return "cores" if any(map(_starved, failed)) else "loss"


def _limit(failed: Sequence[Round], role: str, sent_mbps: float, network_mbps: int | None) -> Limit:
    for load in failed:
        if load.cpu_ns[role] < SHARE * load.seconds * 1e9 and not _starved(load):
            for name in load.refused:
                return BUFFERS[name]
    return "network_card" if network_mbps and sent_mbps > network_mbps else "packet_thread"
